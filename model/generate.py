"""Continue a prompt, one token at a time, with the keys and values of earlier tokens kept."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.attention import KeyValues, Packing
from model.transformer import Transformer
from schemas.training import ModelConfig


def load(folder: Path) -> Transformer:
    """A trained model from its `final` folder: weights.safetensors and config.json; nothing is unpickled."""
    about = json.loads((folder / "config.json").read_text())
    with torch.device("meta"):
        model = Transformer(ModelConfig(**about["model"]), about["vocab_size"])
    model.load_state_dict(load_file(folder / "weights.safetensors"), assign=True)
    return model.eval()


@torch.inference_mode()
def sample(
    model: Transformer, prompt_ids: list[int], n_tokens: int, temperature: float, top_k: int, seed: int, eot: int
) -> list[int]:
    """At most `n_tokens` ids that follow the prompt, which starts with `eot` as every document does; ends before
    another `eot`.

    Temperature 0 takes the likeliest token; else one is drawn from the `top_k` likeliest (0: from all).
    """
    device = model.head.weight.device
    generator, past = torch.Generator().manual_seed(seed), KeyValues(len(model.blocks))
    ids, new = list(prompt_ids), []
    for _ in range(n_tokens):
        tokens_BL = torch.tensor([ids], device=device)
        states_TD = model(tokens_BL, one_segment(tokens_BL, past.length), past=past).states_TD
        chosen = choose(model.logits(states_TD[-1]).float().cpu(), temperature, top_k, generator)
        if chosen == eot:
            break
        new.append(chosen)
        ids = [chosen]
    return new


def one_segment(tokens_BL: Tensor, first: int = 0) -> Packing:
    """The packing of one row that is one segment, of which `first` places lie before it."""
    length = tokens_BL.shape[1]
    positions_BL = torch.arange(first, first + length, device=tokens_BL.device)[None]
    bounds_S = torch.tensor([0, length], device=tokens_BL.device, dtype=torch.int32)
    return Packing(positions_BL, torch.zeros_like(tokens_BL), bounds_S, length)


def choose(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """One token id."""
    if temperature == 0:
        return int(logits_V.argmax())
    best, ids = logits_V.topk(min(top_k or len(logits_V), len(logits_V)))
    return int(ids[torch.multinomial((best / temperature).softmax(-1), 1, generator=generator)])
