"""Fine-tuning on conversations as a task for the loop: packed rows, the loss of the learnt tokens, answers to look at."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.data.instructions.examples import ChatExamples, Progress, prepare_chats
from model.data.instructions.packing import PackedOrder, Rows, make_rows, pack
from model.data.instructions.rendering import Renderer
from model.device import on_its_way
from model.errors import ConfigError, DataError
from model.files import json_text, read_json
from model.generation.defaults import FILE_NAME as GENERATION_CONFIG
from model.generation.defaults import run_defaults
from model.posttraining.samples import Samples
from model.posttraining.sft_config import SFTConfig
from model.posttraining.stage import Stage, run_stage
from model.tokenizer.chat_template import ChatTemplate, turns_template
from model.tokenizer.folder import (
    CHAT_TEMPLATE,
    check_tokenizer_fits,
    end_ids,
    load_chat_template,
    load_folder_tokenizer,
)
from model.tokenizer.messages import text_of
from model.training.config import TrainingConfig
from model.training.events import Reporter
from model.training.run_folder import DataRecord
from model.training.settings import RunSettings
from model.training.task import MicroBatch
from model.transformer import Hunyuan, Output


class PackedBatch(NamedTuple):
    """A micro-batch on the device, (B, S) each but for the weight."""

    input_ids: Tensor
    labels: Tensor
    document_ids: Tensor
    weight: Tensor  # () of its loss, beside what the loop gives it by its targets


class FineTuning:
    """Batches are a pure function of the step, so a resumed run reads on exactly where it stopped."""

    def __init__(
        self, config: TrainingConfig, examples: ChatExamples, order: PackedOrder, samples: Samples, device: torch.device
    ) -> None:
        self.config, self.order, self.samples, self.device = config, order, samples, device
        self.validation = _validation_rows(examples, config, order.pad_id)
        self.alike = (
            device.type == "cuda"
        )  # every step has the same counts, so that it can be recorded (training/graph.py)
        self._step = -1  # the one that is under way; none yet

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """The batch of step `step` (from 0) in parts of micro_batch_size rows."""
        if self._step < 0:
            self.samples.take_up(step)
        self._step = step
        size = self.config.micro_batch_size
        first = step * self.config.batch_sequences
        parts = [self.order.rows(first + micro * size, size) for micro in range(self.config.micro_batches)]
        mean = sum(rows.targets for rows in parts) / len(parts)
        for rows in parts:
            if self.alike and mean:
                yield MicroBatch(self._there(rows, rows.targets / mean), targets=1, tokens=rows.input_ids.size)
            else:
                yield MicroBatch(self._there(rows), targets=rows.targets, tokens=rows.tokens)

    def forward(self, net: Hunyuan, data: PackedBatch, routing_key: Tensor) -> Output:
        output = self._loss_of(net, data, routing_key)
        assert output.loss is not None, "labels were given"
        return output._replace(loss=output.loss * data.weight)

    def _loss_of(self, net: Hunyuan, data: PackedBatch, routing_key: Tensor | None = None) -> Output:
        """The mean over the labels. On a GPU padding, of which packing leaves little, goes to the experts along with the rest:
        to pick the others the host would have to wait for the device.
        """
        return net(
            data.input_ids,
            data.labels,
            document_ids=data.document_ids,
            token_mask=None if self.alike else data.document_ids > 0,
            routing_key=routing_key,
        )

    @torch.no_grad()
    def evaluate(self, net: Hunyuan) -> dict[str, float]:
        """val_loss in nats per learnt token of held-out conversations; then the answers to held-out questions."""
        total, targets = torch.zeros((), dtype=torch.float64, device=self.device), 0
        for rows in self.validation:
            loss = self._loss_of(net, self._there(rows)).loss
            assert loss is not None, "labels were given"
            total, targets = total + loss.double() * rows.targets, targets + rows.targets
        self.samples.answer(net, self._step + 1)
        return {"val_loss": float(total) / targets} if targets else {}

    def _there(self, rows: Rows, weight: float = 1.0) -> PackedBatch:
        parts = (*map(torch.from_numpy, rows), torch.tensor(weight))
        return PackedBatch(*(on_its_way(part, self.device) for part in parts))


def fine_tune(
    folder: Path,
    settings: RunSettings,
    reporter: Reporter,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    show: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Trains `settings`, which have a section [sft], into a run folder; returns the run's summary. See `run_stage`.

    `show` takes a sentence for each sampled answer.
    """
    assert settings.sft is not None, "fine-tuning has a section of its own"
    config = settings.sft

    def prepare(trained: RunSettings, home: Path, device: torch.device) -> Stage:
        renderer = renderer_of(config, home, own=home.absolute() == folder.absolute())
        check_tokenizer_fits(renderer.tokenizer, settings.model.vocab_size)
        return _stage(folder, trained, config, renderer, home, device, progress, show)

    return run_stage(folder, settings, prepare, reporter, resume=resume, should_stop=should_stop)


def renderer_of(config: SFTConfig, home: Path, *, own: bool = False) -> Renderer:
    """The tokenizer of a folder with the template that the settings name; `own` is the run's folder, which has a copy of it."""
    tokenizer, ends = load_folder_tokenizer(home), list(end_ids(home))
    if config.end_token:
        if config.end_token not in tokenizer.special_tokens:
            known = ", ".join(tokenizer.special_tokens) or "none"
            raise ConfigError([f"sft.end_token is {config.end_token!r}: the tokenizer's special tokens are {known}"])
        ends.append(tokenizer.special_tokens[config.end_token])
    if config.template == "none":
        return Renderer(tokenizer, None, ends)
    template = load_chat_template(home)
    if config.template in ("", "turns") or own:
        return Renderer(
            tokenizer, template if template and (own or not config.template) else turns_template(tokenizer), ends
        )
    special = template.special if template else {}
    try:
        source = Path(config.template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(
            f"the chat template {config.template} cannot be read ({reason}): give a Jinja file, turns or none"
        ) from error
    return Renderer(tokenizer, ChatTemplate(source, special, name=f"the chat template of {config.template}"), ends)


def _stage(
    folder: Path,
    settings: RunSettings,
    config: SFTConfig,
    renderer: Renderer,
    home: Path,
    device: torch.device,
    progress: Progress | None,
    show: Callable[[str], None],
) -> Stage:
    training, data = settings.training, settings.data
    examples = prepare_chats(
        data.sources,
        renderer,
        encoding=data.encoding,
        length=training.sequence_length,
        train_on=config.train_on,
        validation_fraction=data.validation_fraction,
        questions=config.samples,
        progress=progress,
    )
    groups = [examples.of(held_out=False, source=index) for index in range(len(data.sources))]
    if data.weights and (empty := [name for name, group in zip(data.sources, groups, strict=True) if not len(group)]):
        raise DataError(f"{empty[0]} has a weight and no example to train on: leave it out, or give it more")
    order = PackedOrder(
        examples.table,
        groups if data.weights else [examples.of(held_out=False)],
        training.sequence_length,
        training.seed,
        renderer.tokenizer.eos_id,
        data.weights,
    )
    context = settings.model.max_position_embeddings
    samples = Samples(
        folder, renderer, examples.questions, max_new_tokens=config.sample_tokens, context=context, show=show
    )
    task = FineTuning(training, examples, order, samples, device)
    steps = max(1, math.ceil(config.epochs * len(order) / training.batch_sequences))
    return Stage(
        task,
        DataRecord(renderer.tokenizer, examples.fingerprint, _counts(examples, order), _prompt(examples)),
        _described(examples, order, data.sources),
        steps,
        files=_files(home, renderer) | examples.left_out.files(),
        notes=_notes(examples, settings, order, (training.steps or steps) * training.batch_sequences),
    )


def _validation_rows(examples: ChatExamples, config: TrainingConfig, pad_id: int) -> list[Rows]:
    """Held-out examples in micro-batches of one shape, of about evaluation_tokens in all."""
    members, length, size = examples.of(held_out=True), config.sequence_length, config.micro_batch_size
    packed = [members[row] for row in pack(examples.table.lengths[members], length, seed=0)]
    packed = packed[: max(1, config.evaluation_tokens // length)]
    packed += [np.arange(0)] * (-len(packed) % size)
    return [make_rows(examples.table, packed[i : i + size], length, pad_id) for i in range(0, len(packed), size)]


def _files(home: Path, renderer: Renderer) -> dict[str, str]:
    """What the run folder has besides the files of `home`: the template that was used, and every token that ends an answer."""
    files = {} if renderer.template is None else {CHAT_TEMPLATE: renderer.template.source}
    eos_id, known = renderer.tokenizer.eos_id, set(end_ids(home))
    if renderer.ends - known - {eos_id}:
        given = read_json(home / GENERATION_CONFIG) if (home / GENERATION_CONFIG).exists() else run_defaults(eos_id)
        files[GENERATION_CONFIG] = json_text(given | {"eos_token_id": sorted(renderer.ends)})
    return files


def _counts(examples: ChatExamples, order: PackedOrder) -> dict[str, Any]:
    learnt = examples.table.learnt
    return {
        "examples": len(examples.table),
        "validation_examples": int(examples.held_out.sum()),
        "tokens": len(learnt),
        "learnt_tokens": int(learnt.sum()),
        "rows": len(order),
        "left_out": {reason: len(rows) for reason, rows in examples.left_out.rows.items()},
    }


def _prompt(examples: ChatExamples) -> str:
    """A question to begin with."""
    return text_of(examples.questions[0][0].messages[-1]) if examples.questions else ""


def _described(examples: ChatExamples, order: PackedOrder, sources: tuple[str, ...]) -> str:
    """One line on the conversations: how many, what of them is learnt, and how full the rows are."""
    train, held_out = (int((examples.held_out == side).sum()) for side in (False, True))
    tokens, learnt = len(examples.table.ids), int(examples.table.learnt.sum())
    return (
        f"{', '.join(sources)}: {train:,} examples for training and {held_out:,} for validation, {tokens:,} tokens of which "
        f"{learnt:,} are learnt, {len(order):,} rows an epoch, {order.fullness:.0%} full"
    )


def _notes(examples: ChatExamples, settings: RunSettings, order: PackedOrder, draws: int) -> list[str]:
    notes = examples.left_out.sentences()
    if examples.split:
        notes.append(
            f"{examples.split:,} conversations became several examples: the chat template writes their earlier answers "
            "otherwise once another turn follows"
        )
    if not examples.held_out.any():
        notes.append("every conversation asks the same question, so none is held out: there is no validation loss")
    if settings.data.weights:
        shares = np.array(settings.data.weights) / sum(settings.data.weights)
        times = (
            f"{name} {draws * share / rows:.2g} times"
            for name, share, rows in zip(settings.data.sources, shares, order.rows_by_source, strict=True)
        )
        notes.append(f"by the weights, {draws:,} rows read {', '.join(times)}")
    return notes
