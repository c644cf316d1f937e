"""Fine-tuning: its loss against one conversation at a time, packing against padding, and a run that is stopped and goes on."""

import json
import tomllib

import pytest
import torch

from hunyuan_cli.options.posttraining import stage_settings
from model.checkpoint.run import steps_saved
from model.config import HunyuanConfig
from model.data.instructions.conversations import read_chats
from model.data.instructions.rendering import Renderer
from model.errors import CheckpointError, ConfigError, DataError
from model.generation.engine import Engine
from model.generation.generate import generate
from model.generation.sampling import Sampling
from model.moe.place_keys import routing_key
from model.posttraining.finetuning import fine_tune, renderer_of
from model.posttraining.sft_config import SFTConfig, training_defaults
from model.training.events import Silent
from model.training.run_folder import settings_of
from model.training.task import share
from model.transformer import Hunyuan
from tests.posttraining.conftest import TINY
from tests.training.tiny import assert_same_run


@pytest.fixture
def settings(base, chats, tmp_path):
    def make(out="run", source=base, **sections):
        changes = {
            "data": {"sources": [str(chats)], "validation_fraction": 0.2} | sections.pop("data", {}),
            "training": TINY | sections.pop("training", {}),
            "sft": {"samples": 2, "sample_tokens": 8} | sections.pop("sft", {}),
        } | sections
        return stage_settings("sft", tmp_path / out, source, None, changes, training_defaults)

    return make


@pytest.fixture
def task_of(settings, base, tmp_path, monkeypatch):
    """The task that the settings make, without training it."""

    def make(**sections):
        found = []
        monkeypatch.setattr(
            "model.posttraining.finetuning.run_stage", lambda f, s, prepare, *_, **__: found.append((s, prepare))
        )
        fine_tune(tmp_path / "run", settings(**sections), Silent())
        chosen, prepare = found[0]
        return prepare(chosen, base, torch.device("cpu")).task

    return make


@torch.no_grad()
def one_at_a_time(net, path, base):
    """The oracle: nats of every learnt token, each conversation alone, from its logits."""
    renderer = renderer_of(SFTConfig(), base)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for chat in read_chats(str(path)):
        for ids, learnt in renderer.chat(chat):
            logps = net(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
            for place in range(1, len(ids)):
                if learnt[place]:
                    total, count = total - logps[place - 1, ids[place]], count + 1
    return total / count


def test_one_row_has_the_gradients_of_its_conversations(task_of, base):
    task = task_of(data={"validation_fraction": 1e-6})
    net = Hunyuan.from_checkpoint(base).train()
    batch = next(iter(task.micro_batches(0)))
    output = task.forward(net, batch.data, routing_key(0, 0))
    output.loss.backward()
    packed = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net.zero_grad()
    total, targets = torch.zeros(()), 0
    for ids, labels, documents in zip(*batch.data[:3], strict=True):
        for number in range(1, int(documents.max()) + 1):
            alone = documents == number
            logits = net(ids[alone][None]).logits[0]
            wanted = labels[alone]
            total = total + torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum")
            targets += int((wanted >= 0).sum())
    (total / targets).backward()
    assert (
        targets == batch.targets
        and batch.tokens == int((batch.data.document_ids > 0).sum()) < batch.data.input_ids.numel()
    )
    torch.testing.assert_close(output.loss, total / targets, rtol=1e-5, atol=1e-6)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_steps_read_every_conversation_once_an_epoch(task_of):
    task = task_of(sft={"samples": 0})
    rows = task.config.batch_sequences
    steps = -(-len(task.order) // rows)
    batches = [batch.data for step in range(steps) for batch in task.micro_batches(step)]
    read = torch.cat([data.input_ids for data in batches])[: len(task.order)]
    documents = torch.cat([data.document_ids for data in batches])[: len(task.order)]
    once = task.order.rows(0, len(task.order))
    assert read[documents > 0].tolist() == once.input_ids[once.document_ids > 0].tolist()
    assert len({bytes(row) for row in read.numpy()}) == len(task.order)


def test_steps_of_a_gpu_are_alike_and_learn_the_same(task_of, base):
    """Its graph is of one form: the counts of every step are equal, and what they would weigh lies in a tensor."""
    task, net = task_of(), Hunyuan.from_checkpoint(base)
    found = {}
    for task.alike in (False, True):
        batches = list(task.micro_batches(1))
        whole = sum(batch.targets for batch in batches)
        losses = [share(task.forward(net, b.data, routing_key(0)).loss, b.targets, whole) for b in batches]
        found[task.alike] = torch.stack(losses).sum()
    torch.testing.assert_close(found[True], found[False])
    counts = {(batch.targets, batch.tokens) for step in range(5) for batch in task.micro_batches(step)}
    assert len(counts) == 1 and len(batches) == 2


def test_padding_takes_no_part(task_of, base):
    """Not in the loss, nor in the routing losses and counts, whatever stands there."""
    task = task_of(data={"validation_fraction": 1e-6})
    net = Hunyuan.from_checkpoint(base).train()
    batch = next(iter(task.micro_batches(0)))
    padding = batch.data.document_ids == 0
    assert padding.any()
    other = batch.data._replace(input_ids=batch.data.input_ids.masked_fill(padding, 7))
    one, two = (task.forward(net, data, routing_key(0, 0)) for data in (batch.data, other))
    assert one.loss == two.loss and one.aux_loss == two.aux_loss
    assert int(one.stats.tokens_per_expert[0].sum()) == batch.tokens * net.config.topk(0)


def test_the_validation_loss_is_that_of_the_held_out_conversations_alone(task_of, chats, base, tmp_path):
    task = task_of(data={"validation_fraction": 0.2}, sft={"samples": 0})
    net = Hunyuan.from_checkpoint(base)
    found = task.evaluate(net)["val_loss"]
    lines = chats.read_text().splitlines(keepends=True)
    held_out = b"".join(rows.input_ids.tobytes() for rows in task.validation)
    renderer, ours = renderer_of(SFTConfig(), base), []
    for line, chat in zip(lines, read_chats(str(chats)), strict=True):
        tokens = torch.tensor(renderer.chat(chat)[0].ids).numpy().tobytes()
        ours += [line] if tokens in held_out else []
    assert len(ours) == 8
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(ours))
    assert found == pytest.approx(one_at_a_time(net, path, base).item(), rel=1e-5)


@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_is_uninterrupted(settings, tmp_path, stop):
    whole, run = tmp_path / "whole", tmp_path / "run"
    fine_tune(whole, settings("whole"), Silent())
    asked = iter(range(stop, -1, -1))
    fine_tune(run, settings(), Silent(), should_stop=lambda: next(asked) == 0)
    assert steps_saved(run)[-1] == stop
    fine_tune(run, settings_of(run), Silent(), resume=True)
    assert_same_run(run, whole, 6)
    assert (run / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_what_was_sampled_after_the_checkpoint_is_cut_off(settings, tmp_path):
    run = tmp_path / "run"
    asked = iter(range(4, -1, -1))
    fine_tune(run, settings(), Silent(), should_stop=lambda: next(asked) == 0)
    before = (run / "samples.jsonl").read_text()
    with (run / "samples.jsonl").open("a") as file:  # as a crash after step 6 would leave it
        file.write('{"step": 6, "question": "x"}\n{"step"')
    fine_tune(run, settings_of(run), Silent(), resume=True)
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert (run / "samples.jsonl").read_text().startswith(before)
    assert [row["step"] for row in rows] == [3, 3, 6, 6] and "x" not in [row["question"] for row in rows]


def test_the_run_folder_speaks_the_template_that_was_learnt(settings, base, tmp_path):
    run = tmp_path / "run"
    fine_tune(run, settings(), Silent())
    engine = Engine.from_folder(run)
    assert engine.has_template and not Engine.from_folder(base).has_template
    row = json.loads((run / "samples.jsonl").read_text().splitlines()[-1])
    request = engine.reply([{"role": "user", "content": row["question"]}], max_new_tokens=8)
    ids = list(
        generate(
            engine.net,
            request.prompt,
            max_new_tokens=8,
            sampling=Sampling(temperature=0.0),
            end_id=engine.tokenizer.eos_id,
        )
    )
    assert engine.tokenizer.decode(ids) == row["answer"]
    recorded = tomllib.loads((run / "run.toml").read_text())
    assert recorded["sft"]["train_on"] == "answers" and recorded["training"]["steps"] == 6
    environment = json.loads((run / "environment.json").read_text())
    assert environment["data"]["validation_examples"] == 8 and environment["init_from"]["path"].startswith(str(base))


def test_epochs_are_readings_of_every_row(settings, tmp_path):
    fine_tune(tmp_path / "run", settings(training={"steps": 0}, sft={"epochs": 1.5}), Silent())
    recorded = settings_of(tmp_path / "run").training
    rows = json.loads((tmp_path / "run" / "environment.json").read_text())["data"]["rows"]
    assert recorded.steps == -(-3 * rows // (2 * recorded.batch_sequences))


def test_other_conversations_or_weights_are_refused_when_it_goes_on(settings, chats, tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine.jsonl"
    mine.write_bytes(chats.read_bytes())
    asked = iter(range(2, -1, -1))
    fine_tune(run, settings(data={"sources": [str(mine)]}), Silent(), should_stop=lambda: next(asked) == 0)
    mine.write_text(mine.read_text().replace("token", "tokens"))
    with pytest.raises(CheckpointError, match=r"the data of .* has changed since it began"):
        fine_tune(run, settings_of(run), Silent(), resume=True)


def test_weights_of_sources_without_examples_are_refused(settings, chats, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(chats.read_text().replace("router", "one word too many " * 30))
    data = {"sources": [str(chats), str(other)], "weights": [1, 1]}
    notes = []

    class Notes(Silent):
        def note(self, message):
            notes.append(message)

    fine_tune(tmp_path / "run", settings(data=data), Notes())
    assert any("examples of over 48 tokens" in note for note in notes)
    assert any(note.startswith("by the weights, 24 rows read") for note in notes)
    other.write_text('{"prompt": "p", "completion": "' + "word " * 100 + '"}\n')
    with pytest.raises(DataError, match=r"other\.jsonl has a weight and no example to train on"):
        fine_tune(tmp_path / "two", settings("two", data=data), Silent())


def test_templates_by_name_by_file_and_unknown(base, tmp_path):
    turns = renderer_of(SFTConfig(), base)
    assert turns.template.source == renderer_of(SFTConfig(template="turns"), base).template.source
    assert renderer_of(SFTConfig(template="none"), base).template is None
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}")
    assert isinstance(renderer_of(SFTConfig(template=str(mine)), base), Renderer)
    with pytest.raises(DataError, match=r"template .*chatml cannot be read \(No such file .*\): give a Jinja file"):
        renderer_of(SFTConfig(template="chatml"), base)
    mine.write_text("{% for %}")
    with pytest.raises(DataError, match="is not a Jinja template"):
        renderer_of(SFTConfig(template=str(mine)), base)
    with pytest.raises(ConfigError, match=r"sft.end_token is '<\|im_end\|>': .* special tokens are <\|endoftext\|>"):
        renderer_of(SFTConfig(end_token="<|im_end|>"), base)


def test_the_reports_learning_rates_are_the_defaults_of_large_models(base):
    small = training_defaults(Hunyuan.from_checkpoint(base).config, {})
    large = training_defaults(HunyuanConfig.from_name("hunyuan-large"), {})
    assert (large["learning_rate"], large["learning_rate"] * large["final_ratio"]) == (2e-5, pytest.approx(2e-6))
    assert (large["decay_ratio"], large["anneal_fraction"]) == (0.1, 0.0)
    assert small["learning_rate"] == 3e-3 and small["sequence_length"] == 64
    assert SFTConfig().epochs == 3.0


def test_every_setting_of_the_section_is_checked():
    with pytest.raises(ConfigError, match=r"sft.epochs.*sft.train_on is 'some'.*sft.samples is -1.*sft.sample_tokens"):
        SFTConfig(epochs=0.0, train_on="some", samples=-1, sample_tokens=0)
