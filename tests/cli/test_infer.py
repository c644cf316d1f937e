"""`hunyuan infer`: the library's generation on the command line, as text or as one JSON document."""

import io
import json
import random
from pathlib import Path

import pytest
import torch

from hunyuan_cli import main
from model import Hunyuan
from model.checkpoint.native import run_of
from model.generation.generate import generate
from model.generation.sampling import Sampling
from model.tokenizer.bpe import load_tokenizer
from model.training import transforms

TINY = Path(__file__).parents[1] / "training" / "tiny.toml"
PROMPT = "the router"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs by name: `sentences` of words, and `short` documents that end after a word or two."""
    folder, draw = tmp_path_factory.mktemp("infer"), random.Random(0)
    words = "the router sends each token to one expert and every expert learns its part".split()
    sentences = "".join(" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(300))
    short = "".join(json.dumps({"text": " ".join(draw.sample(words, 2))}) + "\n" for _ in range(2000))
    (folder / "sentences.txt").write_text(sentences)
    (folder / "short.jsonl").write_text(short)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "measure_peak_flops", lambda device, dtype: 1e11)
        patch.setattr("hunyuan_cli.commands.train._draw", lambda out, **_: None)
        patch.setenv("HUNYUAN_CACHE", str(folder / "cache"))
        for source in ("sentences.txt", "short.jsonl"):
            out = folder / source.partition(".")[0]
            options = ["--steps", "50", "--set", "training.learning_rate=0.01", "--quiet"]
            assert (
                main.run(["train", "--config", str(TINY), "--data", str(folder / source), "--out", str(out), *options])
                == 0
            )
    return folder


@pytest.fixture
def run(trained):
    return trained / "sentences"


@pytest.fixture
def infer(capfd):
    """infer(...) -> (status, stdout, stderr)."""

    def call(*arguments):
        capfd.readouterr()
        status = main.run(["infer", *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def by_library(run, prompt, tokens, sampling, seed=0):
    tokenizer, net = load_tokenizer(run_of(run) / "tokenizer.json"), Hunyuan.from_checkpoint(run)
    options = {"max_new_tokens": tokens, "sampling": sampling, "end_id": tokenizer.eos_id}
    generator = torch.Generator().manual_seed(seed)
    ids = list(generate(net, tokenizer.encode(prompt), generator=generator, **options))
    return ids, tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ("", Sampling()),
        ("--temperature 1", Sampling(1.0)),
        ("--temperature 1.5 --top-k 3", Sampling(1.5, 3)),
        ("--temperature 1.5 --top-p 0.5", Sampling(1.5, 0, 0.5)),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
def test_the_text_is_the_librarys_and_the_seed_repeats_it(infer, run, options, sampling, seed):
    arguments = (PROMPT, "--checkpoint", run, "--tokens", 20, "--seed", seed, *options.split())
    first, again = infer(*arguments), infer(*arguments)
    assert first == again == (0, PROMPT + by_library(run, PROMPT, 20, sampling, seed)[1] + "\n", "")


def test_greedy_knows_no_seed_and_sampling_does(infer, run):
    def text(*options):
        return infer(PROMPT, "--checkpoint", run, "--tokens", 30, *options)[1]

    assert text("--seed", 1) == text("--seed", 2) == text("--temperature", 1, "--top-k", 1)
    assert text("--temperature", 2, "--seed", 1) != text("--temperature", 2, "--seed", 2)


def test_json_is_one_document_and_nothing_else(infer, run, tmp_path):
    arguments = (PROMPT, "--checkpoint", run, "--tokens", 12, "--format", "json")
    status, out, err = infer(*arguments)
    document = json.loads(out)
    assert (status, err) == (0, "")
    ids, text = by_library(run, PROMPT, 12, Sampling())
    assert (document["prompt"], document["token_ids"], document["text"]) == (PROMPT, ids, text)
    assert (document["new_tokens"], document["stop_reason"]) == (12, "length")
    assert document["prompt_tokens"] == len(load_tokenizer(run / "tokenizer.json").encode(PROMPT))
    assert document["cache_bytes"] > 0 < document["prefill_seconds"]
    status, out, _ = infer(*arguments, "--output", tmp_path / "answer.json")
    assert (status, out) == (0, "")
    assert json.loads((tmp_path / "answer.json").read_text())["text"] == text


def test_stats_go_to_standard_error(infer, run):
    plain = infer(PROMPT, "--checkpoint", run, "--tokens", 8)
    status, out, err = infer(PROMPT, "--checkpoint", run, "--tokens", 8, "--stats")
    assert (status, out) == plain[:2]
    assert plain[2] == ""
    assert "8 new in" in err
    assert err.rstrip().endswith("stop: length")
    assert "(no decode step)" in infer(PROMPT, "--checkpoint", run, "--tokens", 1, "--stats")[2]


def test_it_stops_at_the_end_of_the_text(infer, trained):
    arguments = (
        "the router",
        "--checkpoint",
        trained / "short",
        "--tokens",
        60,
        "--format",
        "json",
        "--temperature",
        1,
    )
    document = json.loads(infer(*arguments)[1])
    assert document["stop_reason"] == "end_of_text"
    assert document["new_tokens"] == len(document["token_ids"]) + 1 < 60
    assert load_tokenizer(trained / "short" / "tokenizer.json").eos_id not in document["token_ids"]
    assert "<|endoftext|>" not in document["text"]


@pytest.mark.parametrize("prompt", ["", "é 漢字 \U0001f600\n\t", "<|endoftext|>"])
def test_any_prompt_is_continued(infer, run, prompt):
    status, out, _ = infer(prompt, "--checkpoint", run, "--tokens", 3)
    assert status == 0
    assert out.startswith(prompt)


def test_a_character_that_is_cut_short_is_shown_as_such(infer, run, monkeypatch):
    first_byte = load_tokenizer(run / "tokenizer.json").encode("é")[:1]
    monkeypatch.setattr("model.generation.generate.generate", lambda *_, **__: iter(first_byte))
    assert infer(PROMPT, "--checkpoint", run)[1] == PROMPT + "\ufffd\n"


def test_a_prompt_from_standard_input(infer, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    assert infer("-", "--checkpoint", run, "--tokens", 5) == infer(PROMPT, "--checkpoint", run, "--tokens", 5)


def test_one_checkpoint_of_a_run(infer, run):
    steps = sorted((run / "checkpoints").iterdir())
    texts = [infer(PROMPT, "--checkpoint", step, "--tokens", 5) for step in steps]
    assert texts[-1] == infer(PROMPT, "--checkpoint", run, "--tokens", 5)
    assert [status for status, _, _ in texts] == [0, 0]


@pytest.mark.parametrize(
    ("status", "options", "says"),
    [
        (1, "--checkpoint absent", "absent does not exist: give the folder of a run"),
        (1, "--checkpoint .", "has no checkpoint: give the folder of a run"),
        (1, "--checkpoint RUN --top-p 0", "top_p is 0.0: give a share above 0 and up to 1"),
        (1, "--checkpoint RUN --top-p 1.5", "top_p is 1.5"),
        (1, "--checkpoint RUN --temperature inf", "temperature is inf: give 0 (greedy) or above"),
        (1, "--checkpoint RUN --tokens 5000 --format json", "exceed the model's context of 1024: lower --tokens"),
        (1, "--checkpoint RUN --device gpu", "device 'gpu' is not known"),
        (2, "", "Missing option '--checkpoint'"),
        (2, "--checkpoint RUN --tokens 0", "'--tokens': "),
        (2, "--checkpoint RUN --temperature -1", "'--temperature': "),
        (2, "--checkpoint RUN --top-k -1", "'--top-k': "),
        (2, "--checkpoint RUN --seed 99999999999999999999", "'--seed': "),
        (2, "--checkpoint RUN --format csv", "'csv' is not one of"),
        (2, "--checkpoint RUN --output x.json", "--output keeps the JSON document: add --format json"),
    ],
)
def test_a_mistake_is_one_sentence(infer, run, tmp_path, monkeypatch, status, options, says):
    monkeypatch.chdir(tmp_path)
    found, out, err = infer(PROMPT, *(str(run) if word == "RUN" else word for word in options.split()))
    assert (found, out, err.count("\n")) == (status, "", 1), err
    assert err.startswith("error: ")
    assert says in err
    assert "this is a bug" not in err
