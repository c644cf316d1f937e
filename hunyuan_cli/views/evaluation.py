"""What `hunyuan eval` opens and shows: the model with its kept answers, progress, and the scores beside others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hunyuan_cli.console import progress, stderr
from hunyuan_cli.results import emit, result_format

if TYPE_CHECKING:
    from model.endpoint.client import Client
    from model.evaluation.asking import Advance, Model
    from model.evaluation.record import Record

GO_ON = "stopped; the same command goes on from the answers in {out}"


@contextmanager
def asked_model(folder: Path, out: Path | None, *, dtype: str | None, device: str, **how: Any) -> "Iterator[Model]":
    """The model of a folder with the answers that lie in `out`, which no other process may use meanwhile."""
    from hunyuan_cli.views.generation import open_engine
    from model.errors import DataError
    from model.evaluation.asking import Model
    from model.evaluation.ledger import Ledger, identity
    from model.files import LOCK, hold

    lock = None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        lock = hold(out / LOCK)
        if lock is None:
            raise DataError(f"another process evaluates into {out}: wait for it, or choose another folder with --out")
    engine = open_engine(folder, dtype=dtype, weights=None, device=device, experts="memory", expert_cache=0)
    precision = str(engine.net.embed_tokens.weight.dtype)
    try:
        with Ledger(out, identity(folder, dtype=precision, device=device)) as ledger:
            yield Model(engine, ledger, **how)
    except KeyboardInterrupt:
        if out is not None:
            stderr(GO_ON.format(out=out))
        raise
    finally:
        if lock is not None:
            lock.close()


@contextmanager
def judge_client(
    url: str | None, name: str | None, key_env: str, concurrency: int, out: Path | None
) -> "Iterator[Client | None]":
    """The judge, whose replies lie in judge.jsonl of `out`, so that none is paid twice; None where no endpoint is named."""
    if url is None:
        yield None
        return
    from model.endpoint.client import Client
    from model.endpoint.config import EndpointConfig

    if name is None:
        raise typer.BadParameter("--judge needs the name of its model: add --judge-model")
    config = EndpointConfig(url=url, model=name, key_env=key_env, concurrency=concurrency, temperature=0.0)
    with Client(config, journal=None if out is None else out / "judge.jsonl", note=stderr) as client:
        yield client


@contextmanager
def stage(name: str, total: int | None) -> "Iterator[Advance]":
    with progress(name, total=total) as advance:
        yield advance


def draw(name: str, record: "Record", against: Path | None, plot: Path) -> None:
    """Score against length and the map of length and depth; of the other evaluation, too, where there is one."""
    from analyses.evaluation.lengths import plot_long_context
    from hunyuan_cli.files import save_figure
    from model.evaluation.record import read_samples

    others = {} if against is None else {str(against): read_samples(against)}
    save_figure(plot_long_context({name: record.samples} | others), plot)


def show(
    results: Mapping[str, Any],
    record: "Record",
    out: Path | None,
    *,
    against: Path | None,
    format: str,
    output: Path | None,
) -> None:
    """The scores, beside the report's where it has them, and beside another evaluation's."""
    from analyses.evaluation.beside_report import beside_report
    from analyses.evaluation.tables import differences_table, scores_table

    beside = beside_report(results["tasks"])
    compared = None if against is None else differences_table(results["tasks"], record.samples, against)
    if result_format(format, output) == "json":
        more: dict[str, Any] = {} if compared is None else {"against": {"folder": str(against), "rows": compared}}
        more |= {"report": beside} if len(beside) else {}
        emit({**results, **more}, format=format, output=output)
        return
    tables: dict[str, Any] = {"scores": scores_table(results["tasks"])}
    if len(beside):
        tables["beside the report, which does not print its prompts"] = beside
    if compared is not None and len(compared):
        tables[f"difference to {against}"] = compared
    emit(tables, format=format, output=output, as_written=("task", "metric", "benchmark"))
    if out is not None:
        stderr(f"results.json and samples.jsonl are in {out}")
