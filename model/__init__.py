"""The trainer: a mixture-of-experts language model shaped like DBRX, fed by shards and a plan. Knows nothing of Spark
or flows.

    __main__        `python -m model SHARDS RUN`: a run alone, or one rank of it
    settings        what a run is told besides its data
    train           a run: every step, evaluation and checkpoint of it
    data            plan and position to samples, samples to batches
    shards          reader of MDS files
    source          shards in an object store
    samples         the same samples for other people's trainers, through stock Streaming
    transformer     the network, but for
    attention       attention inside documents, and
    moe             router and experts, or one dense layer
    cudnn           attention by cuDNN, where its frontend is installed
    pieces          what lies between large operators, compiled on a GPU
    loss            cross-entropy without the logits in memory
    initial         weights before the first step
    optim           AdamW and the phases of the learning rate
    step            an optimiser step, in micro-batches if need be
    division        how ranks divide a step where memory ran out
    trouble         steps that are skipped, and why
    parallel        several processes that train one model
    sizing          bytes on each GPU by kind, before anything is made
    fitting         which parallelism fits a model, what it sends, how fast that is likely to be
    capture         steps as CUDA graphs
    speed           what the machine could do
    trace           where a step's time goes
    result          what a run ends with
    identity        what a run was made with
    checkpoint      what a killed run goes on from
    writer          checkpoints beside steps
    lock            one trainer at a time in a run's folder
    tensors         files of weights, written and read in parts
    ledger          metrics, and what each document cost in which step
    evaluate        held-out bits per byte
    generate        a prompt continued

Letters in shapes, besides those of `kernels`: B sequences, L sequence length, S keys that a query may see, H query
heads, G key and value heads, C channels of a head, V vocabulary, N predicted tokens.
"""

import os

# OpenMP's threads wait for each other by spinning, for milliseconds unless told otherwise. Where another process has
# the core, that is wasted: with load 7 on 2 cores a step took over 10 s, with this 2 to 4 s. Read when torch is first
# imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
