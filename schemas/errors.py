"""What a command says of data, in one place for all rooms: the recipe is right, what it is given is not."""


class DataError(ValueError):
    """Sources, tables or files do not hold what is needed: the message names the place, what was expected and found."""


class GateClosed(RuntimeError):
    """A delivery differs too much from the last one that was accepted."""
