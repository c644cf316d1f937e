"""The mistakes a user can make, as exceptions: one sentence saying what is wrong, with which value, and what to change.

The command line prints the sentence and exits with status 1; a library user catches HunyuanError or one of its kinds.
"""


class HunyuanError(Exception):
    """Something the user can put right."""


class ConfigError(HunyuanError):
    """A configuration that cannot be built; `problems` holds every fault found, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        heading = "" if len(problems) == 1 else f"{len(problems)} settings cannot be used: "
        super().__init__(heading + "; ".join(problems))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:  # an error may come from another process
        return type(self), (self.problems,)


class DataError(HunyuanError):
    """Input text that cannot be found, read or decoded."""


class CheckpointError(HunyuanError):
    """A run folder or checkpoint that is missing, damaged, or cannot be written."""


class TrainingError(HunyuanError):
    """Training that had to stop: a non-finite loss or gradient, for example."""


class PeerError(HunyuanError):
    """Another process of the same run failed, and says why."""


class EndpointError(HunyuanError):
    """An endpoint that cannot be asked any further: a wrong key, no money left, nobody there."""


class MissingExtraError(HunyuanError):
    """An optional package that the request needs is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': install it with pip install 'hunyuan[{extra}]'")
        self._arguments = (package, extra, purpose)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), self._arguments


def missing_compiler(error: BaseException) -> str | None:
    """What to do where torch.compile found no compiler, in a sentence; None for any other error.

    torch wraps this error in several kinds, so that its words are what tells.
    """
    if not any(words in str(error) for words in ("No working C++ compiler found", "Failed to find C compiler")):
        return None
    return (
        "torch.compile found no C++ compiler: install one, such as g++, or name it in the variable CXX; or leave out "
        "--compile or training.compile"
    )
