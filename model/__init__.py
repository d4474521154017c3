"""The trainer: a mixture-of-experts language model shaped like DBRX, fed by shards and a plan. Knows nothing of Spark
or flows.

Letters in shapes, besides those of `kernels`: B sequences, L sequence length, S keys that a query may see, H query
heads, G key and value heads, C channels of a head, V vocabulary, N predicted tokens.
"""

import os

# OpenMP's threads wait for each other by spinning, for milliseconds unless told otherwise. Where another process has
# the core, that is wasted: with load 7 on 2 cores a step took over 10 s, with this 2 to 4 s. Read when torch is first
# imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
