"""data.document_mask and dropout in runs: what is learnt, exact resume, and what a resumed run may not change."""

import json
import random

import pytest
import torch
from tiny import assert_same_run, rows_of

from model.data.corpus import prepare_corpus
from model.errors import ConfigError
from model.layers.documents import documents_of
from model.moe.place_keys import routing_key
from model.training.pretraining import Pretraining
from model.training.resume import resumed_settings
from model.training.settings import RunSettings
from model.transformer import Hunyuan

DROPOUT = ("training.attention_dropout=0.1", "training.hidden_dropout=0.2")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Changes that read short documents, kept apart."""
    path, draw = tmp_path_factory.mktemp("documents") / "short.jsonl", random.Random(0)
    words = "the router sends each token to one expert and every expert learns its own part of a text".split()
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=draw.randint(2, 12)))}) for _ in range(400)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return (f"data.sources=[{json.dumps(str(path))}]", "data.document_mask=true", "data.validation_fraction=0.2")


def test_an_end_token_ends_its_document():
    ids = torch.tensor([[5, 1, 6, 7, 1, 1, 8], [1, 5, 5, 5, 5, 5, 1]])
    assert documents_of(ids, 1).tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


def test_training_and_validation_see_a_document_at_a_time(settings, documents):
    """Losses against those of every document alone, the next one's first token learnt from the end of the last."""
    chosen = settings(*documents, "training.evaluation_tokens=100000")
    corpus = prepare_corpus(chosen.data, chosen.model.vocab_size)
    task = Pretraining(chosen, corpus, 12, torch.device("cpu"))
    net = Hunyuan(chosen.model, torch.Generator().manual_seed(0)).train()
    (batch, *_) = task.micro_batches(0)
    ends = documents_of(batch.data[:, :-1], corpus.tokenizer.eos_id)
    assert (ends.max(dim=1).values > 0).all(), "rows of several documents"
    found = task.forward(net, batch.data, routing_key(0)).loss
    assert found.item() == pytest.approx(alone(net, batch.data, corpus.tokenizer.eos_id)[0].item(), rel=1e-5)

    total = count = 0
    net.eval()
    for shard in corpus.validation.values():
        tokens = torch.from_numpy(shard.tokens.astype("int64"))
        for start in range(0, len(tokens) - 32, 32):
            mean, targets = alone(net, tokens[None, start : start + 33], corpus.tokenizer.eos_id)
            total, count = total + mean.item() * targets, count + targets
    assert task.evaluate(net)["val_loss"] == pytest.approx(total / count, rel=1e-5)


def alone(net, rows, end):
    """The mean loss of rows (B, S + 1), each document through the model by itself, and the number of targets."""
    losses = []
    for row in rows:
        pieces, start = [], 0
        for place, token in enumerate(row[:-1].tolist()):
            if token == end or place == len(row) - 2:
                pieces.append((start, place + 1))
                start = place + 1
        for first, last in pieces:
            output = net(row[None, first:last], row[None, first + 1 : last + 1], reduction="none", dropless=True)
            losses.append(output.loss[0])
    each = torch.cat(losses)
    return each.mean(), len(each)


def test_a_run_says_that_documents_are_kept_apart(pretrain, documents, tmp_path):
    apart = pretrain(*documents, folder=tmp_path / "apart")
    together = pretrain(*documents, "data.document_mask=false", folder=tmp_path / "together")
    assert apart.plan.data == together.plan.data + "; attention stays inside a document"
    assert RunSettings.from_toml(tmp_path / "apart" / "run.toml").data.document_mask
    assert [row["loss"] for row in apart.rows] != [row["loss"] for row in together.rows]


@pytest.mark.parametrize("routing", ["dropless", "recycle"])
def test_a_run_is_resumed_to_the_bit(pretrain, documents, tmp_path, routing):
    changes = (*documents, *DROPOUT, f"model.moe_routing={routing}", "training.micro_batch_size=2")
    pretrain(*changes, folder=tmp_path / "whole")
    pretrain(*changes, folder=tmp_path / "parts", stop_after=6)
    pretrain(*changes, folder=tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 12)


def test_micro_batches_drop_in_their_own_ways(pretrain, tmp_path):
    """And a dropped hidden state makes the training loss another one, from the first step on."""
    pretrain(folder=tmp_path / "none")
    pretrain(*DROPOUT, folder=tmp_path / "some")
    pretrain(*DROPOUT, "training.seed=8", folder=tmp_path / "other")
    first = [rows_of(tmp_path / name)[0]["loss"] for name in ("none", "some", "other")]
    assert len(set(first)) == 3


@pytest.mark.parametrize(
    ("section", "key", "value", "reason"),
    [
        ("data", "document_mask", True, "it alters what a token sees"),
        ("training", "hidden_dropout", 0.2, "it alters the numbers of the run"),
        ("training", "attention_dropout", 0.1, "it alters the numbers of the run"),
    ],
)
def test_a_resumed_run_keeps_them(settings, section, key, value, reason):
    with pytest.raises(ConfigError, match=f"{section}.{key} cannot change when a run is resumed: {reason}"):
        resumed_settings(settings(), {section: {key: value}})
