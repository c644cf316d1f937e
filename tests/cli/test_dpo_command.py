"""`hunyuan dpo` as it is typed: what it leaves, how it goes on, and mistakes in a sentence each, with the line."""

import json

import pytest

from hunyuan_cli import main

KEYS = "sequence_length=48 micro_batch_size=4 global_batch_tokens=192 device=cpu precision=float32 evaluate_every=2".split()
TINY = [part for key in KEYS for part in ("--set", f"training.{key}")]
PAIRS = [{"prompt": f"{number} router", "chosen": "yes", "rejected": "no"} for number in range(12)]
PROMPTS = [{"prompt": f"{number} token", "answer": "yes"} for number in range(12)]


def write(path, rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def hunyuan(tmp_path, monkeypatch, capfd):
    """hunyuan(command, ...) -> (status, stdout, stderr), in a folder with pairs.jsonl and prompts.jsonl."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    monkeypatch.setattr("hunyuan_cli.commands.dpo.draw_run", lambda out, **_: None)
    write(tmp_path / "pairs.jsonl", PAIRS)
    write(tmp_path / "prompts.jsonl", PROMPTS)

    def call(*arguments):
        capfd.readouterr()
        status = main.run([*map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def dpo(run, *more):
    files = ["--offline", "pairs.jsonl", "--prompts", "prompts.jsonl", "--reward", "exact"]
    return ["dpo", "--from", run, *files, "--out", "new", *TINY, "--steps", 2, "--samples", 2, *more]


def test_a_run_leaves_its_average_compares_and_goes_on(hunyuan, run, tmp_path):
    status, out, err = hunyuan(*dpo(run))
    assert (status, out) == (0, "") and "next: hunyuan chat --checkpoint new/average" in err
    assert "the reference stays in memory" in err and "12 prompts" not in err and "9 prompts (3 held out)" in err
    status, out, _ = hunyuan(
        "infer", "0 token", "--checkpoint", "new/average", "--max-new-tokens", 3, "--temperature", 0
    )
    assert status == 0
    figure = tmp_path / "figure.png"
    status, out, _ = hunyuan("compare", "new", "--format", "json", "--plot", figure)
    row = json.loads(out)["runs"][0]
    assert status == 0 and figure.stat().st_size > 0
    assert {"kl", "margin", "chosen_logp_change", "proxy_reward", "average_kl", "unusable_share"} <= set(row)
    status, _, err = hunyuan("dpo", "--out", "new", "--resume", "--steps", 3)
    assert status == 0 and "resuming at step 2 of new" in err


def test_offline_pairs_need_neither_prompts_nor_a_reward(hunyuan, run, tmp_path):
    options = [
        "--offline",
        "pairs.jsonl",
        "--online-share",
        0,
        "--average",
        0,
        "--pairs",
        3,
        "--steps",
        1,
        "--out",
        "new",
    ]
    status, _, err = hunyuan("dpo", "--from", run, *options, "--sequence-length", 48)
    assert status == 0 and "next: hunyuan chat --checkpoint new\n" in err and "computed once and kept" in err
    assert not (tmp_path / "new" / "average").exists() and (tmp_path / "new" / "reference.safetensors").exists()
    row = json.loads((tmp_path / "new" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "kl" in row and "proxy_reward" not in row


GOOD_PAIR, GOOD_PROMPT = PAIRS[0], PROMPTS[0]


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("pairs", {"prompt": "x", "chosen": "yes"}, "pairs.jsonl, line 2: no 'rejected'"),
        ("pairs", {"chosen": "yes", "rejected": "no"}, "pairs.jsonl, line 2"),
        ("pairs", {"prompt": "x", "chosen": "yes", "rejected": "yes"}, "line 2: chosen and rejected are the same"),
        ("pairs", {"prompt": "x", "chosen": "", "rejected": "no"}, "line 2: 'chosen' is empty"),
        ("pairs", {"prompt": "", "chosen": "yes", "rejected": "no"}, "line 2"),
        (
            "pairs",
            {"prompt": "x", "chosen": 3, "rejected": "no"},
            "line 2: a conversation is a list of messages, not int",
        ),
        ("pairs", {"prompt": [{"role": "usr", "content": "x"}], "chosen": "a", "rejected": "b"}, "line 2"),
        ("pairs", '{"prompt": "x", "chosen": ', "pairs.jsonl, line 2: not valid JSON"),
        ("pairs", '["x", "yes", "no"]', "line 2: not a JSON object"),
        ("prompts", {"question_text": "x"}, "prompts.jsonl, line 2: no question"),
        ("prompts", {"prompt": "x"}, "prompts.jsonl, line 2: the reward exact needs 'answer' beside the prompt"),
        ("prompts", {"prompt": "", "answer": "yes"}, "prompts.jsonl, line 2"),
        (
            "prompts",
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "answer": "yes"},
            "prompts.jsonl, line 2: the question ends with an answer",
        ),
        ("prompts", {"messages": [], "answer": "yes"}, "prompts.jsonl, line 2"),
        ("prompts", "{", "prompts.jsonl, line 2: not valid JSON"),
    ],
)
def test_a_wrong_row_is_one_sentence_with_its_line(hunyuan, run, tmp_path, name, row, words):
    good = GOOD_PAIR if name == "pairs" else GOOD_PROMPT
    write(tmp_path / f"{name}.jsonl", [good, row])
    status, out, err = hunyuan(*dpo(run))
    last = err.splitlines()[-1]
    assert (status, out) == (1, "") and last.startswith("error: ") and words in last
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--reward", "exakt"], 1, "the reward exakt is neither a folder nor a check"),
        (["--reward", "."], 1, "has no checkpoint: give the folder of a run"),
        (["--online-share", 2], 1, "dpo.online_share is 2.0: give a share from 0 (offline) to 1 (online)"),
        (["--offline", "missing.jsonl"], 1, "missing.jsonl"),
        (["--kind", "ppo"], 1, "dpo.kind is 'ppo': choose one of sigmoid, ipo"),
        (["--beta", 0], 1, "dpo.beta is 0.0: it must be above 0"),
        (["--average", 1], 1, "dpo.average is 1.0"),
        (["--set", "dpo.betta=1"], 1, "dpo.betta is not a setting: did you mean 'beta'?"),
        (["--set", "sft.epochs=1"], 1, "[sft] has no place in a run of hunyuan dpo"),
        (["--set", "training.micro_batch_size=1"], 1, "a pair has two, so give even numbers"),
        (["--set", "training.micro_batch_size=2", "--set", "training.global_batch_tokens=96"], 1, "raise --pairs"),
        (["--set", "training.sequence_length=8"], 1, "over 8 tokens"),
        (["--pairs", 0], 2, "--pairs"),
    ],
)
def test_a_wrong_option_is_one_sentence(hunyuan, run, tmp_path, options, status, words):
    found, out, err = hunyuan(*dpo(run), *options)
    last = err.splitlines()[-1]
    assert (found, out) == (status, "") and last.startswith("error: ") and words in last
    assert not (tmp_path / "new" / "checkpoints").exists()


def test_what_is_missing_is_asked_for(hunyuan, run):
    assert hunyuan("dpo", "--from", run, "--out", "new")[0] == 2
    assert "there is no model to begin with" in hunyuan("dpo", "--offline", "pairs.jsonl", "--out", "new")[2]
    assert (
        "online pairs need prompts and a reward"
        in hunyuan("dpo", "--from", run, "--offline", "pairs.jsonl", "--out", "new")[2]
    )
    assert "--resume needs the folder" in hunyuan("dpo", "--resume")[2]


def test_what_another_command_began_is_not_gone_on_with(hunyuan, run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.toml").write_text("[model]\npreset = 'toy'\n")
    status, _, err = hunyuan("dpo", "--out", "other", "--resume")
    assert status == 1 and "other is no run of hunyuan dpo" in err
