"""Order, restart, schedule: which step runs, when, and whether it has to."""
