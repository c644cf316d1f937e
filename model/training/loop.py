"""The training loop, the only one: any task that gives micro-batches and their loss is trained by it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.run import has_generator_state, task_tensors, whole_weights
from model.config.released import reasons_against
from model.counts import activated_params, total_params, training_flops_per_token
from model.device import autocast, compute_dtype, dtype_name, keep_freed_memory, measure_peak_flops
from model.errors import CheckpointError, PeerError, TrainingError
from model.files import write_json
from model.parallel.start import Ranks
from model.training.events import Reporter, RunPlan
from model.training.held import hold
from model.training.metrics import RoutingWatch, routing_metrics
from model.training.noise_scale import NoiseScale, roles_of
from model.training.optimizer import describe_groups
from model.training.prepare import warm_up
from model.training.run_folder import MetricsLog
from model.training.schedule import describe_lengthening, learning_rate_ratio
from model.training.settings import RunSettings
from model.training.split_adamw import SplitAdamW
from model.training.stages import Stage
from model.training.step import Launched, StepResult, TrainStep
from model.training.task import FollowingTask, Task

# Of the last line of metrics.jsonl, which is an evaluated one when the run is finished.
SUMMARY_KEYS = [
    *("loss", "val_loss", "val_bits_per_byte", "val_accuracy", "val_margin"),
    *("aux_loss", "dropped_fraction", "recycled_fraction", "load_imbalance"),
    *("margin", "accuracy", "chosen_logp_change", "kl", "proxy_reward", "true_reward", "other_reward", "answer_length"),
    *("average_kl", "average_proxy_reward", "average_true_reward", "average_other_reward"),
]
OLD_PLACES = (
    "this run began in an older version of hunyuan, which drew the random places of recycle routing from a generator: it goes "
    "on with places that follow from the seed and the step, as good but not the same, so it will not repeat to the bit"
)


def train(
    folder: Path,
    settings: RunSettings,
    task: Task,
    reporter: Reporter,
    *,
    steps: int,
    device: torch.device,
    steps_before: int | None = None,
    data: str = "",
    documents: Sequence[str] = (),
    batch: str = "",
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    stage: Stage | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Trains in an existing run folder until the end or until should_stop() and returns the summary it leaves there.

    With a `stage`, whose settings are given, it trains to the end of that; a summary is left at that of the last one alone.
    With `ranks` this process is one of several, all of which call it; the first one writes and reports.

    `data`, `documents` and `batch` are a line on the data, lines on its documents, and what a step learns from where that is
    not so many tokens of text.
    `steps_before` is the length that a resumed run had until now: where it was another, the reporter is told what follows.
    Raises TrainingError when the loss or a gradient is not finite, before any weight is touched, and CheckpointError
    when the disk is full; the last good checkpoint stays.
    """
    session = _Session(folder, settings, task, reporter, steps, device, stage, ranks)
    session.begin(resume)
    if resume and steps_before not in (None, steps):
        reporter.note(describe_lengthening(settings.training, session.step, steps_before, steps))
    reporter.start(session.plan(data, tuple(documents), batch))
    try:
        apart = settings.data.document_mask
        warm_up(session.net, session.config, device, reporter.note, documents=apart)
        session.run(should_stop)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror or error}) at step {session.step}: free some space, "
            "then go on with --resume"
        ) from error
    finally:
        session.log.close()
    return session.summary


class _Session:
    """The state of one run while it is going on."""

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        task: Task,
        reporter: Reporter,
        steps: int,
        device: torch.device,
        stage: Stage | None,
        ranks: Ranks | None,
    ) -> None:
        self.folder, self.settings, self.task, self.reporter = folder, settings, task, reporter
        self.stage, self.end = stage, steps if stage is None else stage.end
        self.config, self.steps, self.device = settings.training, steps, device
        keep_freed_memory(device)
        self.held = hold(settings, task, device, ranks)
        self.net, self.optimizer = self.held.net, self.held.optimizer
        self.processes, self.writes = (1, True) if ranks is None else (ranks.layout.processes, ranks.is_first)
        self.dtype = compute_dtype(self.config.precision, device)
        of_step = self.net, self.optimizer, settings, task, device, self.dtype, reporter.note
        self.train_step = TrainStep(*of_step, shards=self.held.shards)
        self.peak_flops = measure_peak_flops(device, self.dtype)
        self.flops_per_token = training_flops_per_token(settings.model, self.config.sequence_length)
        self.activated_params = activated_params(settings.model)
        self.watch, self.noise = RoutingWatch(), NoiseScale(roles_of(self.optimizer))
        self.following = task if isinstance(task, FollowingTask) else None
        self.step, self.tokens, self.seconds, self.saved_step = 0, 0, 0.0, 0
        self.stop = False  # whether a process among several was asked to
        self.last_row: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}

    def begin(self, resume: bool) -> None:
        """Opens the record, after taking up the newest intact checkpoint when resuming, or the weights to begin with."""
        if resume:
            self._restore()
        elif self.config.init_from:
            self.held.load(Path(self.config.init_from))
        else:
            self.held.draw()
        if isinstance(self.optimizer, SplitAdamW):
            self.optimizer.begin()
        if self.following is not None:
            with autocast(self.device, self.dtype):
                self.following.begin(self.net)
        self.log = MetricsLog(self.folder, self.step, writes=self.writes)

    def _restore(self) -> None:
        checkpoint, passed_over = self.held.newest(self.folder)
        for sentence in passed_over:
            self.reporter.note(sentence)
        if self.settings.model.moe_routing == "recycle" and has_generator_state(checkpoint):
            self.reporter.note(OLD_PLACES)
        state = self.held.restore(checkpoint)
        self.step, self.seconds, self.saved_step = state["step"], state["seconds"], state["step"]
        self.tokens = state.get("tokens", self.step * self.config.global_batch_tokens)  # older checkpoints do not say
        self.last_row, self.watch = state["last_row"], RoutingWatch(state["unhealthy"])
        self.noise = NoiseScale(self.noise.roles, state.get("noise"))
        if self.stage is not None and self.stage.name and not self.stage.first <= self.step <= self.end:
            raise CheckpointError(
                f"{self.folder} goes on from step {self.step}, which is not in the stage {self.stage.name}: start it again "
                "with --resume"
            )
        if self.following is not None:
            self.following.restore(task_tensors(checkpoint), state["task"])

    def plan(self, data: str, documents: tuple[str, ...], batch: str) -> RunPlan:
        batch_tokens = self.config.global_batch_tokens
        return RunPlan(
            folder=self.folder,
            device=f"{self.device} {dtype_name(self.dtype)}",
            steps=self.steps,
            start_step=self.step,
            tokens=self.steps * batch_tokens,
            global_batch_tokens=batch_tokens,
            total_params=total_params(self.settings.model),
            activated_params=self.activated_params,
            flops_per_token=self.flops_per_token,
            peak_flops=self.peak_flops,
            groups=describe_groups(self.optimizer, self.config.learning_rate),
            data=data,
            documents=documents,
            batch=batch,
            not_for_transformers="; ".join(self._reasons_against_transformers()),
            stage=self.stage.describe() if self.stage is not None and self.stage.name else "",
        )

    def _reasons_against_transformers(self) -> list[str]:
        """What a new model should be told by; whose weights are there already is what it is."""
        return [] if self.config.init_from else reasons_against(self.settings.model, "transformers")

    def run(self, should_stop: Callable[[], bool]) -> None:
        c, status = self.config, "finished"
        self._mark()
        before: Launched | None = None  # a step that is not looked at yet: a GPU may still be at it
        while self.step < self.end:
            asked = should_stop()
            if self.stop or (asked and self.processes == 1):  # several stop when all know of it, after the same step
                status = "interrupted"
                break
            if (
                before is not None and self.following is not None
            ):  # its figures are of this step: the next one has others
                self._look_at(before)
                before = None
            launched = self._train_step(asked)
            if before is not None:
                self._look_at(before)
            self.step, self.tokens = self.step + 1, self.tokens + launched.tokens
            last = self.step == self.end
            evaluated = last or (c.evaluate_every > 0 and self.step % c.evaluate_every == 0)
            saved = last or (c.checkpoint_every > 0 and self.step % c.checkpoint_every == 0)
            before = launched
            if evaluated or saved or not launched.is_under_way:
                self._look_at(launched, evaluated)
                before = None
            if saved:
                self.seconds += time.perf_counter() - self.mark_time  # since the last line
                self._save()
                self._mark()
        if before is not None:
            self._look_at(before)
        if self.saved_step != self.step:
            self.seconds += time.perf_counter() - self.mark_time
            self._save()
        self._finish(status)

    def _look_at(self, launched: Launched, evaluated: bool = False) -> None:
        """Reads the last step that was counted, and writes its line where one is due. A later one may be under way."""
        result = self._read(launched)
        if not evaluated and self.step % self.config.log_every:
            return
        now = time.perf_counter()
        elapsed = now - self.mark_time
        self.seconds += elapsed
        speed = (self.tokens - self.mark_tokens) / elapsed
        self.last_row = self._row(result, speed) | (self._evaluate() if evaluated else {})
        self.log.write(self.last_row)
        self.reporter.step(self.last_row)
        if warning := self.watch.check(result.routing):
            self.reporter.note(f"step {self.step}: {warning}")
        # A GPU goes on with the next step meanwhile; else what this took is no time of training.
        self._mark(now if launched.is_under_way and not evaluated else None)

    def _mark(self, now: float | None = None) -> None:
        """From here on the time and the tokens of the next line are counted."""
        self.mark_time, self.mark_tokens = now or time.perf_counter(), self.tokens

    def _train_step(self, stop: bool) -> Launched:
        if self.following is None:
            return self.train_step(self.step, self._learning_rate(self.step), stop)
        self.net.eval()
        with autocast(self.device, self.dtype):
            self.following.before_step(self.net, self.step)
        launched = self.train_step(self.step, self._learning_rate(self.step))
        self.following.after_step(whole_weights(self.net, self.optimizer))
        return launched

    def _read(self, launched: Launched) -> StepResult:
        """What a step came to; TrainingError where that is not finite."""
        result = launched.result()
        if not result.is_finite:
            raise (TrainingError if self.writes else PeerError)(  # all know it: one says it
                f"the loss is {result.loss} and the gradient norm {result.grad_norm} at step {launched.step + 1}: stopped "
                f"before the update; {self._last_good()}; start a new run with a lower training.learning_rate"
            )
        self.stop = self.stop or result.stop
        self.noise.add(result.noise)
        return result

    def _last_good(self) -> str:
        if self.saved_step == 0:
            return "nothing had been saved"
        return f"the last good checkpoint is that of step {self.saved_step}"

    def _learning_rate(self, step: int) -> float:
        if self.stage is not None:
            return self.stage.learning_rate(step)
        return self.config.learning_rate * learning_rate_ratio(self.config, step, self.steps)

    def _flops(self) -> int:
        """Training FLOPs of the run until now, whose context may have been another in earlier stages."""
        return self.tokens * self.flops_per_token if self.stage is None else self.stage.flops(self.tokens)

    def _row(self, result: StepResult, speed: float) -> dict[str, Any]:
        return (
            {
                "step": self.step,
                "tokens": self.tokens,
                "flops": self._flops(),
                "loss": result.loss,
                "aux_loss": result.aux_loss,
                "lr": self._learning_rate(self.step - 1),
                "grad_norm": result.grad_norm,
                "tokens_per_second": speed,
                "seconds": self.seconds,
                "mfu": self._mfu(speed),
            }
            | routing_metrics(result.routing)
            | self.noise.figures()
            | ({"stage": self.stage.name} if self.stage is not None and self.stage.name else {})
            | ({} if self.following is None else self.following.figures(result.measures))
        )

    def _mfu(self, speed: float) -> float:
        """Model FLOPs utilisation: 6 FLOPs per activated parameter and token, over the measured ceiling."""
        return 6 * self.activated_params * speed / (self.peak_flops * self.processes)

    def _evaluate(self) -> dict[str, float]:
        self.net.eval()
        with autocast(self.device, self.dtype):
            return self.task.evaluate(self.net)

    def _save(self) -> None:
        self.log.sync()  # a resumed run cuts the log at its checkpoint and computes nothing before it again
        state = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "last_row": self.last_row,
            "unhealthy": self.watch.unhealthy,
        } | ({"noise": self.noise.state()} if self.config.measure_noise_scale else {})
        tensors = None
        if self.following is not None:
            tensors, state["task"] = self.following.state()
        of_stage: dict[str, Any] = {}
        if self.stage is not None and self.stage.name:
            of_stage = {"config": self.settings.model, "boundaries": self.stage.boundaries}
        self.held.save(self.folder, self.step, state, self.config.keep_checkpoints, tensors, **of_stage)
        self.saved_step = self.step

    def _finish(self, status: str) -> None:
        if status == "finished" and self.end < self.steps:  # the next stage goes on
            self.summary = {"status": status}
            return
        # At the start another process may have had a part of the machine: the ceiling is the better of two measurements.
        self.peak_flops = max(self.peak_flops, measure_peak_flops(self.device, self.dtype))
        self.summary = {
            "status": status,
            "steps": self.step,
            "tokens": self.tokens,
            "flops": self._flops(),
            "seconds": self.seconds,
            "total_params": total_params(self.settings.model),
            "activated_params": self.activated_params,
            "peak_flops": self.peak_flops,
        } | {key: value for key, value in self.last_row.items() if key in SUMMARY_KEYS or key.startswith("score_")}
        if self.seconds > 0:  # of the whole run, not of its last lines
            speed = self.tokens / self.seconds
            self.summary |= {"tokens_per_second": speed, "mfu": self._mfu(speed)}
        if self.writes:
            write_json(self.folder / "summary.json", self.summary)
        self.reporter.finish(self.summary)
