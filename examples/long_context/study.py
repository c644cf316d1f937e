"""What a longer context needs: the RoPE base raised against kept, with training at the longer context and without, by seeds.

    python examples/long_context/study.py --quick                          two seeds at toy size, under a minute of a laptop
    python examples/long_context/study.py --device cuda --minutes 9        three seeds on one GPU; run it again to go on

A seed has a model that is pre-trained at 2K. Its arms begin with that and are one run of two stages each, 8K and 32K, whose
mixture is the report's: a quarter natural long text, the files of a folder joined, and three quarters of the rest, which are
short text and retrieval tasks. Arms differ in the RoPE base alone. Measured before and after every stage, on text and tasks
that are never trained on: loss by position, and the accuracy of key-value retrieval by length and depth. OUT/loss.csv and
OUT/retrieval.csv have a line for every cell that is done; a study that was cut goes on where it was. figures.py draws them.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THETA = 10_000.0
REPORT = 1e9  # arXiv:2411.02265: the base of its stage of 256K
MODEL = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "num_experts": 8, "cla_share_factor": 1, "initializer_range": 0.028,
}  # fmt: skip
LOSS_COLUMNS = ("seed", "arm", "stage", "rope_base", "first", "end", "loss", "tokens")
RETRIEVAL_COLUMNS = ("seed", "arm", "stage", "rope_base", "length", "depth", "answers", "correct")


@dataclass(frozen=True)
class Plan:
    """The sizes of the study."""

    model: dict[str, Any]
    contexts: tuple[int, ...]  # of pre-training, and of the stages after it
    steps: tuple[int, ...]  # of each
    batch: int  # tokens of a step of pre-training
    stage_batch: int  # and of the stages after it
    tasks: tuple[int, ...]  # lengths of those of pre-training: the short ones are learnt first
    pairs: int  # in a measured document, all of which are asked for
    documents: int  # of each length that are asked about
    windows: int  # of held-out text as long as the last context, at most
    text_bytes: int
    lengths: tuple[int, ...]  # of measured documents
    learning_rate: float = 4e-3
    stage_rate: float = 1e-3

    def arms(self) -> dict[str, list[dict[str, float]]]:
        """What each stage after pre-training sets: alpha is by how much its context is longer."""
        stages = self.contexts[1:]
        return {
            "kept": [{} for _ in stages],
            "alpha": [{"alpha": float(context // self.contexts[0])} for context in stages],
            "1e9": [{"rope_theta": REPORT} for _ in stages],
        }


FULL = Plan(
    model=MODEL, contexts=(2048, 8192, 32_768), steps=(2400, 120, 120), batch=32_768, stage_batch=65_536,
    tasks=(128, 512, 2048), pairs=64, documents=8, windows=16, text_bytes=60_000_000,
    lengths=(512, 1024, 2048, 4096, 8192, 16_384, 32_768),
)  # fmt: skip
QUICK = Plan(
    model=MODEL | {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4,
    },
    contexts=(64, 128, 256), steps=(6, 2, 2), batch=256, stage_batch=256, tasks=(16, 64), pairs=4, documents=2,
    windows=4, text_bytes=300_000, lengths=(32, 64, 128, 256),
)  # fmt: skip


def write_text(out: Path, places: list[Path], most: int) -> None:
    """OUT/long and OUT/short: the Python files of the places, each once; every other folder, by its hash, is for joining."""
    seen: set[bytes] = set()
    total = 0
    folders = {path.parent for place in places for path in place.rglob("*.py")}

    def position(folder: Path) -> bytes:
        place = max((place for place in places if folder.is_relative_to(place)), key=lambda place: len(place.parts))
        return hashlib.sha256(folder.relative_to(place).as_posix().encode()).digest()

    for folder in sorted(folders, key=position):
        hashed = position(folder)
        for path in sorted(folder.glob("*.py")):
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            if digest in seen or len(content) > 1_000_000 or not _is_text(content) or total + len(content) > most:
                continue
            seen.add(digest)
            total += len(content)
            target = out / ("long" if hashed[-1] % 2 else "short") / hashed.hex()[:12] / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _is_text(content: bytes) -> bool:
    try:
        return len(content.decode()) <= 1000 * (content.count(b"\n") + 1)  # else a table that a machine wrote
    except UnicodeDecodeError:
        return False


def sections(plan: Plan, out: Path, seed: int, device: str) -> dict[str, dict[str, Any]]:
    """Pre-training: text, and tasks of several lengths."""
    context = plan.contexts[0]
    long, short = str((out / "text" / "long").absolute()), str((out / "text" / "short").absolute())
    return {
        "model": dict(plan.model) | {"max_position_embeddings": context, "rope_theta": THETA},
        "data": {
            "sources": [short, long, *(task(length) for length in plan.tasks), task(plan.tasks[0], "copy")],
            "weights": [0.3, 0.15, *[0.45 / len(plan.tasks)] * len(plan.tasks), 0.1],
            "join": [long], "validation_fraction": 0.1,
        },
        "training": {
            "steps": plan.steps[0], "seed": seed, "device": device, "sequence_length": context,
            "global_batch_tokens": plan.batch, "micro_batch_size": plan.batch // context,
            "learning_rate": plan.learning_rate, "evaluate_every": 0, "checkpoint_every": 300, "keep_checkpoints": 1,
            "log_every": 20, "evaluation_tokens": plan.batch, "precision": "auto" if device.startswith("cuda") else "float32",
        },
    }  # fmt: skip


def task(length: int, kind: str = "key_value") -> str:
    """Answers alone are learnt: a loss on keys and values that nobody could know hid the lesson (pilot.csv)."""
    return f"tasks:{kind}:length={length},count=100000,loss=answer"


def stages(plan: Plan, out: Path, arm: str) -> list[dict[str, Any]]:
    """The report's mixture for a long context, 25% natural long text, at the arm's base."""
    long, short = (str((out / "text" / name).absolute()) for name in ("long", "short"))
    whole = sum(plan.steps[1:])
    return [
        {
            "name": str(context), "share": steps / whole, "context": context,
            "sources": [long, short, task(plan.contexts[0]), task(context)], "weights": [0.25, 0.35, 0.15, 0.25],
            "learning_rate": plan.stage_rate, "final_learning_rate": plan.stage_rate / 10, "warmup_fraction": 0.1, **base,
        }
        for context, steps, base in zip(plan.contexts[1:], plan.steps[1:], plan.arms()[arm], strict=True)
    ]  # fmt: skip


class Stopped(Exception):
    """The time is over; what was done is saved."""


def trained(run: Path, settings: Any, should_stop: Callable[[], bool]) -> Path:
    """The run, begun, gone on with or as it was left."""
    from model.training import loop
    from model.training.events import Silent
    from model.training.pretraining import pretrain

    loop.measure_peak_flops = lambda device, dtype: 1.0  # several runs share the device, so that it would say nothing
    finished = (run / "summary.json").exists() and json.loads((run / "summary.json").read_text())[
        "status"
    ] == "finished"
    if not finished:
        summary = pretrain(run, settings, Silent(), resume=(run / "run.toml").exists(), should_stop=should_stop)
        if summary["status"] != "finished":
            raise Stopped
    return run


def seed_done(plan: Plan, out: Path, seed: int, device: str, deadline: float) -> Iterator[str]:
    """Everything of a seed; yields a sentence for each part that is done. Stopped once the deadline has passed."""
    from model.training.initial import take_over
    from model.training.settings import RunSettings

    def over() -> bool:
        return time.time() > deadline

    folder = out / str(seed)
    first = sections(plan, out, seed, device)
    began = time.perf_counter()
    run = trained(folder / "pretrain", RunSettings.from_sections(first), over)
    yield f"seed {seed}: pre-trained in {time.perf_counter() - began:.0f} s"
    start = str(plan.contexts[0])
    for arm, bases in plan.arms().items():
        for base in {json.dumps(base): base for base in bases}.values():  # as it is without any training there
            yield measured(plan, out, seed, arm, start, newest(run), base, device, over)
    for arm in plan.arms():
        began = time.perf_counter()
        own = {"data": {key: first["data"][key] for key in ("join", "validation_fraction")}}
        own["training"] = first["training"] | {
            "steps": sum(plan.steps[1:]), "checkpoint_every": 0, "global_batch_tokens": plan.stage_batch,
            "micro_batch_size": plan.stage_batch // plan.contexts[0],
        }  # fmt: skip
        own["data"]["sources"] = first["data"]["sources"][:1]  # each stage has its own
        taken = take_over(own, run)
        settings = RunSettings.from_sections(taken | {"stages": stages(plan, out, arm)})
        extended = trained(folder / arm, settings, over)
        yield f"seed {seed} {arm}: extended in {time.perf_counter() - began:.0f} s"
        ends = [sum(plan.steps[1 : place + 2]) for place in range(len(plan.steps) - 1)]
        for context, end in zip(plan.contexts[1:], ends, strict=True):
            checkpoint = extended / "checkpoints" / f"step-{end:08d}"
            yield measured(plan, out, seed, arm, str(context), checkpoint, None, device, over)


def newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def measured(
    plan: Plan, out: Path, seed: int, arm: str, stage: str, weights: Path, base: dict[str, float] | None, device: str,
    over: Callable[[], bool],
) -> str:  # fmt: skip
    """Measures a checkpoint, at its own base or at another; leaves OUT/SEED/measured/NAME.json and says the retrieval."""
    from measure import measure

    name = f"{arm}-{stage}" + (f"-{base['alpha']:g}" if base and "alpha" in base else "")
    path = out / str(seed) / "measured" / f"{name}.json"
    if not path.exists():
        if over():
            raise Stopped
        path.parent.mkdir(parents=True, exist_ok=True)
        found = measure(plan, out, weights, base, device)
        for rows in (found["loss"], found["retrieval"]):
            rows[:] = [{"seed": seed, "arm": arm, "stage": int(stage)} | row for row in rows]
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.replace(path)
    found = json.loads(path.read_text())
    shares: dict[int, list[int]] = {}
    for row in found["retrieval"]:
        answers, correct = shares.setdefault(row["length"], [0, 0])
        shares[row["length"]] = [answers + row["answers"], correct + row["correct"]]
    said = ", ".join(f"{length:,} {correct / answers:.0%}" for length, (answers, correct) in shares.items())
    return f"seed {seed} {name}: last loss {found['loss'][-1]['loss']:.3f}; retrieval {said}"


def write_tables(out: Path) -> None:
    """All that is measured as loss.csv and retrieval.csv."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*/measured/*.json"))]
    for name, columns in (("loss", LOSS_COLUMNS), ("retrieval", RETRIEVAL_COLUMNS)):
        with (out / f"{name}.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(row for each in found for row in each[name])


def run_seed(plan: Plan, out: Path, seed: int, device: str, deadline: float) -> str:
    """One seed in a process of its own."""
    import torch

    torch.set_num_threads(max(1, (torch.get_num_threads() // 3)))
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        for sentence in seed_done(plan, out, seed, device, deadline):
            print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)
    except Stopped:
        return f"seed {seed}: stopped in time, run it again to go on"
    return f"seed {seed}: done"


def prepare(plan: Plan, out: Path, places: list[Path], device: str) -> None:
    """The text, and its tokens in the cache that all seeds read."""
    from model.data.corpus import prepare_corpus
    from model.data.lengths import describe_lengths, length_table
    from model.training.settings import RunSettings

    if not (out / "text" / "done").exists():
        write_text(out / "text", places, plan.text_bytes)
        (out / "text" / "done").touch()
    settings = RunSettings.from_sections(sections(plan, out, 0, device))
    corpus = prepare_corpus(
        settings.data, settings.model.vocab_size, lambda stage, share: print(f"{stage} {share:.0%}")
    )
    lines = describe_lengths(length_table(corpus, plan.contexts))
    (out / "documents.txt").write_text("".join(f"{line}\n" for line in lines).replace(str(out.absolute()), "OUT"))
    print("\n".join(lines), flush=True)


def text_places() -> list[Path]:
    """The packages of this interpreter and its standard library."""
    import sysconfig
    from importlib.util import find_spec

    torch = find_spec("torch")
    assert torch is not None and torch.origin is not None, "the study trains with it"
    return [Path(torch.origin).parents[1], *(Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="2 seeds of a tiny model at 64, 128 and 256: a test of the path"
    )
    parser.add_argument("--seeds", type=int, help="3, or 2 with --quick")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop in time and save; the next call goes on")
    parser.add_argument(
        "--text", type=Path, action="append", help="folders of .py files; by default all that are installed"
    )
    parser.add_argument("--processes", type=int, help="one for each seed")
    parser.add_argument("--out", type=Path, default=Path("runs/long_context"))
    options = parser.parse_args()
    deadline = time.time() + 60 * options.minutes
    plan = QUICK if options.quick else FULL
    seeds = range(options.seeds or (2 if options.quick else 3))
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(plan, options.out, options.text or text_places(), options.device)
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(options.processes or len(seeds), context) as pool:
            jobs = [pool.submit(run_seed, plan, options.out, seed, options.device, deadline) for seed in seeds]
            for job in as_completed(jobs):
                print(job.result(), flush=True)
    finally:  # of all that was done, whatever became of a seed
        write_tables(options.out)


if __name__ == "__main__":
    main()
