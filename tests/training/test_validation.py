"""val_loss and bits per byte of a run, against a plain loop over texts that this file tells apart by itself."""

import hashlib
import json
import math

import pytest
import torch
import torch.nn.functional as F

from model import Hunyuan
from model.data.config import DataConfig
from model.data.corpus import prepare_corpus
from model.tokenizer.bpe import load_tokenizer

FRACTION, LENGTH = 0.2, 32
TEXTS = [f"document {i}: the square of {i} is {i * i} and its cube {i**3}.\n" * 4 for i in range(100)]


def held_back(text):
    """The split's rule by itself: the first 48 bits of the sha256 of the text, as a share of their range."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12 < FRACTION


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "texts"
    place.mkdir()
    for i, text in enumerate(TEXTS):
        (place / f"{i:03}.txt").write_text(text)
    return place


def documents(corpus, shard):
    ends = (shard.tokens == corpus.tokenizer.eos_id).nonzero()[0] + 1
    starts = [0, *ends[:-1]]
    return [corpus.tokenizer.decode(shard.tokens[a : b - 1].tolist()) for a, b in zip(starts, ends, strict=True)]


def test_validation_documents_are_those_of_the_split_and_none_is_trained_on(folder, tmp_path):
    config = DataConfig(sources=(str(folder),), validation_fraction=FRACTION, cache_dir=str(tmp_path / "cache"))
    corpus = prepare_corpus(config, 300)
    held = [text for text in TEXTS if held_back(text)]
    assert len(held) == 12  # what the hash makes of a fifth of these 100
    assert documents(corpus, corpus.validation[str(folder)]) == held
    assert documents(corpus, corpus.train[str(folder)]) == [text for text in TEXTS if not held_back(text)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_val_loss_and_bits_per_byte_are_those_of_a_plain_loop(pretrain, folder, tmp_path, precision):
    sources = f"data.sources=['{folder}']"
    everything = ("training.evaluation_tokens=1000000", f"data.validation_fraction={FRACTION}")
    pretrain(sources, *everything, "training.steps=4", f"training.precision={precision}")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())

    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    tokens = [t for text in TEXTS if held_back(text) for t in (*tokenizer.encode(text), tokenizer.eos_id)]
    net = Hunyuan.from_checkpoint(tmp_path / "run").float().eval()
    total = count = text_bytes = 0
    for start in range(0, len(tokens) - LENGTH, LENGTH):  # whole sequences, each target once
        window = torch.tensor(tokens[start : start + LENGTH + 1])
        with torch.no_grad():
            logits = net(window[None, :-1]).logits[0].float()
        total += F.cross_entropy(logits, window[1:], reduction="sum").item()
        count += LENGTH
        text_bytes += len(tokenizer.decode([t for t in window[1:].tolist() if t != tokenizer.eos_id]).encode())
    assert count > 1000
    tolerance = 1e-5 if precision == "float32" else 2e-3
    assert summary["val_loss"] == pytest.approx(total / count, rel=tolerance)
    assert summary["val_bits_per_byte"] == pytest.approx(total / math.log(2) / text_bytes, rel=tolerance)
