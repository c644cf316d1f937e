"""Generated tasks in runs: what is learnt of them, exact resume over stages of several lengths, and what the record says."""

import json
import random

import pytest
import torch
from tiny import assert_same_run

from model.data.corpus import prepare_corpus
from model.data.tasks import unmasked
from model.evaluation.ruler.words import NOUNS
from model.moe.place_keys import routing_key
from model.training.pretraining import Pretraining, pretrain
from model.training.settings import RunSettings
from model.transformer import Hunyuan

ANSWERS = "tasks:key_value:length=32,count=40,pairs=3,questions=2,loss=answer"
ALL = "tasks:copy:length=32,count=40,words=5"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path, draw = tmp_path_factory.mktemp("words") / "words.txt", random.Random(0)
    path.write_text("\n".join(" ".join(draw.choices(NOUNS[:60], k=12)) for _ in range(600)), encoding="utf-8")
    return str(path)


@pytest.fixture
def chosen(settings, words):
    """chosen(sources, weights) -> settings of the tiny model on these."""

    def make(sources, weights, *changes):
        lists = f"data.sources={json.dumps(sources)}", f"data.weights={json.dumps(weights)}"
        return settings(*lists, "data.validation_fraction=0.1", "model.vocab_size=600", *changes)

    return make


def prepared(settings):
    corpus = prepare_corpus(settings.corpus, settings.model.vocab_size)
    net = Hunyuan(settings.model, torch.Generator().manual_seed(0)).train()
    return corpus, Pretraining(settings, corpus, 12, torch.device("cpu")), net


def test_the_loss_is_that_of_text_and_of_answers(chosen, words):
    corpus, task, net = prepared(chosen([words, ANSWERS, ALL], [1, 2, 1]))
    end, found = corpus.tokenizer.eos_id, []
    for batch in task.micro_batches(0):
        total, count = 0.0, 0
        for row in batch.data:
            ids = torch.from_numpy(unmasked(row.numpy()))
            losses = net(ids[None, :-1], ids[None, 1:], reduction="none", routing_key=routing_key(0)).loss[0]
            learnt = torch.ones(32, dtype=torch.bool)
            if (row < 0).any():  # the answers stand before "?" or the end, after the first question
                after = torch.cat([ids[2:33], ids[:1]])
                asked = torch.tensor(corpus.tokenizer.encode("?"))
                learnt = ((after == asked) | (after == end)) & (torch.arange(32) >= 24)
                assert learnt.sum() == 2
            total, count = total + losses[learnt].sum().item(), count + int(learnt.sum())
        assert (batch.targets, batch.tokens) == (count, 128)
        found.append(count)
        loss = task.forward(net, batch.data, routing_key(0)).loss
        assert loss.item() == pytest.approx(total / count, rel=1e-5)
    assert min(found) < 128, "a row of answers was there"


def test_validation_counts_what_is_learnt(chosen, words):
    corpus, task, net = prepared(chosen([words, ANSWERS], [1, 1], "training.evaluation_tokens=100000"))
    net.eval()
    total = count = text_bytes = 0
    for shard in corpus.validation.values():
        tokens = torch.from_numpy(shard.tokens[:].astype("int64"))
        for start in range(0, len(tokens) - 32, 32):
            row = tokens[start : start + 33]
            ids = torch.where(row < 0, ~row, row)
            losses = net(ids[None, :-1], ids[None, 1:], reduction="none").loss[0][row[1:] >= 0]
            total, count = total + losses.sum().item(), count + len(losses)
            text_bytes += len(corpus.tokenizer.decode(row[1:][row[1:] >= 0].tolist()).encode())
    found = task.evaluate(net)
    assert found["val_loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["val_bits_per_byte"] == pytest.approx(total / 0.6931471805599453 / text_bytes, rel=1e-5)


def test_stages_of_growing_tasks_are_resumed_to_the_bit(words, chosen, tmp_path, monkeypatch):
    """The report's mixture for a long context, a quarter of it natural long text: joined files, beside other text and tasks."""
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    folder = tmp_path / "long" / "part"
    folder.mkdir(parents=True)
    for number in range(6):
        sentences = (" ".join(random.Random(10 * number + line).choices(NOUNS[:60], k=9)) for line in range(60))
        (folder / f"{number}.txt").write_text("\n".join(sentences), encoding="utf-8")
    long = str(tmp_path / "long")
    base = chosen([words, ANSWERS], [0.75, 0.25], f"data.join={json.dumps([long])}")
    task = "tasks:key_value:length=128,pairs=6,loss=answer"
    stages = [
        {"name": "short", "share": 0.5},
        {"name": "long", "share": 0.5, "context": 128, "sources": [long, words, task], "weights": [0.25, 0.5, 0.25]},
    ]
    staged = RunSettings.from_sections(base.to_sections() | {"stages": stages})

    class Recorder:
        plan = None

        def start(self, plan):
            self.plan = self.plan or plan

        def step(self, row): ...
        def note(self, message): ...
        def finish(self, summary): ...

    recorder = Recorder()
    pretrain(tmp_path / "whole", staged, recorder)
    left = iter(range(8))
    pretrain(tmp_path / "parts", staged, Recorder(), should_stop=lambda: next(left) == 7)
    pretrain(tmp_path / "parts", staged, Recorder(), resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 12)
    table = json.loads((tmp_path / "whole" / "environment.json").read_text())["data"]["document_lengths"]
    assert list(table) == [words, ANSWERS, long, task]
    assert table[task]["in_long"] == {"32": 1.0, "128": 1.0} and table[ANSWERS]["in_long"] == {"32": 1.0, "128": 0.0}
    assert [line.split(":")[0] for line in recorder.plan.documents] == [words, "tasks", long, "tasks"]
