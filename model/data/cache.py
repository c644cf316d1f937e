"""The cache folder: files named by what they were made from, written aside and renamed when they are complete."""

import os
from collections.abc import Iterable
from pathlib import Path

from model import files
from model.errors import DataError


def cache_folder(cache_dir: str = "") -> Path:
    """The folder that data.cache_dir, $HUNYUAN_CACHE or $XDG_CACHE_HOME names, in this order."""
    try:
        if chosen := cache_dir or os.environ.get("HUNYUAN_CACHE"):
            return Path(chosen).expanduser()
        if base := os.environ.get("XDG_CACHE_HOME"):
            return Path(base) / "hunyuan"
        return Path.home() / ".cache" / "hunyuan"
    except RuntimeError as error:
        raise DataError(f"no folder for the cache ({error}): set data.cache_dir or HUNYUAN_CACHE") from error


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """All of it or nothing: a write that is interrupted leaves what was there before, for other processes too."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_file(path, chunks)
    except OSError as error:
        raise DataError(
            f"the cache {path.parent} cannot be written ({error.strerror or error}): "
            "set data.cache_dir or HUNYUAN_CACHE to a folder with room"
        ) from error
