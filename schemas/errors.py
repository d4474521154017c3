"""What a command says of data, in one place for all rooms: the recipe is right, what it is given is not."""

FAULT, DATA, BUSY, DISK, STOPPED = 1, 11, 12, 13, 14  # exit codes, of `flows` and of the trainer alone


class DataError(ValueError):
    """Sources, tables or files do not hold what is needed: the message names the place, what was expected and found."""


class GateClosed(RuntimeError):
    """A delivery differs from the last accepted one of its source by more than the recipe's limits: the message says in
    what, by how much, which documents moved it, and both ways on."""


class RunBusy(RuntimeError):
    """Another trainer works in this run's folder: the message names it."""


class Stopped(RuntimeError):
    """A signal asked the trainer to end: it saved, and the same command goes on."""
