"""The trainer: a mixture-of-experts language model shaped like DBRX, fed by shards and a plan. Knows nothing of Spark or flows.

Letters in shapes, besides those of `kernels`: B sequences, L sequence length, S keys that a query may see, H query heads,
G key and value heads, C channels of a head, V vocabulary, N predicted tokens.
"""
