"""Where programs that a model has written are run: filters, rewards and evaluation call `run`, and nothing else does.

`pool` keeps small clean servers, `server` forks a process for each program, `child` gives up its rights layer by layer
(`kernel`, `seccomp`) and runs it.
"""

from model.data.confinement.pool import ConfinementError, Level, Outcome, close, level, require, run

__all__ = ["ConfinementError", "Level", "Outcome", "close", "level", "require", "run"]
