"""`hunyuan infer` of many prompts: from arguments and files, in batches, a line each; what an interruption leaves."""

import json

import pytest

from model import Hunyuan
from model.generation import generate as generation
from model.generation.generate import generate
from model.generation.sampling import Sampling
from model.tokenizer.bpe import load_tokenizer
from model.tokenizer.folder import load_chat_template

TEXTS = ["the router", "expert", "each token to one expert and every", "part", "", "the router", "é 漢"]
HELLO = [{"role": "user", "content": "hello"}]
TALK = [{"role": "system", "content": "be brief"}, *HELLO, {"role": "assistant", "content": "hi"}, *HELLO]


@pytest.fixture
def write(tmp_path):
    """write("x.jsonl", rows or lines) -> the file."""

    def call(name, lines):
        lines = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return call


@pytest.fixture
def many(infer, run):
    """many(...) -> the answers, a line each."""

    def call(*arguments, folder=run):
        status, out, err = infer("--checkpoint", folder, *arguments)
        assert (status, err) == (0, "generating ...\n")
        return [json.loads(line) for line in out[:-1].split("\n")]

    return call


def test_prompts_from_arguments_are_answered_in_order(many, run):
    """Each as it would be alone, with the seed after the one of the prompt before it."""
    tokenizer, net = load_tokenizer(run / "tokenizer.json"), Hunyuan.from_checkpoint(run)
    for temperature in (0.0, 1.0):
        answers = many(*TEXTS, "--tokens", 8, "--temperature", temperature, "--seed", 4)
        assert [answer["prompt"] for answer in answers] == TEXTS
        for index, answer in enumerate(answers):
            ids = tokenizer.encode(TEXTS[index]) or [tokenizer.eos_id]
            sampling, generator = Sampling(temperature), generation.torch.Generator().manual_seed(4 + index)
            options = {"sampling": sampling, "generator": generator, "end_id": tokenizer.eos_id}
            expected = list(generate(net, ids, max_new_tokens=8, **options))
            assert (answer["token_ids"], answer["prompt_tokens"]) == (expected, len(ids))
            assert list(answer) == ["prompt", "text", "token_ids", "prompt_tokens", "new_tokens", "stop_reason"]


@pytest.mark.parametrize(
    "options", ["", "--temperature 1.2 --top-k 20 --repetition-penalty 1.4 --stop er --logprobs 2"]
)
@pytest.mark.parametrize(
    "shape", ["--batch-size 1", "--batch-size 2 --prefill-chunk 1", "--batch-size 3 --prefill-chunk 5"]
)
def test_batches_and_chunks_change_no_answer(many, options, shape):
    arguments = (*TEXTS, "--tokens", 12, *options.split())
    found, expected = many(*arguments, *shape.split()), many(*arguments)
    for answer in (*found, *expected):
        for entry in answer.pop("logprobs", []):
            assert entry["logprob"] <= 0 and len(entry["top"]) == 2
    assert found == expected


def test_a_chunk_is_what_a_pass_reads_of_a_prompt(many, monkeypatch):
    sizes, step = set(), Hunyuan.step
    monkeypatch.setattr(
        Hunyuan,
        "step",
        lambda net, ids, *rest, **options: sizes.add(ids.shape[1]) or step(net, ids, *rest, **options),
    )
    prompts = "z" * 20, "z" * 7
    many(*prompts, "--tokens", 2, "--prefill-chunk", 6)
    assert sizes == {6, 2, 1}
    sizes.clear()
    many(*prompts, "--tokens", 2)
    assert sizes == {20, 7, 1}


def test_a_text_file_has_a_prompt_a_line(many, write):
    texts = [text for text in TEXTS if text]
    file = write("prompts.txt", [*texts[:2], "", *texts[2:]])
    assert many("--prompts", file, "--tokens", 6) == many(*texts, "--tokens", 6)
    assert many("first", "--prompts", file, "--tokens", 6)[0]["prompt"] == "first"


def test_ids_and_prompts_of_a_json_file_come_back(many, write):
    rows = [{"id": {"n": [1]}, "prompt": "the\nrouter"}, {"prompt": "part\u2028"}, {"prompt": "part", "id": 0}]
    answers = many("--prompts", write("p.jsonl", rows), "--tokens", 4)
    assert [{key: row[key] for key in ("id", "prompt") if key in row} for row in answers] == rows
    assert list(answers[0])[:2] == ["id", "prompt"]


def test_half_a_character_in_an_id_harms_nobody(many, write, tmp_path):
    file = write("p.jsonl", ['{"id": "\\ud83d", "prompt": "\\udc00 a"}'] * 2)
    assert [(row["id"], row["prompt"]) for row in many("--prompts", file, "--tokens", 2)] == [("?", "? a")] * 2


def test_messages_go_through_the_template_and_texts_do_not(many, write, released):
    file = write("p.jsonl", [{"messages": HELLO}, {"messages": TALK, "id": 1}, {"prompt": "hello"}])
    template, tokenizer = load_chat_template(released), load_tokenizer(released / "tokenizer.json", eos_name="<|eos|>")
    sizes = [len(template.encode(messages, tokenizer)) for messages in (HELLO, TALK)]
    plain = len(tokenizer.encode("hello"))
    answers = many("--prompts", file, "--tokens", 5, folder=released)
    assert [answer["prompt_tokens"] for answer in answers] == [*sizes, plain]
    assert [answer.get("messages") for answer in answers] == [HELLO, TALK, None]
    chat = many("--prompts", file, "--tokens", 5, "--chat", folder=released)
    assert chat[:2] == answers[:2]
    assert (chat[2]["text"], chat[2]["prompt_tokens"]) == (chat[0]["text"], sizes[0])


@pytest.mark.parametrize("chat", [(), ("--chat",)])
def test_a_system_message_goes_before_messages_that_have_none(many, write, released, chat):
    file = write("p.jsonl", [{"messages": HELLO}, {"messages": TALK}])
    template, tokenizer = load_chat_template(released), load_tokenizer(released / "tokenizer.json", eos_name="<|eos|>")
    asked = [{"role": "system", "content": "speak up"}, *HELLO], TALK
    answers = many("--prompts", file, "--tokens", 5, "--system", "speak up", *chat, folder=released)
    assert [answer["prompt_tokens"] for answer in answers] == [
        len(template.encode(messages, tokenizer)) for messages in asked
    ]
    assert [answer["messages"] for answer in answers] == [HELLO, TALK]  # as they were given


def test_one_message_is_answered_as_text(infer, write, released):
    status, out, err = infer(
        "--checkpoint", released, "--prompts", write("p.jsonl", [{"messages": HELLO}]), "--tokens", 5
    )
    assert (status, err) == (0, "")
    assert (0, out, "") == infer("hello", "--chat", "--checkpoint", released, "--tokens", 5)


# --- formats and files -----------------------------------------------------------------------------------------------


def test_one_document_of_many_answers(many, infer, run):
    status, out, _ = infer(*TEXTS, "--checkpoint", run, "--tokens", 6, "--format", "json", "--batch-size", 3)
    document = json.loads(out)
    assert (status, document["results"]) == (0, many(*TEXTS, "--tokens", 6))
    assert (document["new_tokens"], document["slots"]) == (sum(row["new_tokens"] for row in document["results"]), 3)
    assert document["cache_bytes"] == document["cache_formula_bytes"]


def test_a_line_for_one_prompt(infer, run):
    status, out, err = infer("part", "--checkpoint", run, "--tokens", 4, "--format", "jsonl", "--logprobs", 0)
    assert (status, err, out.count("\n")) == (0, "", 1)
    answer = json.loads(out)
    assert [entry["top"] for entry in answer["logprobs"]] == [[]] * 4


def test_a_file_of_answers_appears_whole(infer, many, run, tmp_path):
    target = tmp_path / "new" / "answers.jsonl"
    status, out, err = infer(*TEXTS, "--checkpoint", run, "--tokens", 6, "--output", target)
    assert (status, out, err) == (0, "", f"generating ...\nwrote {len(TEXTS)} lines to {target}\n")
    assert [json.loads(line) for line in target.read_text().splitlines()] == many(*TEXTS, "--tokens", 6)
    assert [path.name for path in target.parent.iterdir()] == ["answers.jsonl"]


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n, error) has generation raise the error when n requests are over."""

    def call(count, error):
        def broken(net, requests, *, original=generation.generate_batch, **options):
            for event in original(net, requests, **options):
                yield event
                if sum(request.stop_reason is not None for request in requests) >= count:
                    raise error

        monkeypatch.setattr(generation, "generate_batch", broken)

    return call


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (OSError(5, "Input/output error", "experts"), 1)]
)
def test_what_was_answered_before_an_end_is_in_the_file(infer, many, run, tmp_path, stop_after, error, status):
    expected, target = many(*TEXTS, "--tokens", 6), tmp_path / "answers.jsonl"
    target.write_text("of an earlier run\n")
    stop_after(3, error)
    arguments = (*TEXTS, "--checkpoint", run, "--tokens", 6, "--batch-size", 1, "--output", target)
    found, out, err = infer(*arguments)
    assert (found, out) == (status, "")
    assert f"wrote 3 lines to {target} (replaced)\n" in err and "this is a bug" not in err
    assert [json.loads(line) for line in target.read_text().splitlines()] == expected[:3]
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_an_end_before_the_first_answer_leaves_the_file_that_was_there(infer, run, tmp_path, stop_after):
    (tmp_path / "answers.jsonl").write_text("of an earlier run\n")
    stop_after(0, KeyboardInterrupt())
    arguments = (*TEXTS, "--checkpoint", run, "--tokens", 6, "--output", tmp_path / "answers.jsonl")
    assert infer(*arguments) == (130, "", "generating ...\n")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of an earlier run\n"]


def test_lines_come_as_prompts_are_done(infer, run, stop_after):
    """Also on standard output, and those of prompts that end early wait for the ones before them."""
    stop_after(2, KeyboardInterrupt())
    status, out, _ = infer(*TEXTS, "--checkpoint", run, "--tokens", 6, "--batch-size", 2)
    assert status == 130
    assert [json.loads(line)["prompt"] for line in out.splitlines()] in (TEXTS[:1], TEXTS[:2])


def test_a_text_that_is_interrupted_ends_its_line(infer, run, stop_after):
    stop_after(0, KeyboardInterrupt())
    status, out, _ = infer("part", "--checkpoint", run, "--tokens", 6)
    assert status == 130
    assert out.startswith("part") and out.endswith("\n") and len(out) > len("part\n")


def test_stats_of_a_batch(infer, many, run):
    answers = many(*TEXTS, "--tokens", 6)
    read, new = (sum(answer[f"{part}_tokens"] for answer in answers) for part in ("prompt", "new"))
    err = infer(*TEXTS, "--checkpoint", run, "--tokens", 6, "--batch-size", 4, "--stats")[2].splitlines()
    assert err[0] == "generating ..."
    assert err[1].startswith(f"prefill: {read} tokens in ")
    assert err[2].startswith(f"decode: {new - len(TEXTS)} tokens in ") and err[2].endswith(f"; {new} new in all")
    assert err[3].endswith(f" by formula (4 x {max(answer['prompt_tokens'] for answer in answers) + 6} tokens)")
