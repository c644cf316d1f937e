"""The command line: one thin file a command; the work itself is in `analyses` and `model`.

Those two are common names: with PYTHONPATH=. a user's own model.py would be imported in place of the package that belongs to
this program. Folders that hold such a module are moved to the end of the search path of this process, and of those it starts.
"""

import sys
from importlib.machinery import PathFinder
from os.path import realpath

_HOME = realpath(f"{__path__[0]}/..")  # to load pathlib would take longer than all of this


def _holds_another(folder: str) -> bool:
    """Whether `model` or `analyses` would be found in that folder, and it is not ours."""
    found = (PathFinder.find_spec(name, [folder]) for name in ("model", "analyses"))
    return realpath(folder) != _HOME and any(spec is not None and spec.origin is not None for spec in found)


_others = [folder for folder in sys.path if _holds_another(folder)]
if _others:
    _kept = [folder for folder in sys.path if folder not in _others]
    sys.path[:] = [*_kept, *([] if _HOME in map(realpath, _kept) else [_HOME]), *_others]
