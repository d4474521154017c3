"""Spark's daemon of Python workers (`spark.python.daemon.module`): imports what they need once, then forks them.

A worker of Spark's own daemon imports it all itself, and after each task the garbage collector walks all of it: 0.1 s a task,
on 2 cores 6 % of a run over 900 MB. What is frozen here before the fork is walked by no worker and shared by all. The imports
start threads of Arrow, its allocator and BLAS; all three have handlers of their own for a fork, and none has work before it.
"""

import gc

import pyspark.worker  # noqa: F401
from pyspark.daemon import manager

import pipelines.decontaminate
import pipelines.dedup
import pipelines.edits
import pipelines.ingest
import pipelines.measure
import pipelines.tokens  # noqa: F401

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    manager()
