"""The corpus of a run: every source read, split, tokenized and mapped.

    sources -> documents -> train | validation -> tokenizer (of the training text) -> token shards, in the cache

The first pass over the text decides the split and takes the sha256 of every document. Tokenizer and shards are named by
what they were made from, so a second start ends there; only what is missing costs a further pass. Text is held in
memory a batch at a time (a source of few documents whole, while its pieces are told apart).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.data.cache import cache_folder, write_file
from model.data.config import DataConfig
from model.data.shards import TokenShard, open_shard, write_shard
from model.data.sources import read_source
from model.data.split import Split, content_position, cut, plan_split
from model.data.task_source import TaskSource, is_task
from model.data.tasks import FORMAT as TASK_FORMAT
from model.data.tasks import HELD_OUT, TRAIN, VALIDATION, TaskMaker, TaskTokens
from model.errors import DataError
from model.tokenizer.bpe import load_tokenizer, train_tokenizer
from model.tokenizer.folder import load_folder_tokenizer
from model.tokenizer.interface import TextTokenizer

FORMAT = 1  # of cached files: raise it where the same text would give another tokenizer or other tokens
SAMPLE_BYTES = 20_000_000  # a tokenizer is trained on no more text than this, spread over all documents
SAMPLE_PIECE_CHARS = 16_384

Progress = Callable[[str, float], None]  # what is being done, and how much of it from 0 to 1


@dataclass(frozen=True)
class Corpus:
    tokenizer: TextTokenizer
    train: dict[str, TokenShard]  # by source
    validation: dict[str, TokenShard]
    fingerprint: str  # of all text, its split and the tokenizer, not of the paths
    left_out: Mapping[str, int] = field(default_factory=dict)  # how much was passed over, by reason

    @property
    def bytes_per_token(self) -> float:
        """Of the validation text, end-of-text tokens counted: bits per byte = loss / ln 2 / bytes_per_token."""
        shards = self.validation.values()
        return sum(shard.text_bytes for shard in shards) / sum(len(shard) for shard in shards)


def prepare_corpus(config: DataConfig, vocab_size: int, progress: Progress | None = None) -> Corpus:
    """Reads the sources and returns their shards, from the cache where the text, split and tokenizer are the same."""
    report = progress or (lambda stage, share: None)
    folder = cache_folder(config.cache_dir)
    left_out: Counter[str] = Counter()
    first_splits: dict[bytes, Split] = {}  # of every document, by its sha256: that of the first source that has it
    texts = [spec for spec in config.all_sources if not is_task(spec)]
    if unknown := [spec for spec in config.join if spec not in texts]:
        raise DataError(f"data.join names {unknown[0]}, which is none of the sources: name it as data.sources does")
    if not (texts or config.tokenizer):
        raise DataError("tasks alone have no text for a tokenizer: add a source of text, or set data.tokenizer")
    sources = [_scan(spec, config, report, left_out, first_splits) for spec in texts]
    tokenizer = _tokenizer(config.tokenizer, sources, vocab_size, folder, report)
    train = {source.spec: _shard(source, "train", tokenizer, folder, report) for source in sources}
    validation = {source.spec: _shard(source, "validation", tokenizer, folder, report) for source in sources}
    for spec in filter(is_task, config.all_sources):
        train[spec], validation[spec] = (_task_shard(spec, side, tokenizer, config) for side in (TRAIN, VALIDATION))
    train, validation = ({spec: side[spec] for spec in config.all_sources} for side in (train, validation))
    parts = [shard.fingerprint for shard in (*train.values(), *validation.values())]
    return Corpus(tokenizer, train, validation, _fingerprint(parts), left_out)


@dataclass(frozen=True)
class _Source:
    """What the first pass finds out about a source, and the way to its text."""

    spec: str
    text_key: str
    encoding: str
    join: bool  # whether the files of a folder are one document
    content: str  # sha256 of its documents in order
    text_bytes: int
    split: Split
    shared: Mapping[
        bytes, Split
    ]  # its documents that an earlier source has and parts otherwise: they are parted as there

    @property
    def key(self) -> list[object]:
        others = sorted((digest.hex(), *_numbers(split)) for digest, split in self.shared.items())
        return [self.content, *_numbers(self.split), *([others] if others else [])]

    def texts(self, side: str) -> Iterator[str]:
        """The documents of "train" or "validation"."""
        content = _Content()
        for text in content.watch(read_source(self.spec, self.text_key, self.encoding, join=self.join)):
            split = self.shared.get(_digest(text), self.split) if self.shared else self.split
            yield from (part for held_back, part in split.parts(text) if held_back == (side == "validation"))
        if content.hexdigest() != self.content:
            raise DataError(f"{self.spec} changed while it was read: start again once nothing writes to it")


def _numbers(split: Split) -> list[float]:
    return [split.fraction, split.piece_chars, split.salt]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class _Content:
    """The digests and size of documents as they go by."""

    def __init__(self, keep: bool = False) -> None:
        self.text_bytes = 0
        self.documents: set[bytes] = set()  # filled where `keep` says so
        self._keep = keep
        self._digest = hashlib.sha256()

    def watch(self, documents: Iterable[tuple[str, str]]) -> Iterator[str]:
        for _, text in documents:
            encoded = text.encode()
            self.text_bytes += len(encoded)
            digest = hashlib.sha256(encoded).digest()
            self._digest.update(digest)
            if self._keep:
                self.documents.add(digest)
            yield text

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _scan(
    spec: str, config: DataConfig, report: Progress, left_out: Counter[str], first_splits: dict[bytes, Split]
) -> _Source:
    report(f"reading {spec}", 0.0)
    content = _Content(keep=len(config.all_sources) > 1)
    join = spec in config.join
    documents = read_source(spec, config.text_key, config.encoding, left_out, join=join)
    split = plan_split(content.watch(documents), config.validation_fraction, spec)
    report(f"reading {spec}", 1.0)
    shared = {}
    for digest in content.documents:
        if first_splits.setdefault(digest, split) != split:
            shared[digest] = first_splits[digest]
    source = _Source(
        spec, config.text_key, config.encoding, join, content.hexdigest(), content.text_bytes, split, shared
    )
    for side in ("train", "validation") if shared else ():
        if next(source.texts(side), None) is None:
            raise DataError(
                f"{spec} has no text for {side}: an earlier source has the same documents and decides their side; "
                "leave it out or add others"
            )
    return source


def _tokenizer(path: str, sources: list[_Source], vocab_size: int, folder: Path, report: Progress) -> TextTokenizer:
    if path:
        place = Path(path).expanduser()
        tokenizer = load_folder_tokenizer(place) if place.is_dir() else load_tokenizer(place)
        if tokenizer.vocab_size > vocab_size:
            raise DataError(
                f"{path} has {tokenizer.vocab_size} tokens and the model {vocab_size}: "
                f"set model.vocab_size to at least {tokenizer.vocab_size}"
            )
        return tokenizer
    name = _fingerprint([vocab_size, *(source.key for source in sources)])
    cached = folder / "tokenizers" / f"{name}.json"
    try:
        return load_tokenizer(cached)
    except DataError:  # not there, or damaged
        report("training the tokenizer", 0.0)
        trained = train_tokenizer(_sample(sources), vocab_size)
        write_file(cached, [trained.to_json().encode()])
        report("training the tokenizer", 1.0)
        return trained


def _sample(sources: list[_Source]) -> Iterator[str]:
    """The training text, or pieces of it chosen by their hash, so that the same text gives the same tokenizer."""
    share = SAMPLE_BYTES / sum(source.text_bytes for source in sources)
    for source in sources:
        for text in source.texts("train"):
            if share >= 1:
                yield text
            else:
                yield from (piece for piece in cut(text, SAMPLE_PIECE_CHARS) if content_position(piece, 1) < share)


def _shard(source: _Source, side: str, tokenizer: TextTokenizer, folder: Path, report: Progress) -> TokenShard:
    fingerprint = _fingerprint([side, tokenizer.fingerprint, source.key])
    path = folder / "shards" / fingerprint
    shard = open_shard(path, fingerprint)
    if shard is None:
        stage = f"encoding {source.spec} ({side})"
        report(stage, 0.0)
        write_shard(
            path,
            source.texts(side),
            tokenizer,
            fingerprint,
            on_progress=lambda text_bytes: report(stage, text_bytes / source.text_bytes),
        )
        report(stage, 1.0)
        shard = open_shard(path, fingerprint)
    if shard is None:
        raise DataError(f"{path}.bin cannot be read back: set data.cache_dir or HUNYUAN_CACHE to another folder")
    return shard


def _task_shard(spec: str, side: int, tokenizer: TextTokenizer, config: DataConfig) -> TokenShard:
    """Documents that are made where they are read; their bytes of text are those of the first, times their number."""
    source = TaskSource.parse(spec)
    maker = TaskMaker.of(source, side, tokenizer, config.validation_fraction)
    count = source.count if side == TRAIN else HELD_OUT
    text_bytes = int(tokenizer.byte_lengths()[maker.document(0).ids].sum()) * count
    fingerprint = _fingerprint([side, tokenizer.fingerprint, str(source), maker.classes, TASK_FORMAT])
    return TokenShard(TaskTokens(maker, count), count, text_bytes, fingerprint, source.length)


def _fingerprint(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()
