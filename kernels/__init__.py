"""Expert layers. Torch and triton only; `reference.py` is the definition of every operation in plain torch.

Letters in shapes, here and in `model`: T tokens, D model dim, F hidden dim of one expert, E experts, K experts a token
(top_k), R = T * K rows, one for each token and chosen expert.
"""
