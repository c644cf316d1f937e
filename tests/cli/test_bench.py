"""`hunyuan bench`: what it measures, prints and refuses; no contender is started."""

import csv
import io
import json
from contextlib import contextmanager

import pandas as pd
import pytest
import torch

from analyses.bench import decoding as decode_benchmark
from analyses.bench import layer as layer_benchmark
from analyses.bench import prompts as prompt_benchmark
from analyses.bench import training as benchmark
from analyses.bench.decoding import LIMIT, SHAPES, DecodeWork
from analyses.bench.training import CEILING, SHAPE, Workload
from hunyuan_cli.commands import bench
from hunyuan_cli.main import run

TABLE = pd.DataFrame(
    [
        {"contender": CEILING, "flops_per_second": 2e11},
        {"contender": "hunyuan float32", "tokens_per_second": 12_345.0, "flops_per_second": 1e11, "of_ceiling": 0.5},
    ]
)


DECODE = pd.DataFrame(
    [
        {"shape": "small", "batch": 1, "contender": LIMIT, "bytes_per_second": 2e10},
        {
            "shape": "small",
            "batch": 1,
            "contender": "hunyuan float32",
            "tokens_per_second": 1234.5,
            "of_bandwidth": 0.75,
        },
    ]
)

READ = pd.DataFrame([{"shape": "small", "variant": "MHA", "context": 512, "prefill_seconds": 0.25}])


@pytest.fixture
def asked(monkeypatch):
    """The benchmarks asked for: [(workload or workloads, options)]."""
    calls = []

    def table(result):
        def call(work, **options):
            calls.append((work, options))
            return result

        return call

    monkeypatch.setattr(benchmark, "training_table", table(TABLE))
    monkeypatch.setattr(decode_benchmark, "decode_table", table(DECODE))
    monkeypatch.setattr(
        prompt_benchmark, "prompt_table", lambda works, lengths, **options: table(READ)((works, lengths), **options)
    )
    return calls


def test_defaults_are_the_workload_that_the_readme_quotes(asked, capsys):
    assert run(["bench", "train"]) == 0
    ((work, options),) = asked
    assert work == Workload(SHAPE, batch=8, sequence_length=256, device="cpu", threads=2)
    del options["progress"]
    assert options == {"rounds": 5, "steps": 3, "peer": False, "compiled": False}
    captured = capsys.readouterr()
    assert "matmul ceiling" in captured.out and "12.3K" in captured.out
    assert captured.err == "timing training steps ...\n"


def test_options_reach_the_benchmark(asked):
    assert run(["bench", "train", "--rounds", "2", "--steps", "4", "--threads", "3", "--peer", "--compile"]) == 0
    ((work, options),) = asked
    assert work.threads == 3
    assert (options["rounds"], options["steps"], options["peer"], options["compiled"]) == (2, 4, True, True)


def test_json_is_one_document_of_facts_and_contenders(asked, capsys):
    assert run(["bench", "train", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["batch"] == 8 and document["sequence_length"] == 256
    assert document["activated_params"] < document["training_flops_per_token"]
    ceiling, ours = document["contenders"]
    assert (ceiling["contender"], ceiling["tokens_per_second"]) == (CEILING, None)
    assert ours == {
        "contender": "hunyuan float32", "flops_per_second": 1e11, "tokens_per_second": 12345, "of_ceiling": 0.5,
    }  # fmt: skip


def test_a_layer_is_timed_on_the_processor_by_default(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        layer_benchmark, "layer_table", lambda works, **options: asked.append((works, options)) or TABLE
    )
    assert run(["bench", "layer", "--rounds", "2", "--peer", "--format", "json"]) == 0
    ((works, options),) = asked
    assert works == layer_benchmark.workloads("cpu") and (options["rounds"], options["peer"]) == (2, True)
    document = json.loads(capsys.readouterr().out)
    assert document["device"] == "cpu" and len(document["contenders"]) == len(TABLE)


def test_csv_is_the_contenders_and_goes_to_the_file(asked, tmp_path, capsys):
    target = tmp_path / "speed.csv"
    assert run(["bench", "train", "--output", str(target)]) == 0
    rows = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [row["contender"] for row in rows] == [CEILING, "hunyuan float32"]
    assert capsys.readouterr().out == ""


def test_decoding_by_default_is_of_both_shapes_alone_and_of_eight(asked, capsys):
    assert run(["bench", "decode"]) == 0
    ((works, options),) = asked
    assert works == [
        DecodeWork(shape, SHAPES[shape], batch, prompt_tokens=32, new_tokens=128, device="cpu", threads=2)
        for shape in ("small", "large")
        for batch in (1, 8)
    ]
    del options["progress"]
    assert options == {"rounds": 5, "peer": False, "compiled": False, "int8": False}
    captured = capsys.readouterr()
    assert LIMIT in captured.out and "0.75" in captured.out
    assert captured.err == "timing generation ...\n"


def test_options_reach_the_benchmark_of_decoding(asked):
    options = "--shape small --batch 2,1,2 --prompt-tokens 5 --new-tokens 7 --threads 3 --rounds 2 --peer --compile"
    assert run(["bench", "decode", *options.split()]) == 0
    ((works, found),) = asked
    assert [(work.shape, work.batch, work.prompt_tokens, work.new_tokens, work.threads) for work in works] == [
        ("small", 2, 5, 7, 3), ("small", 1, 5, 7, 3)]  # fmt: skip
    assert (found["rounds"], found["peer"], found["compiled"]) == (2, True, True)


def test_decoding_as_one_json_document(asked, capsys):
    assert run(["bench", "decode", "--new-tokens", "9", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    facts = {"device": "cpu", "threads": 2, "prompt_tokens": 32, "new_tokens": 9}
    assert {key: document[key] for key in facts} == facts
    limit, ours = document["contenders"]
    assert (limit["contender"], limit["bytes_per_second"], limit["of_bandwidth"]) == (LIMIT, 2e10, None)
    assert (ours["tokens_per_second"], ours["of_bandwidth"], ours["bytes_per_second"]) == (1234.5, 0.75, None)


def test_contexts_are_a_table_of_their_own(asked, monkeypatch, capsys):
    from analyses.bench import contexts

    seen = []
    found = pd.DataFrame([{"variant": "MHA", "tokens_per_second": 12.5}])
    monkeypatch.setattr(contexts, "context_table", lambda works, **options: seen.append((works, options)) or found)
    options = "--shape small --batch 4,1 --context 512,1K --weights int8 --new-tokens 8 --rounds 2 --format json"
    assert run(["bench", "decode", *options.split()]) == 0
    ((works, given),) = seen
    assert [(variant, precision, work.prompt_tokens + 8) for variant, precision, work in works] == [
        (variant, precision, length)
        for length in (512, 1024)
        for variant in ("MHA", "GQA", "GQA+CLA")
        for precision in ("bfloat16", "int8")
    ]
    assert given["rounds"] == 2 and asked[0][1]["int8"] is True
    document = json.loads(capsys.readouterr().out)
    assert document["contexts"] == [{"variant": "MHA", "tokens_per_second": 12.5}]
    assert len(document["contenders"]) == len(DECODE)


def test_on_a_gpu_the_large_shape_is_the_larger_one(asked, monkeypatch, capsys):
    from analyses.bench.decoding import LARGE_ON_GPU

    monkeypatch.setattr("model.device.pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"the card of {name}")
    assert run(["bench", "decode", "--device", "cuda", "--batch", "1", "--format", "json"]) == 0
    ((works, _),) = asked
    assert [(work.shape, work.config, work.device) for work in works] == [
        ("small", SHAPE, "cuda"),
        ("large", LARGE_ON_GPU, "cuda"),
    ]
    document = json.loads(capsys.readouterr().out)
    assert (document["device"], document["card"]) == ("cuda", "the card of cuda")


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        (["train"], 12),
        (["train", "--peer"], 20),
        (["train", "--compile"], 16),
        (["train", "--peer", "--compile"], 24),
        (["train", "--no-peer", "--no-compile"], 12),
        (["decode"], 4 * 4 * 3 + 2),  # of a batch the experts are counted, once
        (["decode", "--batch", "1", "--shape", "small"], 4 * 3),
        (["decode", "--peer", "--shape", "small"], 4 * 2 * 5 + 1),
        (["decode", "--peer", "--shape", "large"], 4 * 2 * 4 + 1),
        (["decode", "--compile"], 4 * 2 * (5 + 3) + 2),
        (["decode", "--compile", "--peer", "--batch", "1,8,16"], 4 * (7 + 5 + 5 + 6 + 4 + 4) + 4),
        (["decode", "--batch", "1", "--weights", "int8", "--compile"], 4 * 2 * (1 + 3 + 3)),
        (["decode", "--batch", "1", "--shape", "small", "--context", "256,512"], 4 * 3 + 4 * 2 * (3 * 2)),
        (["decode", "--batch", "2,4", "--weights", "int8", "--context", "256"], 4 * 4 * 4 + 4 + 4 * 2 * (2 * 3 * 2)),
    ],
)
def test_the_bar_is_full_when_the_last_contender_is_done(monkeypatch, options, turns):
    """The command says how long the bar is, the benchmark how far it has come: two files that must agree."""
    bars = []

    @contextmanager
    def progress(description, total):
        bars.append([total, 0])

        def advance(count):
            bars[-1][1] += count

        yield advance

    @contextmanager
    def worker(name, work, build):
        yield lambda steps: ([1.0] * steps, 1)

    monkeypatch.setattr(bench, "progress", progress)
    monkeypatch.setattr(benchmark, "worker", worker)
    monkeypatch.setattr(decode_benchmark, "worker", worker)
    assert run(["bench", *options, "--rounds", "4"]) == 0
    assert bars == [[turns, turns]]


def test_alone_it_shows_its_help(capsys):
    assert run(["bench"]) == 2
    shown = capsys.readouterr().out
    assert "train" in shown and "decode" in shown


MISTAKES = {
    "--device gpu": (1, "device 'gpu' is not known: use auto, cpu or cuda"),
    "--device cuda:99": (1, "device 'cuda:99' is not there"),
    "--rounds 0": (2, "'--rounds'"),
    "--threads 0": (2, "'--threads'"),
    "--format xml": (2, "'table', 'json', 'csv'"),
}
OF_TRAINING = {"--steps 0": (2, "'--steps'")}
OF_DECODING = {
    "--new-tokens 1": (2, "'--new-tokens'"),  # after the first there is nothing to time
    "--weights int4": (2, "'--weights'"),
    "--context 2K": (2, "--context must be more than 128 new tokens, and at most 1024 here"),
    "--context 128": (2, "--context must be more than 128 new tokens, and at most 1024 here"),
    "--context long": (2, "'long' is not a context length"),
    "--prompt-tokens 0": (2, "'--prompt-tokens'"),
    "--shape huge": (2, "'small', 'large', 'both'"),
    "--batch 1,none": (2, "'none' is not a positive whole number"),
    "--batch 0": (2, "'0' is not a positive whole number"),
    "--prompt-tokens 1000 --new-tokens 25": (
        2,
        "1000 prompt and 25 new tokens exceed the context of 1024: ask for fewer",
    ),
}

OF_CONTEXTS = {
    "--new-tokens 1": (2, "'--new-tokens'"),
    "--context 1K,32": (2, "--context must be more than 32 new tokens"),
    "--context long": (2, "'long' is not a context length"),
    "--prefill-chunk 0": (2, "'0' is not a context length"),
}


@pytest.mark.parametrize(
    ("command", "options", "status", "says"),
    [
        *(("train", options, *mistake) for options, mistake in (MISTAKES | OF_TRAINING).items()),
        *(("decode", options, *mistake) for options, mistake in (MISTAKES | OF_DECODING).items()),
        *(("context", options, *mistake) for options, mistake in (MISTAKES | OF_CONTEXTS).items()),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_measured(asked, capsys, command, options, status, says):
    assert run(["bench", command, *options.split()]) == status
    captured = capsys.readouterr()
    assert captured.out == "" and asked == []
    assert says in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_contexts_are_read_in_chunks_by_three_variants(asked, capsys):
    options = ["--context", "64,2K", "--new-tokens", "8", "--prefill-chunk", "1K", "--rounds", "2", "--threads", "3"]
    assert run(["bench", "context", *options, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["contexts"] == READ.to_dict("records")
    assert (document["new_tokens"], document["prefill_chunk"], document["threads"]) == (8, 1024, 3)
    (((works, lengths), options),) = asked
    assert lengths == [64, 2048] and options["rounds"] == 2
    assert [(work.variant, work.new_tokens, work.chunk, work.threads) for work in works] == [
        (variant, 8, 1024, 3) for variant in ("MHA", "GQA", "GQA+CLA")
    ]
    assert works[1].config == SHAPE.replace(max_position_embeddings=2048)
    assert run(["bench", "context"]) == 0
    assert asked[1][0][1] == [512, 1024]


def test_startup_times_the_quick_commands_and_infer_where_there_is_a_model(monkeypatch, capsys, tmp_path):
    from analyses.bench import startup

    asked = []

    def table(commands, *, rounds, progress):
        asked.append((commands, rounds))
        return pd.DataFrame([{"command": name, "seconds": 0.25, "of_python": 12.5} for name in commands])

    monkeypatch.setattr(startup, "startup_table", table)
    assert run(["bench", "startup", "--rounds", "3", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rounds"] == 3 and document["commands"][3] == {
        "command": "hunyuan params", "seconds": 0.25, "of_python": 12.5,
    }  # fmt: skip
    assert run(["bench", "startup", "--checkpoint", str(tmp_path)]) == 0
    (quick, rounds), (every, _) = asked
    assert rounds == 3 and next(iter(quick)) == "python -c pass"
    assert [line[3:] for line in list(quick.values())[1:]] == [["--help"], ["kv-cache"], ["params"]]
    assert every["hunyuan infer"][3:] == ["infer", "The", "--checkpoint", str(tmp_path), "--max-new-tokens", "1"]
