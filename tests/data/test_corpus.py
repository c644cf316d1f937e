"""From sources to shards: what is cached, what makes a new one, and what a damaged cache does."""

import dataclasses
import errno
import hashlib
import json
import math
import os

import numpy as np
import pytest

from model.data import corpus as corpus_module
from model.data import shards as shards_module
from model.data.cache import cache_folder, write_file
from model.data.config import DataConfig
from model.data.corpus import prepare_corpus
from model.data.shards import TokenShard, open_shard, write_shard
from model.errors import DataError
from model.tokenizer.bpe import load_tokenizer, train_tokenizer


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "text"
    source.mkdir()
    for i in range(80):
        (source / f"{i:02}.txt").write_text(f"document {i}: the square of {i} is {i * i}, größer als {i}.\n" * 3)
    return source


@pytest.fixture
def config(folder, tmp_path):
    return DataConfig(sources=(str(folder),), validation_fraction=0.1, cache_dir=str(tmp_path / "cache"))


def decoded(corpus, shard):
    documents = "|".join(map(str, shard.tokens.tolist())).split(f"|{corpus.tokenizer.eos_id}")
    return [corpus.tokenizer.decode([int(i) for i in ids.strip("|").split("|")]) for ids in documents if ids]


def stages(config, vocab_size=300):
    """What prepare_corpus had to do."""
    seen = []
    prepare_corpus(config, vocab_size, lambda stage, share: seen.append((stage.split()[0], share)))
    assert all(0 <= share <= 1 for _, share in seen)
    return [stage for stage, share in seen if share == 0]


def test_every_document_is_in_one_shard_with_an_end(config, folder):
    corpus = prepare_corpus(config, 300)
    (train,), (validation,) = corpus.train.values(), corpus.validation.values()
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    assert sorted(decoded(corpus, train) + decoded(corpus, validation)) == sorted(texts)
    assert train.documents + validation.documents == 80
    assert train.text_bytes + validation.text_bytes == sum(len(text.encode()) for text in texts)
    assert np.count_nonzero(train.tokens == corpus.tokenizer.eos_id) == train.documents
    assert isinstance(train.tokens, np.memmap) and train.tokens.dtype == np.uint16
    assert corpus.bytes_per_token == validation.text_bytes / len(validation)


def test_order_of_documents_is_kept(config, folder):
    corpus = prepare_corpus(config, 300)
    train = decoded(corpus, corpus.train[str(folder)])
    assert train == sorted(train, key=lambda text: int(text.split()[1].strip(":")))


def test_the_tokenizer_is_trained_on_training_text_alone(config, folder):
    corpus = prepare_corpus(config, 300)
    train = decoded(corpus, corpus.train[str(folder)])
    assert train_tokenizer(train, 300).fingerprint == corpus.tokenizer.fingerprint


def test_a_second_start_only_reads(config):
    assert stages(config) == ["reading", "training", "encoding", "encoding"]
    assert stages(config) == ["reading"]
    assert stages(config, vocab_size=290) == ["reading", "training", "encoding", "encoding"]


def test_fingerprint_follows_the_content_not_the_path(config, folder, tmp_path):
    first = prepare_corpus(config, 300).fingerprint
    moved = folder.rename(tmp_path / "moved")
    config = dataclasses.replace(config, sources=(str(moved),))
    assert stages(config) == ["reading"]
    assert prepare_corpus(config, 300).fingerprint == first
    other_split = dataclasses.replace(config, validation_fraction=0.3)
    assert prepare_corpus(other_split, 300).fingerprint != first
    assert prepare_corpus(other_split, 300).validation[str(moved)].documents > 15
    (moved / "00.txt").write_text("document 0 in other words\n")
    assert prepare_corpus(config, 300).fingerprint != first


@pytest.mark.parametrize("damage", ["truncate", "flip", "meta", "no meta", "empty"])
def test_a_damaged_shard_is_built_again(config, damage):
    before = np.array(next(iter(prepare_corpus(config, 300).train.values())).tokens)
    cache = cache_folder(config.cache_dir) / "shards"
    path = max(cache.glob("*.bin"), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-2])
    elif damage == "flip":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "meta":
        path.with_suffix(".json").write_text('{"dtype": "<u2"')
    else:
        path.with_suffix(".json").unlink()
    assert stages(config) == ["reading", "encoding"]
    assert path.read_bytes() == content
    assert np.array_equal(next(iter(prepare_corpus(config, 300).train.values())).tokens, before)


def test_a_damaged_tokenizer_is_trained_again(config):
    first = prepare_corpus(config, 300)
    (path,) = (cache_folder(config.cache_dir) / "tokenizers").iterdir()
    path.write_text(path.read_text()[:100])
    assert stages(config) == ["reading", "training"]
    assert load_tokenizer(path).fingerprint == first.tokenizer.fingerprint


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def chunks():
        yield b"half"
        raise KeyboardInterrupt

    path = tmp_path / "shards" / "a.bin"
    with pytest.raises(KeyboardInterrupt):
        write_file(path, chunks())
    assert list(path.parent.iterdir()) == []


def test_a_file_is_replaced_under_those_who_read_it(tmp_path):
    path = tmp_path / "a.bin"
    write_file(path, [b"old"])
    with path.open("rb") as reader:
        write_file(path, [b"n", b"ew"])
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_a_full_disk_names_the_setting(config, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*data\.cache_dir or HUNYUAN_CACHE"):
        prepare_corpus(config, 300)
    assert [path for path in cache_folder(config.cache_dir).rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_made_names_the_setting(folder, tmp_path):
    (tmp_path / "file").touch()
    config = DataConfig(sources=(str(folder),), cache_dir=str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"Not a directory.*data\.cache_dir or HUNYUAN_CACHE"):
        prepare_corpus(config, 300)


def test_cache_folder_goes_by_setting_then_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HUNYUAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache" / "hunyuan"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hunyuan"
    monkeypatch.setenv("HUNYUAN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder("~/here") == tmp_path / "here"


def test_an_existing_tokenizer_is_used_and_must_fit_the_model(folder, tmp_path):
    path = tmp_path / "tokenizer.json"
    train_tokenizer(["some other text " * 9], 265).save(path)
    config = DataConfig(sources=(str(folder),), tokenizer=str(path), cache_dir=str(tmp_path / "cache"))
    assert prepare_corpus(config, 300).tokenizer.fingerprint == load_tokenizer(path).fingerprint
    with pytest.raises(DataError, match=r"has 265 tokens and the model 260: set model\.vocab_size to at least 265"):
        prepare_corpus(config, 260)


def test_sources_of_both_phases_have_shards_and_one_small_file_is_enough(folder, tmp_path):
    book = tmp_path / "book.md"
    book.write_text("".join(f"Chapter {i}, in which {i} things happen.\n" for i in range(40)))
    config = DataConfig(sources=(str(folder),), anneal_sources=(str(book),), cache_dir=str(tmp_path / "cache"))
    corpus = prepare_corpus(config, 300)
    assert list(corpus.train) == list(corpus.validation) == [str(folder), str(book)]
    held_back = decoded(corpus, corpus.validation[str(book)])
    assert held_back and all(piece in book.read_text() for piece in held_back)
    assert not any(piece in text for piece in held_back for text in decoded(corpus, corpus.train[str(book)]))


def test_a_large_corpus_trains_the_tokenizer_on_a_fixed_sample(config, monkeypatch):
    sampled = []

    def train(texts, vocab_size):
        sampled.append(list(texts))
        return train_tokenizer(sampled[-1], vocab_size)

    monkeypatch.setattr(corpus_module, "train_tokenizer", train)
    monkeypatch.setattr(corpus_module, "SAMPLE_BYTES", 4000)
    stages(config)
    monkeypatch.setattr(corpus_module, "FORMAT", 99)  # forgets the cache
    stages(config)
    assert sampled[0] == sampled[1]
    assert 1500 < sum(map(len, sampled[0])) < 7000


def test_text_that_changes_between_the_passes_is_refused(config, folder, monkeypatch):
    def train(texts, vocab_size):
        (folder / "00.txt").write_text("changed")
        return train_tokenizer(texts, vocab_size)

    monkeypatch.setattr(corpus_module, "train_tokenizer", train)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare_corpus(config, 300)


def test_a_wide_vocabulary_takes_four_bytes_and_long_documents_are_whole(tmp_path, monkeypatch):
    class Wide:
        vocab_size, eos_id = 70_000, 69_999

        def encode_batch(self, texts):
            return [[60_000 + ord(c) for c in text] for text in texts]

    monkeypatch.setattr(shards_module, "LONG_DOCUMENT_CHARS", 3)
    monkeypatch.setattr(shards_module, "BATCH_CHARS", 4)
    write_shard(tmp_path / "wide", ["abcdefgh", "é"], Wide(), "print")
    shard = open_shard(tmp_path / "wide", "print")
    assert shard.tokens.dtype == np.uint32
    assert shard.tokens.tolist() == [*(60_000 + ord(c) for c in "abcdefgh"), 69_999, 60_233, 69_999]
    assert (len(shard), shard.documents, shard.text_bytes) == (11, 2, 10)
    meta = json.loads((tmp_path / "wide.json").read_text())
    assert meta["sha256"] == hashlib.sha256((tmp_path / "wide.bin").read_bytes()).hexdigest()
    assert open_shard(tmp_path / "wide", "another print") is None


def test_bits_per_byte_of_a_uniform_guess(config):
    corpus = prepare_corpus(config, 300)
    nats_per_token = math.log(256)
    bits_per_byte = nats_per_token / math.log(2) / corpus.bytes_per_token
    assert bits_per_byte == pytest.approx(8 / corpus.bytes_per_token)
    assert isinstance(next(iter(corpus.train.values())), TokenShard)
