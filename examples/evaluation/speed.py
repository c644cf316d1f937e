"""How fast `hunyuan eval` answers beside transformers' backend of lm-eval, on the same model and the same documents.

    hunyuan train --model toy-hf --out runs/toy-hf
    python examples/evaluation/speed.py runs/toy-hf --output examples/evaluation/speed.json

The model is exported by `hunyuan convert --to transformers`. The documents are ours: some lines of the standard library, and
four ways to go on, one of which is the true one; asked alone, with three examples drawn for each document, as gsm8k's are, and
with the same five before all, as mmlu's. Both engines run lm-eval's own `evaluate` in this process on the same task, one after
the other, loading left out. What counts is the processors' time, for other jobs may be running: with --threads 1 it is that of
a quiet machine. The peer is asked the first --peer-documents, in batches of each of --batch-sizes, of which 1 is its
default; the scores of both are written down, and how many documents' likeliest choices differ from those of its fastest.
Needs the extras eval and hf, and the package accelerate.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.evaluator import evaluate

from model.checkpoint.convert import convert
from model.data.sources import STDLIB, read_source
from model.evaluation.asking import Model
from model.evaluation.harness.lm import HarnessModel
from model.evaluation.harness.run import quiet
from model.evaluation.harness.tasks import load_tasks
from model.files import write_json
from model.generation.engine import Engine

TASK = """\
task: next_line
dataset_path: ours
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "{{context}}"
doc_to_target: label
doc_to_choice: choices
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
"""


FIXED = """\
include: next_line.yaml
task: next_line_fixed
fewshot_config:
  sampler: first_n
"""
CASES = (("next_line", 0), ("next_line", 3), ("next_line_fixed", 5))  # task and examples before each document


def documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two to six lines of a module, the one after them, and three that stand elsewhere, in random order."""
    generator = random.Random(seed)
    modules = [document.text.splitlines() for document in read_source(STDLIB)]
    lines = [(module, at) for module in modules for at in range(6, len(module)) if 12 < len(module[at].strip()) < 60]
    found = []
    for module, at in generator.sample(lines, count):
        others = [m[place] for m, place in generator.sample(lines, 3)]
        order = [module[at], *others]
        generator.shuffle(order)
        context = "\n".join(module[at - generator.randint(2, 6) : at])
        found.append({
            "context": context, "choices": ["\n" + line for line in order], "label": order.index(module[at])
        })  # fmt: skip
    return found


def write_task(folder: Path, count: int) -> None:
    (folder / "ours").mkdir()
    (folder / "next_line.yaml").write_text(TASK)
    (folder / "next_line_fixed.yaml").write_text(FIXED)
    rows = documents(count + 20)
    for split, part in (("test", rows[:count]), ("train", rows[count:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / "ours" / f"{split}.jsonl").write_text(text, encoding="utf-8")


def timed(lm: Any, data: Path, task: str, shots: int, limit: int) -> dict[str, Any]:
    """The scores of the first documents, and the seconds that they took, from prompts to scores."""
    with quiet():
        loaded = load_tasks([task], data=data, shots=shots, seed=1234)
        begin, cpu = time.perf_counter(), time.process_time()
        found = evaluate(lm, loaded, limit=limit, bootstrap_iters=0)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    scores = found["results"][task]
    chosen = [[answer[0][0] for answer in sample["resps"]] for sample in found["samples"][task]]
    return {
        "documents": limit, "seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3),
        "documents_per_cpu_second": round(limit / cpu, 2),
        "acc": scores["acc,none"], "acc_norm": scores["acc_norm,none"],
        "chosen": [row.index(max(row)) for row in chosen],
    }  # fmt: skip


def study(run: Path, count: int, peer_count: int, batch_sizes: list[int]) -> dict[str, Any]:
    import transformers
    from lm_eval.models.huggingface import HFLM

    engine = Engine.from_folder(run, dtype="float32")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        data, exported = Path(scratch) / "data", Path(scratch) / "exported"
        data.mkdir()
        write_task(data, count)
        convert(run, exported, to="transformers", check=False)
        peers = {size: HFLM(str(exported), device="cpu", dtype="float32", batch_size=size) for size in batch_sizes}
        for task, number in CASES:
            timed(HarnessModel(Model(engine)), data, task, number, 8)  # what is set up at first use
            ours = timed(HarnessModel(Model(engine)), data, task, number, count)
            same = timed(HarnessModel(Model(engine)), data, task, number, peer_count)
            theirs = {size: timed(peer, data, task, number, peer_count) for size, peer in peers.items()}
            best = max(theirs, key=lambda size: theirs[size]["documents_per_cpu_second"])
            differing = sum(a != b for a, b in zip(same["chosen"], theirs[best]["chosen"], strict=True))
            for result in (ours, same, *theirs.values()):
                result.pop("chosen")
            speed = same["documents_per_cpu_second"]
            rows.append({
                "task": task, "shots": number, "hunyuan": ours, "hunyuan_on_the_peers_documents": same,
                "transformers": theirs, "fastest_batch_size": best, "documents_chosen_otherwise": differing,
                "ratio_to_its_first_batch_size": round(speed / theirs[batch_sizes[0]]["documents_per_cpu_second"], 2),
                "ratio_to_its_fastest": round(speed / theirs[best]["documents_per_cpu_second"], 2),
            })  # fmt: skip
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    versions = {"lm_eval": lm_eval.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {"model": run.name, "threads": torch.get_num_threads(), "load": os.getloadavg()[0], **versions, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder that transformers can be given, such as one of toy-hf")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--peer-documents", type=int, default=200)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    found = study(asked.run, asked.documents, min(asked.peer_documents, asked.documents), asked.batch_sizes)
    if asked.output is None:
        print(json.dumps(found, indent=2))
    else:
        write_json(asked.output, found)


if __name__ == "__main__":
    main()
