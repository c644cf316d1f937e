"""Does synthetic data teach, and does filtering it matter? Five arms at equal tokens, several seeds, on one machine.

    python examples/synthesis/ablation.py --seeds 5 --tokens 16M --workers 5 --out runs/ablation
    python examples/synthesis/ablation.py --preset toy --tokens 200K --seeds 1 --count 300 --test 60 --device cpu

    corpus       the text alone                            unfiltered   half text, half all answers, many of them wrong
    filtered     half text, half the answers kept          shuffled     half text, half the kept answers to other questions
    thinned      half text, half as many of all answers as are kept, so that its answers are read as often as theirs

Every arm trains the same model on the same number of tokens, with one tokenizer. Measured: bits per byte of held-out text; and,
on questions of the training templates (`seen`) and of held-out templates and problems (`held_out`), the share answered exactly,
the share where the right answer is likelier than a wrong one, and the bits per byte of the right answer. OUT/cells.csv has a
line for each run, OUT/families.csv one for each family, OUT/summary.csv paired differences with intervals over seeds.
"""

import argparse
import csv
import json
import math
import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ARMS = ("corpus", "filtered", "unfiltered", "shuffled", "thinned")
TESTS = ("seen", "held_out")
MEASURES = ("accuracy", "preference", "answer_bits_per_byte")
COLUMNS = ("arm", "seed", "tokens", "bits_per_byte", *(f"{test}_{measure}" for test in TESTS for measure in MEASURES))
ROWS = 64  # answers that are scored, or written, at a time
LONGEST = 64  # tokens of an answer


class Quiet:
    """A watcher of a synthesis that says nothing."""

    def begun(self, *_: Any) -> None: ...

    advanced = filtered = ended = begun


# --- data ------------------------------------------------------------------------------------------------------------


def synthesize(folder: Path, *, stages: tuple[int, ...] = (1, 2, 3), **options: Any) -> list[dict[str, Any]]:
    """The responses of the embedded writer over Python's library."""
    from model.data.synthesis.config import SynthesisConfig
    from model.data.synthesis.embedded import EmbeddedWriter
    from model.data.synthesis.pipeline import Synthesis
    from model.data.synthesis.store import read_records

    writer = EmbeddedWriter(split=options.pop("split"), error_rate=options.pop("error_rate"))
    synthesis = Synthesis(folder, SynthesisConfig(**options), {"embedded": writer}, "embedded", Quiet())
    with synthesis.held():
        synthesis.run(stages)
    return [dict(record) for record in read_records(folder / "3_responses")]


def make_arms(out: Path, count: int, error_rate: float) -> None:
    """The text of every arm but `corpus`, as JSON lines, and how many answers each has."""
    from model.data.synthesis.filter import FilterConfig
    from model.data.synthesis.keeping import keep
    from model.data.synthesis.store import read_records

    folder = out / "synthesis"
    written = synthesize(folder, split="train", error_rate=error_rate, count=count)
    keep(folder, FilterConfig(duplicates=1.0), Quiet())
    kept = [dict(record) for record in read_records(folder / "4_kept")]
    thinned = random.Random(0).sample(written, len(kept))
    arms = {"unfiltered": written, "filtered": kept, "shuffled": shuffled(kept), "thinned": thinned}
    for arm, records in arms.items():
        lines = [json.dumps({"text": text_of(record)}, ensure_ascii=False) + "\n" for record in records]
        (out / f"{arm}.jsonl").write_text("".join(lines), encoding="utf-8")
    sizes = {arm: len(records) for arm, records in arms.items()}
    planted = (folder / "labels.jsonl").read_text().count("\n")
    write_json(out / "data.json", {"answers": sizes, "planted_errors": planted, "error_rate": error_rate})


def shuffled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question with the answer to another one of its family."""
    families: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        families.setdefault(record["task"]["family"], []).append(record)
    found = []
    for name, members in sorted(families.items()):
        answers = [record["response"] for record in members]
        random.Random(name).shuffle(answers)
        found += [{**record, "response": answer} for record, answer in zip(members, answers, strict=True)]
    return found


def text_of(record: dict[str, Any]) -> str:
    return f"{record['instruction']}\n\n{record['response']}"


def make_tests(out: Path, count: int) -> None:
    """Questions with a right and a wrong answer: the same records, written without errors and with nothing but errors."""
    for test, split in zip(TESTS, ("train", "held-out"), strict=True):
        options = {"split": split, "count": count, "seed": 1_000_003, "harder": 0.0, "expand": 0.0}
        right = synthesize(out / f"{test}-right", error_rate=0.0, **options)
        wrong = synthesize(out / f"{test}-wrong", error_rate=1.0, **options)
        rows = [
            {
                "question": a["instruction"],
                "right": a["response"],
                "wrong": b["response"],
                "family": a["task"]["family"],
            }
            for a, b in zip(right, wrong, strict=True)
            if a["response"] != b["response"]  # a signature without parameters, for one, has no error to plant
        ]
        write_json(out / f"{test}.json", rows)


def make_tokenizer(out: Path, vocab_size: int) -> None:
    from model.data.config import DataConfig
    from model.data.corpus import prepare_corpus

    corpus = prepare_corpus(DataConfig(sources=("stdlib", str(out / "filtered.jsonl"))), vocab_size)
    (out / "tokenizer.json").write_text(corpus.tokenizer.to_json())  # type: ignore[attr-defined]
    for arm in ARMS:  # into the cache, once for all workers
        prepare_corpus(DataConfig(**data_of(out, arm)), vocab_size)


def data_of(out: Path, arm: str) -> dict[str, Any]:
    """The section [data] of an arm's runs."""
    sources = ("stdlib",) if arm == "corpus" else ("stdlib", str(out / f"{arm}.jsonl"))
    return {"sources": sources, "weights": (1.0,) * len(sources), "tokenizer": str(out / "tokenizer.json")}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- one run ---------------------------------------------------------------------------------------------------------


def run_cell(out: Path, arm: str, seed: int, training: dict[str, Any], preset: str) -> list[dict[str, Any]]:
    """Trains and measures one model, in a process of its own: its row, then a row for each family of each test."""
    import torch

    from model.generation.engine import Engine
    from model.training.events import Silent
    from model.training.pretraining import pretrain
    from model.training.settings import RunSettings

    torch.set_num_threads(1)
    sections = {"model": {"preset": preset}, "data": data_of(out, arm), "training": training | {"seed": seed}}
    settings = RunSettings.from_sections(sections)
    folder = out / "runs" / f"{arm}-{seed}"
    summary = pretrain(folder, settings, Silent(), resume=(folder / "checkpoints").is_dir())
    device = training["device"]
    engine = Engine.from_folder(
        folder, device=("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    row: dict[str, Any] = {"arm": arm, "seed": seed, "tokens": summary["tokens"]}
    row["bits_per_byte"] = text_bits(out, engine, settings)
    rows = [row]
    for test in TESTS:
        questions = json.loads((out / f"{test}.json").read_text(encoding="utf-8"))
        scored = score(engine, questions)
        row |= {f"{test}_{measure}": mean(one[measure] for one in scored) for measure in MEASURES}
        for family in sorted({question["family"] for question in questions}):
            own = [one for one, question in zip(scored, questions, strict=True) if question["family"] == family]
            means = {measure: mean(one[measure] for one in own) for measure in MEASURES}
            rows.append({"arm": arm, "seed": seed, "test": test, "family": family, "n": len(own), **means})
    return rows


def mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def text_bits(out: Path, engine: Any, settings: Any) -> float:
    """Bits per byte of the text's validation part, which is the same for every arm."""
    from model.data.config import DataConfig
    from model.data.corpus import prepare_corpus
    from model.training.pretraining import Pretraining

    corpus = prepare_corpus(DataConfig(**data_of(out, "corpus")), engine.net.config.vocab_size)
    task = Pretraining(settings, corpus, 1, engine.net.embed_tokens.weight.device)
    return task.evaluate(engine.net)["val_bits_per_byte"]


def score(engine: Any, questions: list[dict[str, Any]]) -> list[dict[str, float]]:
    """accuracy, preference and answer_bits_per_byte of each question."""
    from model.data.synthesis.answers import final_answer, read

    given = answers(engine, questions)
    right, wrong = (likelihoods(engine, [(q["question"], q[side]) for q in questions]) for side in ("right", "wrong"))
    return [
        {
            "accuracy": float(read(final_answer(text)) == read(final_answer(question["right"]))),
            "preference": float(r > w),
            "answer_bits_per_byte": -r / math.log(2) / len(question["right"].encode()),
        }
        for question, text, r, w in zip(questions, given, right, wrong, strict=True)
    ]


def prompt_ids(engine: Any, question: str, answer: str) -> tuple[list[int], int]:
    """The tokens of question and answer as they are trained on, and how many of them are the question's."""
    ids = engine.tokenizer.encode(f"{question}\n\n{answer}")
    lengths, asked, count = engine.tokenizer.byte_lengths(), len(f"{question}\n\n".encode()), 0
    while asked > 0:
        asked -= int(lengths[ids[count]])
        count += 1
    return ids, count


def answers(engine: Any, questions: list[dict[str, Any]]) -> list[str]:
    """What the model answers, greedily. Prompts of one length are read together."""
    from model.generation.generate import generate_batch
    from model.generation.request import Request
    from model.generation.sampling import Sampling

    requests = []
    for question in questions:
        ids, count = prompt_ids(engine, question["question"], question["right"])
        requests.append(Request(ids[:count], LONGEST, end_ids=engine.end_ids, stream=engine.tokenizer.stream()))
    by_length = sorted(requests, key=lambda request: len(request.prompt))
    for _ in generate_batch(
        engine.net, by_length, sampling=Sampling(temperature=0.0), slots=ROWS, session=engine.session
    ):
        pass
    return [request.text.strip() for request in requests]


def likelihoods(engine: Any, pairs: list[tuple[str, str]]) -> list[float]:
    """The log-probability in nats of each answer and the end after it, given its question."""
    import torch

    from model.posttraining.logps import token_logps

    device = engine.net.embed_tokens.weight.device
    rows = [prompt_ids(engine, question, answer) for question, answer in pairs]
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda number: len(rows[number][0]))
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        width = max(len(rows[number][0]) for number in chosen) + 1
        ids = torch.full((len(chosen), width), engine.tokenizer.eos_id)
        mask = torch.zeros((len(chosen), width), dtype=torch.bool)
        for place, number in enumerate(chosen):
            tokens, asked = rows[number]
            ids[place, : len(tokens)] = torch.tensor(tokens)
            mask[place, asked : len(tokens) + 1] = True
        with torch.no_grad():
            sums = token_logps(engine.net, ids.to(device), mask.to(device)).logps.sum(1)
        for place, number in enumerate(chosen):
            found[number] = float(sums[place])
    return found


# --- the study -------------------------------------------------------------------------------------------------------


def summarize(out: Path) -> None:
    """Means, and differences from three of the arms seed by seed with their intervals, of every measure."""
    import pandas as pd

    from analyses.training.seeds import variants_table

    cells = pd.read_csv(out / "cells.csv").rename(columns={"arm": "variant"})
    tables = []
    for measure in COLUMNS[3:]:
        for baseline in ("corpus", "unfiltered", "thinned"):
            if baseline in set(cells["variant"]):
                table = variants_table(cells, baseline, measure)
                tables.append(table.assign(measure=measure, baseline=baseline))
    summary = pd.concat(tables)
    summary.to_csv(out / "summary.csv", index=False, float_format="%.5f")
    print(summary.to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--preset", default="ladder-256")
    parser.add_argument("--count", type=int, default=16_000, help="instructions of stage 1 for training")
    parser.add_argument("--test", type=int, default=480, help="questions of each test")
    parser.add_argument("--error-rate", type=float, default=0.4)
    parser.add_argument("--tokens", default="16M")
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    from hunyuan_cli.options.sizes import parse_count
    from model.config import HunyuanConfig

    began = time.monotonic()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    make_arms(out, options.count, options.error_rate)
    make_tests(out, options.test)
    make_tokenizer(out, HunyuanConfig.from_name(options.preset).vocab_size)
    print(f"data after {time.monotonic() - began:.0f} s: {(out / 'data.json').read_text()}", flush=True)
    tokens = parse_count(options.tokens)
    training = {
        "tokens": tokens, "global_batch_tokens": options.batch_tokens, "micro_batch_size": min(64, options.batch_tokens // 256),
        "learning_rate": options.learning_rate, "device": options.device, "evaluate_every": 0, "checkpoint_every": 0,
        "log_every": 50, "evaluation_tokens": min(262_144, tokens),
    }  # fmt: skip
    cells = [(arm, seed) for seed in range(options.seeds) for arm in ARMS]
    with (
        (out / "cells.csv").open("w", newline="") as cells_file,
        (out / "families.csv").open("w", newline="") as families_file,
        ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool,
    ):
        cell_rows = csv.DictWriter(cells_file, COLUMNS, lineterminator="\n")
        family_rows = csv.DictWriter(
            families_file, ("arm", "seed", "test", "family", "n", *MEASURES), lineterminator="\n"
        )
        cell_rows.writeheader()
        family_rows.writeheader()
        waiting = [pool.submit(run_cell, out, arm, seed, training, options.preset) for arm, seed in cells]
        for done in as_completed(waiting):
            row, *families = done.result()
            cell_rows.writerow(row)
            family_rows.writerows(families)
            cells_file.flush()
            families_file.flush()
            print(f"{time.monotonic() - began:.0f} s: {json.dumps(row)}", flush=True)
    summarize(out)


if __name__ == "__main__":
    main()
