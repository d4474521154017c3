"""Expert layers. Torch and triton only; `reference.py` is the definition of every operation in plain torch.

    layer.py        `experts` and `route`, one differentiable call each, and the choice of the kernels behind them
    hopper/         the path for sm_90, in Gluon
        choices.py      sizes and order of tiles by shape
        operators.py    what the layer launches, as operators of torch
        launch.py       descriptors, launches, compiling ahead
        rows.py         rows x their expert's weights, and SwiGLU
        dact.py         the derivative of SwiGLU behind its product
        outer.py        weight gradients
        tiles.py        order, loading and sums of tiles, for rows and dact
        ring.py         slots of shared memory between a loader and consumers, for all three
    blocksparse/    the portable path, in Triton
        products.py     sdd, dsd and dds: block-sparse products, differentiable
        rows.py         rows x their expert's weights
        outer.py        weight gradients
        glu.py          gate, linear, SwiGLU and its derivative
        tokens.py       from tokens to rows and back, for both paths
        tiles.py        what kernels of products share
    topology.py     where rows and blocks lie, for both
    router.py       softmax, top-k and load-balancing statistics in one kernel

Letters in shapes, here and in `model`: T tokens, D model dim, F hidden dim of one expert, E experts, K experts a token
(top_k), R = T * K rows, one for each token and chosen expert.
"""

from kernels.layer import choose, experts, route

__all__ = ["choose", "experts", "route"]
