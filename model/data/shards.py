"""Token shards: the tokens of one side of one source in a flat file, memory-mapped, and a .json that describes it.

Every document's tokens are followed by the end-of-text token. Ids are little-endian uint16 where the vocabulary allows
it, else uint32. The .json is written last and holds the sha256 of the .bin, so that a shard that was cut short
or altered is never taken for a whole one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model.data.cache import write_file
from model.data.split import cut
from model.tokenizer.interface import TextTokenizer

BATCH_CHARS = 4_000_000  # text encoded in one call, over all cores
LONG_DOCUMENT_CHARS = 250_000  # longer ones are encoded in pieces, so that memory is bounded and every core has work


@dataclass(frozen=True)
class TokenShard:
    tokens: Any = field(
        repr=False
    )  # (N,) uint16 or uint32, memory-mapped; or a task's, made where they are read (tasks.py)
    documents: int
    text_bytes: int  # UTF-8 bytes of the documents
    fingerprint: str  # of the text, the split and the tokenizer
    document_length: int = 0  # tokens of each document, where all have as many: those of a generated task

    def __len__(self) -> int:
        return len(self.tokens)


def write_shard(
    path: Path,
    texts: Iterable[str],
    tokenizer: TextTokenizer,
    fingerprint: str,
    on_progress: Callable[[int], None] = lambda text_bytes: None,
) -> None:
    """Encodes the texts into `path`.bin and .json; `on_progress` takes the bytes of text encoded so far."""
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    digest = hashlib.sha256()
    tokens = documents = text_bytes = 0

    def chunks() -> Iterator[bytes]:
        nonlocal tokens, documents, text_bytes
        for batch in _batches(texts):
            encoded = tokenizer.encode_batch([piece for piece, _ in batch])
            for (piece, ends_document), ids in zip(batch, encoded, strict=True):
                if ends_document:
                    ids.append(tokenizer.eos_id)
                    documents += 1
                chunk = np.array(ids, dtype).tobytes()
                tokens += len(ids)
                text_bytes += len(piece.encode())
                digest.update(chunk)
                yield chunk
            on_progress(text_bytes)

    write_file(path.with_suffix(".bin"), chunks())
    meta = {
        "dtype": dtype,
        "tokens": tokens,
        "documents": documents,
        "text_bytes": text_bytes,
        "fingerprint": fingerprint,
        "sha256": digest.hexdigest(),
    }
    write_file(path.with_suffix(".json"), [json.dumps(meta).encode()])


def open_shard(path: Path, fingerprint: str) -> TokenShard | None:
    """The shard at `path`.bin; None where there is none, or not a whole one of this content."""
    try:
        meta = json.loads(path.with_suffix(".json").read_bytes())
        tokens = np.memmap(path.with_suffix(".bin"), dtype=meta["dtype"], mode="r")
        shard = TokenShard(tokens, meta["documents"], meta["text_bytes"], meta["fingerprint"])
        intact = hashlib.sha256(tokens.data).hexdigest() == meta["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shard if intact and shard.fingerprint == fingerprint else None


def _batches(texts: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of text with whether each ends its document, about BATCH_CHARS of them at a time."""
    batch: list[tuple[str, bool]] = []
    chars = 0
    for text in texts:
        pieces = list(cut(text, LONG_DOCUMENT_CHARS))
        for index, piece in enumerate(pieces, start=1):
            batch.append((piece, index == len(pieces)))
            chars += len(piece)
            if chars >= BATCH_CHARS:
                yield batch
                batch, chars = [], 0
    if batch:
        yield batch
