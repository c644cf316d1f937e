"""Pre-training as a task for the loop: packed sequences of a corpus, next-token loss, validation in bits per byte."""

import gc
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.checkpoint.run import newest_intact, step_of, steps_saved
from model.counts import total_params
from model.data.config import DataConfig
from model.data.corpus import Corpus, Progress, prepare_corpus
from model.data.lengths import describe_lengths, length_table
from model.data.order import Sampler, validation_batches
from model.data.task_source import TaskSource, is_task
from model.device import compute_dtype, dtype_name, on_its_way, pick_device
from model.files import write_json
from model.layers.documents import documents_of
from model.parallel.agree import together
from model.parallel.shard import whole_model
from model.parallel.start import Ranks
from model.training import run_folder
from model.training.events import Reporter
from model.training.graph import check_recording
from model.training.held import check_shared
from model.training.loop import train
from model.training.prepare import check_grouped_product, check_memory
from model.training.resume import check_lengthening, check_stages
from model.training.schedule import anneal_start
from model.training.settings import RunSettings
from model.training.stages import Stage, stage_at, stages_of
from model.training.task import MicroBatch
from model.transformer import Hunyuan, Output

if TYPE_CHECKING:
    from model.evaluation.periodic import PeriodicTasks


class Pretraining:
    """Batches are a pure function of the step, so a resumed run reads on exactly where it stopped."""

    def __init__(
        self,
        settings: RunSettings,
        corpus: Corpus,
        steps: int,
        device: torch.device,
        *,
        sampler: Sampler | None = None,
        first_step: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        """`sampler` and `first_step` are those of a stage, whose settings are given; else the run is of `steps` steps.

        With `ranks` this process computes some of the micro-batches and of the validation.
        """
        self.ranks = ranks
        self.training, self.corpus, self.device = settings.training, corpus, device
        self.document_mask = settings.data.document_mask
        tasks = (TaskSource.parse(spec) for spec in corpus.train if is_task(spec))
        self.answers_alone = any(source.loss != "all" for source in tasks)  # of some sources: then targets are counted
        self.byte_lengths = corpus.tokenizer.byte_lengths()
        length, seed = self.training.sequence_length, self.training.seed
        self.sampler, self.first_step = sampler or _sampler(settings, corpus, steps), first_step
        self.tasks: PeriodicTasks | None = None
        if self.training.evaluate_tasks:
            from model.evaluation import periodic  # here: few runs need what it imports

            self.tasks = periodic.PeriodicTasks(
                self.training.evaluate_tasks,
                corpus.tokenizer,
                length=length,
                context=settings.model.max_position_embeddings,
                samples=self.training.evaluate_samples,
                seed=seed,
            )

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """The batch of step `step` (from 0) in parts of micro_batch_size, each int64 (B, S + 1)."""
        size = self.training.micro_batch_size
        first, count = (step - self.first_step) * self.training.batch_sequences, self.training.micro_batches
        own = range(count) if self.ranks is None else self.ranks.micro_batches(count)
        for micro in range(count):
            tokens = size * self.training.sequence_length  # each the target of the one before it
            if micro not in own and not self.answers_alone:
                yield MicroBatch(None, targets=tokens, tokens=tokens)
                continue
            sequences = torch.from_numpy(self.sampler.batch(first + micro * size, size))
            targets = int((sequences[:, 1:] >= 0).sum()) if self.answers_alone else tokens
            data = on_its_way(sequences, self.device) if micro in own else None
            yield MicroBatch(data, targets=targets, tokens=tokens)

    def forward(self, net: Hunyuan, data: Tensor, routing_key: Tensor) -> Output:
        ids = self._seen(data[:, :-1])
        return net(ids, data[:, 1:], routing_key=routing_key, document_ids=self._documents(ids))

    def _seen(self, ids: Tensor) -> Tensor:
        """The tokens as the model is given them; as labels those that are not learnt stay negative, see tasks.unmasked."""
        return torch.where(ids < 0, ~ids, ids) if self.answers_alone else ids

    def _documents(self, ids: Tensor) -> Tensor | None:
        """ids (B, S) -> the number of each token's document in its row, where documents are kept apart.

        An end-of-text token ends its document, and from it the next one's first token is learnt, as everything else is.
        """
        return documents_of(ids, self.corpus.tokenizer.eos_id) if self.document_mask else None

    @torch.no_grad()
    def evaluate(self, net: Hunyuan) -> dict[str, float]:
        """val_loss in nats per token and val_bits_per_byte, on text that is never trained on, routed without a capacity.

        And score_TASK_LENGTH, percent, of training.evaluate_tasks.
        """
        c = self.training
        total, tokens, text_bytes = torch.zeros((), dtype=torch.float64, device=self.device), 0, 0
        batches = validation_batches(self.corpus.validation, c.sequence_length, c.micro_batch_size, c.evaluation_tokens)
        for batch, is_own, counts in self._dealt(batches):
            learnt = batch[:, 1:][batch[:, 1:] >= 0]  # all, but of a task that has its answers learnt alone
            if counts:
                text_bytes += int(self.byte_lengths[learnt].sum())
                tokens += learnt.size
            if not is_own:
                continue
            if self.ranks is not None:
                self.ranks.mark()
            ids, labels = (on_its_way(part, self.device) for part in self._filled(torch.from_numpy(batch)))
            loss = net(ids, labels, document_ids=self._documents(ids)).loss
            assert loss is not None, "labels were given"
            if counts:
                total = total + loss.double() * learnt.size
        if self.ranks is not None:
            self.ranks.sum_(total)
        found = float(total)
        scores = self._scores(net)
        return {"val_loss": found / tokens, "val_bits_per_byte": found / math.log(2) / text_bytes} | scores

    def _scores(self, net: Hunyuan) -> dict[str, float]:
        if self.tasks is None:
            return {}
        return self.tasks.scores(net if self.ranks is None else whole_model(net, self.ranks), self.ranks)

    def _dealt(self, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool, bool]]:
        """Every batch, whether this process computes it, and whether it counts: each computes as many, some of them twice."""
        turns, mine = 1, 0
        if self.ranks is not None:
            turns, mine = self.ranks.layout.data_parallel, self.ranks.layout.data_index(self.ranks.rank)
        number, batch = -1, np.zeros((1, 2), np.int64)
        for number, batch in enumerate(batches):
            yield batch, number % turns == mine, True
        for again in range(number + 1, number + 1 + -(number + 1) % turns):
            yield batch, again % turns == mine, False

    def _filled(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """(n, S' + 1) -> ids and labels; on a GPU (B, S) of a micro-batch, so that nothing is compiled for other shapes.

        What is added has no label, comes after the text, and takes no expert's place: evaluation has no capacity.
        """
        ids, labels = self._seen(sequences[:, :-1]), sequences[:, 1:]
        if self.device.type == "cpu":
            return ids, labels
        rows, columns = self.training.micro_batch_size - len(ids), self.training.sequence_length - ids.shape[1]
        return F.pad(ids, (0, columns, 0, rows)), F.pad(labels, (0, columns, 0, rows), value=-100)


def _sampler(
    settings: RunSettings, corpus: Corpus, steps: int, tokens_read: np.ndarray | None = None, stage: int = 0
) -> Sampler:
    c = settings.training
    annealing = anneal_start(c, steps) * c.batch_sequences
    where = settings.data, corpus, c.sequence_length, c.seed, annealing
    return Sampler.from_config(*where, tokens_read=tokens_read, stage=stage)


def samplers(stages: list[Stage], corpus: Corpus) -> list[Sampler]:
    """The order of each stage; a source that an earlier one read goes on after the tokens that were read of it.

    At the same context it goes on in the same order, so that nothing is read twice before all is read once. Another context
    cuts the text into other sequences, which have an order of their own: where the stages before read a share f of a source,
    about f of what the next one reads of it was read before. An order without that would have to keep whole sequences of the
    longest context together, and so shuffle the short ones less. To read no text twice, give the long stage sources of its
    own.
    """
    made: list[Sampler] = []
    tokens_read = None
    for index, stage in enumerate(stages):
        made.append(_sampler(stage.settings, corpus, stage.steps, tokens_read, index))
        tokens_read = made[-1].tokens_after(stage.steps * stage.settings.training.batch_sequences)
    return made


def pretrain(
    folder: Path,
    settings: RunSettings,
    reporter: Reporter,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    locked: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Trains `settings` into a new run folder, or goes on with the run in it; returns the run's summary.

    A resumed run is given its own settings (run_folder.settings_of), with what may change (resume.py), and begins anew when
    it was ended before its first checkpoint. should_stop is asked before every step. Other processes are kept out of the
    folder, unless the caller has done so, which `locked` says. With `ranks` all processes of the run call it, and the first one
    writes.
    """
    first, layout = ranks is None or ranks.is_first, None if ranks is None else ranks.layout
    with ExitStack() as stack:
        keep_out = nullcontext if locked else lambda: run_folder.locked(folder)
        with together(ranks):
            if not resume:
                run_folder.refuse_other_run(folder)  # before minutes are spent on the data
            elif first:
                stack.enter_context(keep_out())
            device = pick_device(settings.training.device) if ranks is None else ranks.device
            resume, started = resume and bool(steps_saved(folder)), resume
            trained = run_folder.own_precision(folder, settings) if resume else settings
            stages = stages_of(trained)
            for stage in stages:
                _check(stage.settings, device, ranks)
            steps = steps_before = stages[-1].end
            if resume:
                recorded = run_folder.settings_of(folder)
                check_stages(recorded, settings)
                steps_before = stages_of(recorded)[-1].end
                check_lengthening(recorded, steps_before, steps, steps_saved(folder)[-1])
            data = (run_folder.own_tokenizer(folder, settings) if resume else settings).corpus
        corpus = _corpus(data, settings, progress, ranks)
        with together(ranks):
            if resume:
                run_folder.check_same_data(folder, corpus.fingerprint)
                if first:
                    run_folder.record_changes(folder, settings, steps_saved(folder)[-1])
                    if note := run_folder.record_layout(folder, settings.model, layout, steps_saved(folder)[-1]):
                        reporter.note(note)
                if note := precision_note(settings.training.precision, trained.training.precision, device):
                    reporter.note(note)
            lengths = length_table(corpus, sorted({stage.settings.training.sequence_length for stage in stages}))
            orders = samplers(stages, corpus)  # of all at once: where one lacks text is told before the first begins
            current = stages[0]
            if resume and len(stages) > 1:
                current = stage_at(stages, step_of(newest_intact(folder)[0]))
            # Of all that are left: what a later one cannot ask of the model is told before training, too.
            tasks = [_task(stage, orders, corpus, device, ranks) for stage in stages[current.number - 1 :]]
            if not resume and first:
                if started:
                    run_folder.check_same_weights(folder)
                else:
                    stack.enter_context(keep_out())
                    run_folder.refuse_other_run(folder)  # nor has one begun meanwhile
                run_folder.create(folder, settings, run_folder.DataRecord.of(corpus, lengths), device, layout)
        while True:
            if current.name and first:  # whoever reads the folder meanwhile finds the model of its stage
                write_json(folder / "config.json", current.settings.model.to_dict())
            summary = train(
                folder,
                current.settings,
                tasks.pop(0),
                reporter,
                steps=steps,
                steps_before=steps_before,
                device=device,
                data=describe(corpus) + ("; attention stays inside a document" if data.document_mask else ""),
                documents=describe_lengths(lengths),
                resume=resume,
                should_stop=should_stop,
                stage=current,
                ranks=ranks,
            )
            if summary["status"] != "finished" or current.number == len(stages):
                return summary
            current, resume = stages[current.number], True  # from the checkpoint that this one left
            gc.collect()  # a recorded step holds the memory of its graph


def _check(settings: RunSettings, device: torch.device, ranks: Ranks | None) -> None:
    """Refuses what cannot be trained here, before the text is read."""
    layout, beside, of_what = None if ranks is None else ranks.layout, 0, ""
    if layout is not None and settings.training.evaluate_tasks:
        on_gpu, of_what = device.type == "cuda", "the whole models that training.evaluate_tasks ask"
        width = 2 if on_gpu and compute_dtype(settings.training.precision, device) == torch.bfloat16 else 4
        beside = width * total_params(settings.model) * (1 if on_gpu else layout.processes)
    check_memory(settings.model, settings.training, device, layout=layout, beside=beside, of_what=of_what)
    check_grouped_product(settings.model, settings.training, device)
    if layout is None:
        check_recording(settings.model, settings.training, device)
    else:
        check_shared(settings, layout)


def _corpus(data: DataConfig, settings: RunSettings, progress: Progress | None, ranks: Ranks | None) -> Corpus:
    """The text; of several processes the first one prepares it, and the others find it in the cache."""
    corpus: Corpus | None = None

    def report(stage: str, share: float) -> None:
        if ranks is not None:
            ranks.mark()
        if progress is not None:
            progress(stage, share)

    with together(ranks):
        if ranks is None or ranks.is_first:
            corpus = prepare_corpus(data, settings.model.vocab_size, report)
    with together(ranks):
        return corpus or prepare_corpus(data, settings.model.vocab_size)


def _task(
    stage: Stage, orders: list[Sampler], corpus: Corpus, device: torch.device, ranks: Ranks | None = None
) -> Pretraining:
    """What is learnt in a stage, or in a run without."""
    if not stage.name:
        return Pretraining(stage.settings, corpus, stage.steps, device, ranks=ranks)
    of_stage: dict[str, Any] = {"sampler": orders[stage.number - 1], "first_step": stage.first}
    return Pretraining(stage.settings, corpus, stage.steps, device, ranks=ranks, **of_stage)


def precision_note(asked: str, begun: str, device: torch.device) -> str:
    """A sentence where a run goes on in another precision than its auto would be for a new run on this device."""
    here = dtype_name(compute_dtype(asked, device))
    if begun in (asked, here):
        return ""
    return (
        f"the run goes on in {begun}, in which it began: training.precision auto is {here} here, but for new runs only"
    )


def describe(corpus: Corpus) -> str:
    """One line on the text: sources, tokens, bytes per token, and what was left out of it and why."""
    train_tokens, validation_tokens = (sum(map(len, side.values())) for side in (corpus.train, corpus.validation))
    sizes = (
        f"{train_tokens:,} training and {validation_tokens:,} validation tokens of {corpus.bytes_per_token:.2f} bytes"
    )
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in corpus.left_out.items())
    return f"{', '.join(corpus.train)}: {sizes}" + (f"; left out: {left_out}" if left_out else "")
