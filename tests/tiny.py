"""A model and held-out documents small enough for a test."""

import numpy as np

from schemas.training import ModelConfig

TINY = ModelConfig(layers=2, d_model=32, heads=4, kv_heads=2, experts=4, top_k=2, d_expert=16, init_std=0.2, rope_theta=500.0, clip_qkv=1.5)
VOCAB = 61


def heldout_documents(lengths=(2, 3, 9, 16, 17, 40, 71)):
    random = np.random.default_rng(0)
    return [{"domain": "code" if n % 2 else "docs", "n_bytes": 3 * n, "tokens": np.array([0, *random.integers(1, VOCAB, n - 2), 0])} for n in lengths]
