"""What `hunyuan infer` refuses: one sentence on standard error, nothing on standard output, before anything is generated."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from model.generation import generate as generation
from tests.cli.speaking import write_run
from tests.oracles.released import CASES, random_tensors, write_folder

PROMPT = "the router"
HELLO = {"role": "user", "content": "hello"}
EXPERT = 3 * 16 * 24 * 4  # bytes of one of the run's


@pytest.fixture
def refused(infer, tmp_path, monkeypatch):
    """refused(status, sentence, ...) runs the command in an empty folder and expects that sentence of it."""

    def call(status, says, *arguments):
        found, out, err = infer(*arguments)
        assert (found, out, err.count("\n")) == (status, "", 1), (out, err)
        assert err.startswith("error: ") and says in err, err
        assert "this is a bug" not in err and len(err) < 600

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generation, "generate_batch", lambda *_, **__: pytest.fail("something was generated"))
    return call


@pytest.mark.parametrize(
    ("status", "options", "says"),
    [
        (2, "--checkpoint RUN", "there is nothing to continue: give a PROMPT, or a file of them with --prompts"),
        (2, "PROMPT", "Missing option '--checkpoint'"),
        (1, "PROMPT --checkpoint RUN --top-p 0", "top_p is 0.0: give a share above 0 and up to 1"),
        (1, "PROMPT --checkpoint RUN --top-p 1.5", "top_p is 1.5"),
        (1, "PROMPT --checkpoint RUN --min-p 1", "min_p is 1.0: give a share from 0 (off) to below 1"),
        (1, "PROMPT --checkpoint RUN --min-p -0.1", "min_p is -0.1"),
        (1, "PROMPT --checkpoint RUN --repetition-penalty 0", "repetition_penalty is 0.0: give a number above 0"),
        (1, "PROMPT --checkpoint RUN --repetition-penalty nan", "repetition_penalty is nan"),
        (1, "PROMPT --checkpoint RUN --temperature inf", "temperature is inf: give 0 (greedy) or above"),
        (1, "PROMPT --checkpoint absent --top-p 2 --min-p 2", "2 settings cannot be used: top_p is 2.0"),
        (2, "PROMPT --checkpoint RUN --temperature -1", "'--temperature': "),
        (2, "PROMPT --checkpoint RUN --temperature warm", "'--temperature': "),
        (2, "PROMPT --checkpoint RUN --top-k -1", "'--top-k': "),
        (2, "PROMPT --checkpoint RUN --tokens 0", "'--tokens': "),
        (2, "PROMPT --checkpoint RUN --max-new-tokens 1.5", "'--tokens': "),
        (2, "PROMPT --checkpoint RUN --seed 99999999999999999999", "'--seed': "),
        (2, "PROMPT --checkpoint RUN --batch-size 0", "'--batch-size': "),
        (2, "PROMPT --checkpoint RUN --prefill-chunk 0", "'--prefill-chunk': "),
        (2, "PROMPT --checkpoint RUN --dtype int8", "'int8' is not one of 'float32', 'bfloat16', 'float16'"),
        (2, "PROMPT --checkpoint RUN --format csv", "'csv' is not one of 'text', 'json', 'jsonl'"),
        (2, "PROMPT --checkpoint RUN --experts cloud", "'cloud' is not one of 'memory', 'disk'"),
        (2, "PROMPT --checkpoint RUN --experts disk --expert-cache 2XB", "'2XB' is not a size in bytes"),
        (1, f"PROMPT --checkpoint RUN --experts disk --expert-cache {EXPERT - 1}",
         "a cache of 4,607 bytes holds no expert: give it at least 4,608"),
        (2, "PROMPT --checkpoint RUN --compile --experts disk",
         "--compile needs its experts in memory: leave out --compile, or --experts disk"),
        (1, "PROMPT --checkpoint RUN --device gpu", "device 'gpu' is not known"),
        (2, "PROMPT --checkpoint RUN --output x.json", "--output keeps JSON: add --format json or jsonl"),
        (2, "PROMPT --checkpoint RUN --format json --output .", "is a directory"),
        (2, "a b c --checkpoint RUN --format text", "--format text shows one prompt, not 3: leave it out"),
        (2, "PROMPT --checkpoint RUN --logprobs 3", "--logprobs has no place in text: add --format json or jsonl"),
        (2, "PROMPT --checkpoint RUN --logprobs -1 --format json", "'--logprobs': "),
        (2, "PROMPT --checkpoint RUN --system brief", "--system is for the chat template: add --chat"),
        (2, "a b --checkpoint RUN --system brief", "--system is for the chat template: add --chat"),
        (1, "PROMPT --checkpoint RUN --tokens 63", "lower --max-new-tokens to 62"),
        (1, "PROMPT --checkpoint RUN --tokens 5000 --format json", "exceed the model's context of 64: lower --max-new-tokens"),
        (1, "PROMPT LONG --checkpoint RUN", "prompt 2 has 96 tokens and the model's context is 64: shorten the prompt"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_one_sentence(refused, run, status, options, says):
    words = {"RUN": str(run), "PROMPT": PROMPT, "LONG": "z" * 96}
    refused(status, says, *(words.get(word, word) for word in options.split()))


@pytest.mark.parametrize("stops", [[""], ["fine", ""]])
def test_an_empty_stop_text_is_refused_before_anything_is_read(refused, stops):
    options = [word for stop in stops for word in ("--stop", stop)]
    refused(1, "a stop string is empty: every text ends with it", PROMPT, "--checkpoint", "absent", *options)


@pytest.mark.parametrize(
    ("name", "content", "status", "says"),
    [
        ("p.csv", "a,b", 1, "p.csv is neither .txt nor .jsonl"),
        ("p.txt", "\n\n", 1, "p.txt holds no prompt: write one a line"),
        ("p.jsonl", "", 1, "p.jsonl holds no prompt: write one a line"),
        ("p.txt", b"\xff\xfe\x00", 1, "p.txt is not UTF-8 text: save it as UTF-8"),
        ("p.jsonl", '{"prompt": "a"}\nb', 1, "p.jsonl, line 2 is not JSON"),
        ("p.jsonl", '{"prompt": 1}', 1, "p.jsonl, line 1 has a prompt that is int, not a string"),
        ("p.jsonl", '{"text": "a"}', 1, 'p.jsonl, line 1 is not a prompt: write {"prompt": "..."}'),
        ("p.jsonl", '{"messages": []}', 1, "p.jsonl, line 1: the conversation has no message"),
        ("p.jsonl", json.dumps({"messages": [HELLO | {"role": "robot"}]}), 1,
         "p.jsonl, line 1: message 1: the role 'robot' is not known: use system, developer, user, assistant, tool"),
        ("absent.txt", None, 2, "'absent.txt' does not exist"),
        (".", None, 2, "'.' is a directory"),
        ("p.jsonl", '{"prompt": "a"}\n' * 3 + json.dumps({"prompt": "z" * 70}), 1,
         "prompt 4 has 70 tokens and the model's context is 64: shorten the prompt"),
    ],
)  # fmt: skip
def test_a_file_of_prompts_that_cannot_be_used(refused, run, tmp_path, name, content, status, says):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(status, says, "--checkpoint", run, "--prompts", name)


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (None, [HELLO, HELLO], "chat_template.jinja refuses these messages: speak in turns"),
        ("{% if %}", [HELLO], "chat_template.jinja is not a Jinja template (line 1: "),
        ("{{ messages[7].content }}", [HELLO], "chat_template.jinja failed ("),
        ("{{ 1 / 0 }}", [HELLO], "chat_template.jinja failed (division by zero): change the messages"),
        ("", [HELLO], "the prompt is empty"),
    ],
)
def test_a_template_that_raises(refused, released, tmp_path, template, messages, says):
    folder = shutil.copytree(released, tmp_path / "folder")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    (tmp_path / "p.jsonl").write_text(json.dumps({"messages": messages}))
    refused(1, says, "--checkpoint", folder, "--prompts", "p.jsonl", "--tokens", 5)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        ("absent", "absent does not exist: give the folder of a run"),
        ("empty", "empty is empty: give the folder of a run"),
        (
            "begun",
            "begun is a run that has saved no checkpoint yet (the first comes after training.checkpoint_every steps)",
        ),
        ("started", "started is a run that has saved no checkpoint yet"),
        (".", "has no checkpoint: give the folder of a run"),
        ("file.txt", "give the folder of a run"),
        ("folder/config.json", "give the folder of a run"),
    ],
)
def test_a_path_that_is_no_folder_of_a_model(refused, run, tmp_path, checkpoint, says):
    (tmp_path / "empty").mkdir()
    for name in ("begun", "started"):  # before its folder of checkpoints is made, and after
        (tmp_path / name / "checkpoints" / "step-1.tmp").mkdir(parents=True)
        for file in ("run.toml", "config.json", "tokenizer.json"):
            shutil.copy(run / file, tmp_path / name)
    shutil.rmtree(tmp_path / "begun" / "checkpoints")
    (tmp_path / "file.txt").touch()
    shutil.copytree(run, tmp_path / "folder")
    refused(1, says, PROMPT, "--checkpoint", checkpoint)


@pytest.mark.parametrize("kind", ["run", "released"])
@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", None, "holds no tokenizer, neither hy.tiktoken nor tokenizer.json: copy the one"),
        ("tokenizer.json", "{", "tokenizer.json is not a tokenizer.json ("),
        ("tokenizer.json", b"\xff", "tokenizer.json is not a tokenizer.json: it is not UTF-8 text"),
        ("tokenizer_config.json", '{"eos_token": "<no>"}', "it has no token '<no>' to end a text"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json is not a JSON object: mend or remove it"),
        ("generation_config.json", "{", "generation_config.json is not valid JSON"),
        ("generation_config.json", '{"top_p": 7}', "generation_config.json cannot be used: top_p is 7.0"),
        ("generation_config.json", '{"temperature": "hot"}', "generation_config.json has temperature = 'hot'"),
        ("generation_config.json", '{"eos_token_id": "</s>"}', "generation_config.json has eos_token_id = '</s>'"),
        ("config.json", "{", "config.json is not a JSON document"),
        ("config.json", "[]", "config.json holds a list"),
        ("config.json", None, ""),
    ],
)
def test_a_folder_with_a_file_that_is_missing_or_damaged(refused, request, tmp_path, kind, file, content, says):
    folder = shutil.copytree(request.getfixturevalue(kind), tmp_path / "folder")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(1, says, PROMPT, "--checkpoint", folder, "--tokens", 5)


def test_a_tokenizer_of_another_model(refused, released, tmp_path):
    folder = write_run(tmp_path / "run", vocab_size=298)
    refused(1, "the tokenizer has ids up to", PROMPT, "--checkpoint", folder)


def test_weights_cut_short(refused, released, tmp_path):
    folder = shutil.copytree(released, tmp_path / "folder")
    weights = sorted(folder.glob("*.safetensors"))[0]
    weights.write_bytes(weights.read_bytes()[:-9])
    refused(1, weights.name, PROMPT, "--checkpoint", folder)


def test_a_run_without_a_checkpoint_that_holds(refused, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "folder")
    (folder / "checkpoints" / "step-00000000" / "model.safetensors").write_bytes(b"damaged")
    refused(1, "holds no usable checkpoint: ", PROMPT, "--checkpoint", folder)


@pytest.mark.parametrize("kind", ["run", "released"])
def test_a_dense_model_has_no_experts_on_disk(refused, tmp_path, released, kind):
    folder = tmp_path / "dense"
    if kind == "run":
        write_run(folder, num_experts=1, num_shared_expert=0, moe_topk=1)
    else:
        files = {"tokenizer.json": (released / "tokenizer.json").read_text()}
        write_folder(folder, CASES["dense"], random_tensors(CASES["dense"], 1), 1, files)
    says = "is a dense model: it has no routed experts that could stay on disk"
    refused(1, says, PROMPT, "--checkpoint", folder, "--experts", "disk")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--experts", "disk"],
            "int8 weights need their experts in memory: leave out --weights int8, or --experts disk",
        ),
        (["--dtype", "float16"], "int8 weights compute in bfloat16 or float32: give --dtype bfloat16"),
    ],
)
def test_where_int8_weights_cannot_be_had(refused, run, options, says):
    refused(1, says, PROMPT, "--checkpoint", run, "--weights", "int8", *options)


def test_a_folder_in_float16_needs_another_precision_for_int8_weights(refused, released, tmp_path):
    folder = shutil.copytree(released, tmp_path / "half")
    for file in folder.glob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    says = "int8 weights compute in bfloat16 or float32: give --dtype bfloat16"
    refused(1, says, PROMPT, "--checkpoint", folder, "--weights", "int8")


# --- what shows once the model is there ------------------------------------------------------------------------------


def test_more_log_probabilities_than_tokens_are_refused_and_no_file_is_left(infer, run, tmp_path):
    arguments = (PROMPT, "--checkpoint", run, "--tokens", 3, "--format", "jsonl", "--logprobs", 301)
    says = "error: logprobs is 301: give 0 to 300, the model's vocabulary\n"
    assert infer(*arguments) == (1, "", says)
    assert infer(*arguments, "--output", tmp_path / "x.jsonl") == (1, "", says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/x.jsonl", "n" * 300])
def test_a_place_where_no_file_can_be(infer, run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    status, out, err = infer(PROMPT, "--checkpoint", run, "--tokens", 3, "--format", "jsonl", "--output", name)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: '") and "this is a bug" not in err


def test_a_model_that_computes_no_numbers_is_told_with_what_to_try(infer, run, tmp_path):
    folder = write_run(tmp_path / "run", initializer_range=1e38)
    status, _, err = infer(PROMPT, "--checkpoint", folder, "--tokens", 3)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("error: the model's logits are not finite: try --dtype float32")
