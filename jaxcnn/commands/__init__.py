"""The commands: a module for each, with its dataclass and ``run``, which returns the exit code."""
