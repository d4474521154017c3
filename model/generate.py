"""Continue a prompt, one token at a time, with the keys and values of earlier tokens kept."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.transformer import KeyValues, Transformer
from schemas.training import ModelConfig


def load(folder: Path) -> Transformer:
    """A trained model from its `final` folder: weights.safetensors and config.json; nothing is unpickled."""
    about = json.loads((folder / "config.json").read_text())
    model = Transformer(ModelConfig(**about["model"]), about["vocab_size"])
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()


@torch.inference_mode()
def sample(
    model: Transformer, prompt_ids: list[int], n_tokens: int, temperature: float, top_k: int, seed: int, eot: int
) -> list[int]:
    """At most `n_tokens` ids that follow the prompt, which starts with `eot` as every document does; ends before
    another `eot`.

    Temperature 0 takes the likeliest token; else one is drawn from the `top_k` likeliest (0: from all).
    """
    device = model.head.device
    generator, past = torch.Generator().manual_seed(seed), KeyValues(len(model.blocks))
    ids, new = list(prompt_ids), []
    for _ in range(n_tokens):
        tokens = torch.tensor([ids], device=device)
        positions = torch.arange(past.length, past.length + len(ids), device=device)[None]
        states = model(tokens, torch.zeros_like(tokens), positions, past).states_BLD
        chosen = choose(model.logits(states[0, -1]).float().cpu(), temperature, top_k, generator)
        if chosen == eot:
            break
        new.append(chosen)
        ids = [chosen]
    return new


def choose(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """One token id."""
    if temperature == 0:
        return int(logits_V.argmax())
    best, ids = logits_V.topk(min(top_k or len(logits_V), len(logits_V)))
    return int(ids[torch.multinomial((best / temperature).softmax(-1), 1, generator=generator)])
