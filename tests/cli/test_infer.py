"""`hunyuan infer`: the library's generation on the command line, of one text as it comes and of many in batches."""

import io
import json
import random
import re
import shutil
from pathlib import Path

import pytest
import torch

from hunyuan_cli import main
from model import Hunyuan
from model.checkpoint.run import run_of
from model.generation import compiled
from model.generation.engine import Engine
from model.generation.generate import generate, generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling
from model.tokenizer.bpe import load_tokenizer
from model.tokenizer.chat_template import plain_template
from model.tokenizer.folder import load_chat_template, load_folder_tokenizer
from tests.cli.speaking import WORDS, write_released

TINY = Path(__file__).parents[1] / "training" / "tiny.toml"
PROMPT = "the router"
TEXTS = [PROMPT, "expert", "each token to one expert and every"]


def by_library(folder, prompt, tokens, sampling=Sampling(), seed=0, **options):  # noqa: B008  frozen
    """Token ids and text of a prompt, a text or token ids, without any of the command's own code."""
    tokenizer, net = load_folder_tokenizer(folder), Hunyuan.from_checkpoint(folder, **options)
    ids = (tokenizer.encode(prompt) or [tokenizer.eos_id]) if isinstance(prompt, str) else prompt
    generator = torch.Generator().manual_seed(seed)
    found = list(generate(net, ids, max_new_tokens=tokens, sampling=sampling, generator=generator,
                          end_id=tokenizer.eos_id))  # fmt: skip
    return found, tokenizer.decode(found)


# --- one text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["run", "released"])
@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ("", Sampling()),
        ("--temperature 1", Sampling(1.0)),
        ("--temperature 1.5 --top-k 3", Sampling(1.5, 3)),
        ("--temperature 1.5 --top-p 0.5", Sampling(1.5, 0, 0.5)),
        ("--temperature 1.5 --min-p 0.3", Sampling(1.5, min_p=0.3)),
        ("--temperature 1.5 --repetition-penalty 2.5", Sampling(1.5, repetition_penalty=2.5)),
        ("--repetition-penalty 2.5", Sampling(repetition_penalty=2.5)),
    ],
)
def test_the_text_is_the_librarys(infer, request, folder, options, sampling):
    folder = request.getfixturevalue(folder)
    seed = 5 if sampling.temperature else 0
    found = infer(PROMPT, "--checkpoint", folder, "--max-new-tokens", 20, "--seed", seed, *options.split())
    assert found == (0, PROMPT + by_library(folder, PROMPT, 20, sampling, seed)[1] + "\n", "")


def test_greedy_knows_no_seed_and_sampling_does(infer, run):
    def text(*options):
        return infer(PROMPT, "--checkpoint", run, "--tokens", 30, *options)[1]

    assert text("--seed", 1) == text("--seed", 2) == text("--temperature", 1, "--top-k", 1)
    assert text("--temperature", 2, "--seed", 1) == text("--temperature", 2, "--seed", 1)
    assert text("--temperature", 2, "--seed", 1) != text("--temperature", 2, "--seed", 2)


def test_the_number_of_tokens_has_two_names(infer, run):
    found = infer(PROMPT, "--checkpoint", run, "--max-new-tokens", 7, "--format", "json")
    assert json.loads(found[1])["new_tokens"] == 7
    assert infer(PROMPT, "--checkpoint", run, "--max-new-tokens", 7) == infer(
        PROMPT, "--checkpoint", run, "--tokens", 7
    )


@pytest.mark.parametrize("prompt", ["", "é 漢字 \U0001f600\n\t", "<|endoftext|>"])
def test_any_prompt_is_continued(infer, run, prompt):
    status, out, _ = infer(prompt, "--checkpoint", run, "--tokens", 3)
    assert status == 0
    assert out.startswith(prompt)


def test_a_prompt_that_is_not_utf8_is_continued(infer, run, monkeypatch):
    assert (
        infer("caf\udce9", "--checkpoint", run, "--tokens", 3)[:2]
        == infer("caf?", "--checkpoint", run, "--tokens", 3)[:2]
    )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    status, out, _ = infer("-", "--checkpoint", run, "--tokens", 3)
    assert status == 0 and out.startswith("caf\ufffd")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"once"), encoding="utf-8"))
    status, out, _ = infer("-", "-", "--checkpoint", run, "--tokens", 3)
    assert (status, [json.loads(line)["prompt"] for line in out.splitlines()]) == (0, ["once", ""])


def test_a_prompt_from_standard_input(infer, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    assert infer("-", "--checkpoint", run, "--tokens", 5) == infer(PROMPT, "--checkpoint", run, "--tokens", 5)


def test_a_character_that_is_cut_short_is_shown_as_such(infer, run, monkeypatch):
    first_byte = load_tokenizer(run / "tokenizer.json").encode("é")[0]
    monkeypatch.setattr("model.generation.batch.next_token", lambda logits, *_: torch.full((len(logits),), first_byte))
    assert infer(PROMPT, "--checkpoint", run, "--tokens", 1)[1] == PROMPT + "\ufffd\n"


def test_json_is_one_document_and_nothing_else(infer, run, tmp_path):
    arguments = (PROMPT, "--checkpoint", run, "--tokens", 12, "--format", "json")
    status, out, err = infer(*arguments)
    document = json.loads(out)
    assert (status, err) == (0, "")
    ids, text = by_library(run, PROMPT, 12)
    assert (document["prompt"], document["token_ids"], document["text"]) == (PROMPT, ids, text)
    assert (document["new_tokens"], document["decoded_tokens"], document["stop_reason"]) == (12, 11, "length")
    assert document["prompt_tokens"] == len(load_tokenizer(run / "tokenizer.json").encode(PROMPT))
    assert document["cache_bytes"] == document["cache_formula_bytes"] == (document["prompt_tokens"] + 12) * 128
    assert document["prefill_seconds"] > 0
    status, out, err = infer(*arguments, "--output", tmp_path / "answer.json")
    assert (status, out, err) == (0, "", f"wrote {tmp_path / 'answer.json'}\n")
    assert json.loads((tmp_path / "answer.json").read_text())["text"] == text


@pytest.mark.parametrize("cut", [slice(3, 5), slice(4, 12), slice(10, 13)])
def test_it_stops_before_a_text_wherever_tokens_end(infer, run, cut):
    ids, whole = by_library(run, PROMPT, 30, Sampling(repetition_penalty=2.5))
    stop, options = (
        whole[cut],
        ("--tokens", 30, "--repetition-penalty", 2.5, "--stop", "never said", "--stop", whole[cut]),
    )
    assert len(load_tokenizer(run / "tokenizer.json").encode(stop)) > 1
    assert infer(PROMPT, "--checkpoint", run, *options) == (0, PROMPT + whole[: whole.index(stop)] + "\n", "")
    document = json.loads(infer(PROMPT, "--checkpoint", run, *options, "--format", "json")[1])
    assert (document["text"], document["stop_reason"]) == (whole[: whole.index(stop)], "stop_string")
    assert document["token_ids"] == ids[: document["new_tokens"]]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_run_that_was_just_trained(infer, tmp_path, monkeypatch):
    draw, out = random.Random(0), tmp_path / "out"
    sentences = (" ".join(draw.choices(WORDS.split(), k=9)) + ".\n" for _ in range(100))
    (tmp_path / "sentences.txt").write_text("".join(sentences))
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    monkeypatch.setattr("hunyuan_cli.commands.train.draw_run", lambda out, **_: None)
    monkeypatch.setenv("HUNYUAN_CACHE", str(tmp_path / "cache"))
    command = ["train", "--config", TINY, "--data", tmp_path / "sentences.txt", "--out", out, "--steps", 4, "--quiet"]
    assert main.run([*map(str, command)]) == 0
    steps = sorted((out / "checkpoints").iterdir())
    texts = [infer(PROMPT, "--checkpoint", folder, "--tokens", 9) for folder in (*steps, out)]
    assert [status for status, _, _ in texts] == [0] * 3
    sampled = by_library(out, PROMPT, 9, Sampling(0.8, 50))[1]
    assert texts[-1] == texts[-2] == (0, PROMPT + sampled + "\n", "")
    assert run_of(steps[0]) == out
    (steps[-1] / "model.safetensors").write_bytes(b"damaged")
    status, text, err = infer(PROMPT, "--checkpoint", out, "--tokens", 9)
    assert (status, text) == texts[0][:2]
    assert err.count("\n") == 1 and f"the checkpoint {steps[-1].name} is damaged" in err


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_precision_is_that_of_weights_and_cache(infer, released, dtype):
    document = json.loads(
        infer(PROMPT, "--checkpoint", released, "--dtype", dtype, "--tokens", 9, "--format", "json")[1]
    )
    assert document["token_ids"] == by_library(released, PROMPT, 9, dtype=getattr(torch, dtype))[0]
    assert document["cache_bytes"] == document["cache_formula_bytes"]
    # Two of three layers own keys and values, of 2 heads of 6 values each.
    assert document["cache_bytes"] == (document["prompt_tokens"] + 9) * 2 * 2 * 2 * 6 * (4 if dtype == "float32" else 2)


@pytest.mark.parametrize("folder", ["run", "released"])
def test_int8_weights_answer_as_the_library_does(infer, request, folder):
    place = request.getfixturevalue(folder)
    found = infer(PROMPT, "--checkpoint", place, "--weights", "int8", "--tokens", 9, "--dtype", "bfloat16")
    engine = Engine.from_folder(place, dtype="bfloat16", weights="int8")
    assert engine.net.layers[0].mlp.experts.down.dtype == torch.int8
    prompt = engine.request(PROMPT, max_new_tokens=9).prompt
    tokens = list(generate(engine.net, prompt, max_new_tokens=9, sampling=Sampling(), end_id=engine.tokenizer.eos_id))
    assert found == (0, PROMPT + engine.tokenizer.decode(tokens) + "\n", "")


@pytest.mark.parametrize(
    ("folder", "experts", "size"), [("run", 8, 3 * 16 * 24 * 4), ("released", 12, 3 * 20 * 24 * 4)]
)
@pytest.mark.parametrize("held", [1, 100])
def test_experts_on_disk_say_the_same(infer, request, folder, experts, size, held):
    arguments = (*TEXTS, "--checkpoint", request.getfixturevalue(folder), "--tokens", 15, "--format", "json")
    disk = ("--experts", "disk", "--expert-cache", held * size)
    expected, found = (json.loads(infer(*arguments, *more)[1]) for more in ((), disk))
    assert found["results"] == expected["results"]
    assert "experts" not in expected
    facts = found["experts"]
    if held > experts:  # each is read once
        assert facts["misses"] == facts["cache_bytes"] // size <= experts
        assert facts["hit_rate"] > 0.5
    else:
        assert facts["cache_bytes"] == size
    assert facts["bytes_read"] == facts["misses"] * size
    assert facts["bytes_read_per_new_token"] == facts["bytes_read"] / 45
    err = infer(*arguments[:-2], *disk, "--stats")[2].splitlines()
    shape = r"experts on disk: [\d.]+% of uses from memory, [\d.]+ k?B read per new token, [\d.]+ kB held"
    assert re.match(shape, err[-1]) and len(err) == 6


def test_a_compiled_step_is_taken_where_it_is_asked_for(infer, run, monkeypatch):
    """The program itself, uncompiled: tests/oracles/test_compiled_step.py compiles it."""
    steps = []

    def step(net, token, *rest, original=compiled._step):
        steps.append(token.tolist())
        return original(net, token, *rest)

    monkeypatch.setattr(compiled, "_program", lambda: step)
    arguments = (PROMPT, "--checkpoint", run, "--tokens", 6)
    plain = infer(*arguments)
    assert steps == []
    assert infer(*arguments, "--compile") == plain
    assert len(steps) == 5


def test_stats_go_to_standard_error(infer, run):
    arguments = (PROMPT, "--checkpoint", run, "--tokens", 8)
    plain, (status, out, err) = infer(*arguments), infer(*arguments, "--stats")
    assert (status, out, "") == plain
    lines, number = err.splitlines(), r"[\d,]+"
    assert re.fullmatch(
        rf"prefill: 2 tokens in \d+\.\d+ s \({number} tokens/s\), first token after \d+\.\d+ s", lines[0]
    )
    assert re.fullmatch(rf"decode: 7 tokens in \d+\.\d+ s \({number} tokens/s\); 8 new in all", lines[1])
    assert lines[2:] == [
        "cache: 1,280 bytes allocated, 1,280 by formula (1 x 10 tokens)",
        "at most 8 new tokens, by --max-new-tokens",
    ]
    assert "decode: 0 tokens in 0.000 s; 1 new" in infer(PROMPT, "--checkpoint", run, "--tokens", 1, "--stats")[2]


# --- what the folder says about sampling -----------------------------------------------------------------------------


@pytest.fixture
def with_settings(tmp_path, released):
    """with_settings(do_sample=True, ...) -> the folder with a generation_config.json."""

    def write(**settings):
        folder = shutil.copytree(released, tmp_path / "folder", dirs_exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(settings))
        return folder

    return write


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ("", Sampling(1.3, 7, 0.9, repetition_penalty=1.5)),
        ("--temperature 0", Sampling(0, 7, 0.9, repetition_penalty=1.5)),
        ("--temperature 2 --top-k 0", Sampling(2.0, 0, 0.9, repetition_penalty=1.5)),
        ("--top-p 1 --min-p 0.2 --repetition-penalty 1", Sampling(1.3, 7, 1.0, min_p=0.2)),
    ],
)
def test_the_folders_settings_hold_where_the_command_says_nothing(infer, with_settings, released, options, sampling):
    folder = with_settings(do_sample=True, temperature=1.3, top_k=7, top_p=0.9, repetition_penalty=1.5)
    _, text = by_library(released, PROMPT, 25, sampling, seed=3)
    found = infer(PROMPT, "--checkpoint", folder, "--tokens", 25, "--seed", 3, *options.split())
    assert found == (0, PROMPT + text + "\n", "")


def test_the_folders_ends_end_a_text(infer, with_settings, released):
    ids, _ = by_library(released, PROMPT, 25)
    end = next(token for place, token in enumerate(ids) if place > 3 and token not in ids[:place])
    folder = with_settings(eos_token_id=[299, end])
    document = json.loads(infer(PROMPT, "--checkpoint", folder, "--tokens", 25, "--format", "json")[1])
    assert document["stop_reason"] == "end_of_text"
    assert document["token_ids"] == ids[: ids.index(end)]
    assert document["new_tokens"] == len(document["token_ids"]) + 1


def test_the_tokenizers_own_end_ends_a_text(infer, released, tmp_path):
    ids, _ = by_library(released, PROMPT, 25)
    tokenizer = load_folder_tokenizer(released)
    name = tokenizer._backend.id_to_token(ids[6])
    folder = shutil.copytree(released, tmp_path / "folder")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": name}))
    document = json.loads(infer(PROMPT, "--checkpoint", folder, "--tokens", 25, "--format", "json")[1])
    assert (document["token_ids"], document["stop_reason"]) == (ids[: ids.index(ids[6])], "end_of_text")


# --- chat ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [None, "be brief"])
@pytest.mark.parametrize("folder", ["run", "released"])
def test_a_prompt_through_the_template(infer, request, folder, system):
    """What is shown is the answer alone; a run has no template, and a transcript stands in."""
    folder = request.getfixturevalue(folder)
    template = load_chat_template(folder) or plain_template()
    messages = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": PROMPT}]
    ids = template.encode(messages, load_folder_tokenizer(folder))
    arguments = (PROMPT, "--checkpoint", folder, "--tokens", 15, "--chat", *(("--system", system) if system else ()))
    _, text = by_library(folder, ids, 15)
    assert infer(*arguments) == (0, text + "\n", "")
    document = json.loads(infer(*arguments, "--format", "json")[1])
    assert (document["prompt"], document["text"], document["prompt_tokens"]) == (PROMPT, text, len(ids))


def test_a_template_in_the_tokenizers_configuration(infer, released, tmp_path):
    folder = write_released(tmp_path / "older", files={"tokenizer_config.json": json.dumps(
        {"eos_token": "<|eos|>", "chat_template": (released / "chat_template.jinja").read_text()})})  # fmt: skip
    (folder / "chat_template.jinja").unlink()
    arguments = (PROMPT, "--tokens", 9, "--chat", "--checkpoint")
    assert infer(*arguments, folder) == infer(*arguments, released)


def test_log_probabilities_are_in_the_document(infer, run):
    arguments = (PROMPT, "--checkpoint", run, "--tokens", 5, "--format", "json", "--temperature", 1)
    document = json.loads(infer(*arguments, "--logprobs", 3)[1])
    tokenizer, net = load_tokenizer(run / "tokenizer.json"), Hunyuan.from_checkpoint(run)
    request = Request(tokenizer.encode(PROMPT), 5, generator=torch.Generator().manual_seed(0))
    for _ in generate_batch(net, [request], sampling=Sampling(1.0), logprobs=3):
        pass
    assert document["logprobs"] == [entry.to_dict() for entry in request.logprobs]
    assert [len(entry["top"]) for entry in document["logprobs"]] == [3] * 5
    assert "logprobs" not in json.loads(infer(*arguments)[1])
