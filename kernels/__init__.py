"""Expert layers. Torch and triton only; `reference.py` is the definition of every operation in plain torch.

    layer           `experts` and `route`, one differentiable call each, and the choice of the kernels behind them
    hopper/         the path for sm_90, in Gluon
    blocksparse/    the portable path, in Triton
    reference       the definition of every operation, in plain torch
    topology        where rows and blocks lie, for both
    router          softmax, top-k and load-balancing statistics in one kernel
    cross_entropy   the loss of a head's logits and its gradient, in place
    adamw           the update of a weight
    operator        launches as operators of torch, for torch.compile alone

Letters in shapes, here and in `model`: T tokens, D model dim, F hidden dim of one expert, E experts, K experts a token
(top_k), R = T * K rows, one for each token and chosen expert.
"""

from kernels.layer import choose, experts, route

__all__ = ["choose", "experts", "route"]
