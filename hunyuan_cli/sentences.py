"""An error in the words of a person: what went wrong and what to do."""

import errno
import shlex
import sys

from model.errors import HunyuanError, missing_compiler


def sentence(error: Exception, arguments: list[str]) -> str:
    """What went wrong and what to do, in one sentence."""
    torch = sys.modules.get("torch")
    if isinstance(error, HunyuanError):
        return one_line(str(error))
    if said := missing_compiler(error):
        return said
    # The second are torch's words on a processor.
    out_of_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    if out_of_memory or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return "the device is out of memory: lower the batch size or the sequence length, or take a smaller model"
    if isinstance(error, OSError) and error.strerror:
        where = f"'{error.filename}': " if error.filename else ""
        full = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space",
            errno.EFBIG: "raise its limit (ulimit -f)",
        }
        advice = f", {full[error.errno]} or write elsewhere" if error.errno in full else ""
        return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}{advice}"
    what = one_line(f"{type(error).__name__}: {error}")
    return f"this is a bug in hunyuan ({what}); rerun as hunyuan --debug {shlex.join(arguments)} to see where"


def one_line(text: str) -> str:
    return " ".join(text.split())
