"""Spark's daemon of Python workers (`spark.python.daemon.module`): imports what they need once, then forks them.

A worker of Spark's own daemon imports it all itself, and after each task the garbage collector walks all of it: 0.1 s a
task, on 2 cores 6 % of a run over 900 MB. What is frozen here before the fork is walked by no worker and shared by all.
The imports start threads of Arrow, its allocator and BLAS; all three have handlers of their own for a fork, and none
has work before it.
"""

import gc

import pyspark.worker  # noqa: F401
from pyspark.daemon import manager

import pipelines.decontaminate.overlap
import pipelines.dedup.dedup
import pipelines.edits.edits
import pipelines.readers.ingest
import pipelines.shards.tokens
import pipelines.signals.measure  # noqa: F401

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    manager()
