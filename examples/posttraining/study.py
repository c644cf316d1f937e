"""Which of the report's claims on preferences hold where they can be checked: 18 arms on the digits of digits.py, by seeds.

    python examples/posttraining/study.py --quick --processes 2      12 runs, a quarter of an hour of a laptop
    python examples/posttraining/study.py --seeds 5 --processes 16   90 runs

A seed has its own data, its own model and its own fine-tuning, with which all its arms begin: arms are compared in pairs.
They are offline, online or mixed pairs x a term on the chosen answer of 0, 0.2 or 1 x the true or the flawed reward. All keep
an average of their weights, which is measured beside them. Every run is one of `hunyuan sft` or `hunyuan dpo`. OUT/curves.csv
has a line for every evaluation, as soon as its run is done; a study that was cut goes on where it was. figures.py draws them.
"""

import argparse
import csv
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

SHARES = {"offline": 0.0, "online": 1.0, "mixed": 0.5}
TERMS = (0.0, 0.2, 1.0)
REWARDS = {"fair": "digits", "flawed": "digits-flawed"}
DECAY = 0.95  # of the average: about the last 20 of 100 steps
FIGURES = (
    "kl", "true_reward", "proxy_reward", "other_reward", "answer_length", "chosen_logp_change", "rejected_logp_change",
    "margin", "accuracy", "val_accuracy", "online_share", "unusable_share",
)  # fmt: skip
COLUMNS = ("seed", "mode", "term", "reward", "weights", "step", *FIGURES)


class Arm(NamedTuple):
    mode: str
    term: float
    reward: str

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.term:g}-{self.reward}"


ARMS = [Arm(mode, term, reward) for reward in REWARDS for mode in SHARES for term in TERMS]
QUICK = [
    Arm("offline", 0.0, "fair"),
    Arm("offline", 0.2, "fair"),
    Arm("online", 0.2, "fair"),
    Arm("mixed", 0.2, "fair"),
]
QUICK += [Arm("mixed", 0.0, "flawed"), Arm("mixed", 0.2, "flawed")]


def fine_tuned(folder: Path, seed: int, steps: int, device: str, threads: int) -> float:
    """Makes the files of a seed and the model that its arms begin with, in FOLDER/sft; the seconds that took."""
    import torch
    from digits import write_base, write_files

    from model.posttraining.finetuning import fine_tune
    from model.training.events import Silent
    from model.training.initial import take_over
    from model.training.settings import RunSettings

    torch.set_num_threads(threads)
    began = time.perf_counter()
    if not (folder / "base").exists():
        write_files(folder, seed)
        write_base(folder / "base", seed)
    training = {
        "steps": steps, "seed": seed, "device": device, "sequence_length": 64, "micro_batch_size": 64,
        "global_batch_tokens": 4096, "learning_rate": 3e-3, "decay_ratio": 0.05, "final_ratio": 0.05, "anneal_fraction": 0.0,
        "evaluate_every": 0, "checkpoint_every": 0, "precision": "auto" if device.startswith("cuda") else "float32",
    }  # fmt: skip
    sections = {
        "training": training,
        "sft": {"samples": 0},
        "data": {"sources": [str((folder / "chats.jsonl").absolute())]},
    }
    settings = RunSettings.from_sections(take_over(sections, folder / "base"))
    run = folder / "sft"
    if not (run / "summary.json").exists():
        fine_tune(run, settings, Silent(), resume=(run / "checkpoints").is_dir())
    return time.perf_counter() - began


def learnt(folder: Path, seed: int, arm: Arm, steps: int, device: str) -> list[dict[str, Any]]:
    """One arm of a seed, in FOLDER/ARM: the lines of curves.csv, its start first."""
    import torch

    from model.posttraining.dpo_run import learn_preferences
    from model.training.events import Silent
    from model.training.initial import take_over
    from model.training.settings import RunSettings

    torch.set_num_threads(1)
    files = {name: str((folder / f"{name}.jsonl").absolute()) for name in ("offline", "flawed", "prompts", "reverse")}
    pairs = files["offline" if arm.reward == "fair" else "flawed"]
    sections: dict[str, dict[str, Any]] = {
        "training": {
            "steps": steps, "seed": seed, "device": device, "sequence_length": 32, "micro_batch_size": 32,
            "global_batch_tokens": 1024, "learning_rate": 5e-4, "weight_decay": 0.0, "warmup_fraction": 0.1, "decay_ratio": 0.1,
            "final_ratio": 0.1, "anneal_fraction": 0.0, "precision": "float32", "graph": False,
            "log_every": 5, "evaluate_every": 10, "checkpoint_every": 0,
        },
        "dpo": {
            "offline": [pairs], "prompts": files["prompts"], "other_prompts": files["reverse"], "reward": REWARDS[arm.reward],
            "true_reward": "digits", "online_share": SHARES[arm.mode], "sft_coefficient": arm.term, "average": DECAY,
            "samples": 8, "evaluation_prompts": 128, "reference": "memory",
        },
        "data": {"sources": [pairs, files["prompts"]]},
    }  # fmt: skip
    run = folder / arm.name
    settings = RunSettings.from_sections(take_over(sections, folder / "sft"))
    if not (run / "summary.json").exists():
        learn_preferences(run, settings, Silent(), resume=(run / "checkpoints").is_dir())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return list(_rows(seed, arm, [line for line in lines if "kl" in line]))


def _rows(seed: int, arm: Arm, lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for weights in ("last", "average"):
        prefix = "average_" if weights == "average" else ""
        key = {"seed": seed, **arm._asdict(), "weights": weights}
        start = {name: lines[0].get(f"reference_{name}", "") for name in FIGURES}
        yield key | {"step": 0} | start | {"kl": 0.0}
        for line in lines:
            yield key | {"step": line["step"]} | {name: line.get(prefix + name, "") for name in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 6 arms, a shorter fine-tuning")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, default=100, help="of an arm")
    parser.add_argument("--sft-steps", type=int)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of the arms")
    parser.add_argument("--sft-device", default="cpu", help="of the fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("runs/posttraining"))
    parser.add_argument("--curves", type=Path, help="by default OUT/curves.csv")
    options = parser.parse_args()
    seeds = range(options.seeds or (2 if options.quick else 5))
    sft_steps = options.sft_steps or (400 if options.quick else 800)
    arms = QUICK if options.quick else ARMS
    options.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(seeds), options.processes), context) as pool:
        threads = max(1, options.processes // len(seeds))
        waiting = {
            pool.submit(fine_tuned, options.out / str(seed), seed, sft_steps, options.sft_device, threads): seed
            for seed in seeds
        }
        for done in as_completed(waiting):
            print(f"seed {waiting[done]}: fine-tuned in {done.result():.0f} s", flush=True)
    with (
        (options.curves or options.out / "curves.csv").open("w", newline="") as file,
        ProcessPoolExecutor(options.processes, context) as pool,
    ):
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        runs = {
            pool.submit(learnt, options.out / str(seed), seed, arm, options.steps, options.device): (seed, arm)
            for seed in seeds
            for arm in arms
        }
        for number, finished in enumerate(as_completed(runs), start=1):
            seed, arm = runs[finished]
            rows = finished.result()
            table.writerows(rows)
            file.flush()
            last = next(row for row in reversed(rows) if row["weights"] == "last")
            figures = (
                f"true reward {last['true_reward']:.3f}, other skill {last['other_reward']:.3f}, KL {last['kl']:.1f}"
            )
            print(f"{number}/{len(runs)} seed {seed} {arm.name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
