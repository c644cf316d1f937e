"""requests.jsonl: what a model has answered already, a line a request, so that nothing is asked twice of the same model.

A line is handed to the system when its batch is finished. A process may be killed at any moment: a line that it cut short is
dropped when the file is read again.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from model.checkpoint.load import locate
from model.errors import DataError
from model.files import write_file

FILE_NAME = "requests.jsonl"


def identity(folder: Path, **how: Any) -> str:
    """Tells one model from another: names, sizes and times of its files, and how it is read (its precision, for one)."""
    found = locate(folder)
    files = sorted({*found.weights.glob("*.safetensors"), *found.home.glob("*.json"), *found.home.glob("*.jinja")})
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([facts, how], sort_keys=True).encode()).hexdigest()


class Ledger:
    """Answers by key. Without a folder they are kept for as long as the process lives."""

    def __init__(self, folder: Path | None, model: str) -> None:
        """`model` is the identity of the model; answers of others stay in the file, unread."""
        self._model, self._file = model, None
        self._answers: dict[str, Any] = {}
        if folder is None:
            return
        path = folder / FILE_NAME
        try:
            if path.exists():
                self._read(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be opened: {error.strerror}; choose another folder with --out") from error

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) != len(content):
            write_file(path, whole)
        for number, line in enumerate(whole.decode("utf-8", errors="replace").splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = entry["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number} is damaged: remove the line, or the file") from error

    def key(self, kind: str, *parts: Any) -> str:
        """The name of a request: a function of the model and of all that its answer depends on."""
        text = json.dumps([self._model, kind, *parts], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:32]

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def add(self, answers: Iterable[tuple[str, Any]]) -> None:
        """Keeps answers that JSON can hold; those that are there already are not written again."""
        new = [(key, answer) for key, answer in answers if key not in self._answers]
        self._answers |= dict(new)
        if self._file is not None and new:
            lines = (json.dumps({"key": key, "answer": answer}, ensure_ascii=True) + "\n" for key, answer in new)
            self._file.write("".join(lines))
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
