"""Exit codes of the command line, so that a scheduler tells apart what to do. Imports nothing: known from the start."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """3 (a change hurts) is kept for a command to come."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    RECIPE = 10
    DATA = 11
    BUSY = 12
    DISK = 13
    STOPPED = 14
    GATE = 15


MEANINGS = {
    Exit.DONE: "done, or nothing to do",
    Exit.USAGE: "no such command, argument or option",
    Exit.RECIPE: "the recipe is wrong; the message names the field",
    Exit.DATA: "sources, tables or files do not hold what the command needs",
    Exit.BUSY: "another run works in the home folder: try again later",
    Exit.DISK: "the disk is full: free some space, and the same command goes on",
    Exit.STOPPED: "stopped by a signal (Ctrl-C, SIGTERM): the same command goes on",
    Exit.GATE: "gate closed: a delivery differs from the last accepted one; look, then flows accept",
    Exit.FAULT: "anything else",
}
