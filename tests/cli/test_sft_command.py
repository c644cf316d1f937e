"""`hunyuan sft` and `hunyuan reward` as they are typed: what they leave, how they go on, and mistakes in a sentence each."""

import json

import pytest

from hunyuan_cli import main

KEYS = "sequence_length=48 micro_batch_size=2 global_batch_tokens=192 device=cpu precision=float32".split()
TINY = [part for key in KEYS for part in ("--set", f"training.{key}")]
CHATS = [{"prompt": f"{number} router", "completion": "expert"} for number in range(20)]
PAIRS = [{"prompt": f"{number} router", "chosen": "yes", "rejected": "no"} for number in range(20)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def hunyuan(tmp_path, monkeypatch, capfd):
    """hunyuan(command, ...) -> (status, stdout, stderr), in a folder with chats.jsonl and pairs.jsonl."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    monkeypatch.setattr("hunyuan_cli.commands.sft.draw_run", lambda out, **_: None)
    monkeypatch.setattr("hunyuan_cli.commands.reward.draw_run", lambda out, **_: None)
    write(tmp_path / "chats.jsonl", CHATS)
    write(tmp_path / "pairs.jsonl", PAIRS)

    def call(*arguments):
        capfd.readouterr()
        status = main.run([*map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def sft(run, *more):
    return ["sft", "--from", run, "--data", "chats.jsonl", "--out", "new", *TINY, "--steps", 3, *more]


def reward(run, *more):
    return ["reward", "--from", run, "--data", "pairs.jsonl", "--out", "judge", *TINY, "--steps", 3, *more]


def test_a_run_answers_in_the_form_it_learnt_compares_and_goes_on(hunyuan, run, tmp_path):
    status, out, err = hunyuan(*sft(run))
    assert (status, out) == (0, "") and "next: hunyuan chat --checkpoint new" in err
    assert "chats.jsonl: 19 examples for training and 1 for validation" in err and "step 3: '" in err
    left = {path.name for path in (tmp_path / "new").iterdir()}
    assert {"samples.jsonl", "chat_template.jinja", "tokenizer.json", "run.toml", "summary.json"} <= left
    sample = json.loads((tmp_path / "new" / "samples.jsonl").read_text().splitlines()[-1])
    asked = ["--checkpoint", "new", "--chat", "--max-new-tokens", 20, "--temperature", 0, "--format", "json"]
    status, out, _ = hunyuan("infer", sample["question"], *asked)
    assert status == 0 and json.loads(out)["text"] == sample["answer"][:20]
    status, out, _ = hunyuan("compare", "new", "--format", "json")
    assert status == 0 and json.loads(out)["runs"][0]["name"] == "new"
    status, _, err = hunyuan("sft", "--out", "new", "--resume", "--steps", 4)
    assert status == 0 and "resuming at step 3 of new" in err


def test_quiet_says_the_last_line_alone(hunyuan, run):
    status, out, err = hunyuan(*sft(run, "--quiet"))
    assert (status, out) == (0, "") and err.startswith("finished after 3 steps") and err.count("\n") == 1


def test_settings_come_from_a_run_file_and_set_reaches_every_key(hunyuan, run, tmp_path):
    (tmp_path / "run.toml").write_text(
        '[data]\nsources = ["chats.jsonl"]\n[sft]\ntrain_on = "last"\nsamples = 0\n[training]\nsteps = 1\n'
    )
    status, _, err = hunyuan(
        "sft", "--config", "run.toml", "--from", run, "--out", "new", *TINY, "--set", "sft.template=none"
    )
    recorded = (tmp_path / "new" / "run.toml").read_text()
    assert status == 0, err
    assert all(line in recorded for line in ('train_on = "last"', "samples = 0", "steps = 1", 'template = "none"'))
    assert not (tmp_path / "new" / "chat_template.jinja").exists()


def test_a_reward_model_leaves_its_calibration(hunyuan, run, tmp_path):
    status, out, err = hunyuan(*reward(run))
    assert (status, out) == (0, ""), err
    assert "3 steps of 2 pairs; " in err and "pairs.jsonl: 19 pairs for training and 1 held out" in err
    assert "accuracy" in err and (tmp_path / "judge" / "calibration.png").stat().st_size > 1000
    status, _, err = hunyuan("infer", "x", "--checkpoint", "judge")
    assert status == 1 and "judge is a reward model, which judges answers and gives none" in err
    status, _, err = hunyuan(*sft(tmp_path / "judge"))
    assert status == 1 and "is a reward model" in err


MISTAKES = {
    "no data": (["sft", "--from", "RUN", "--out", "new"], 2, "nothing to learn from: name a file with --data"),
    "no model": (["sft", "--data", "chats.jsonl", "--out", "new"], 2, "no model to begin with: name a run"),
    "no folder": (["sft", "--from", "RUN", "--data", "chats.jsonl"], 2, "the run needs a folder: add --out DIR"),
    "no file": (["ON", "none.jsonl"], 1, "none.jsonl is not a file, a folder"),
    "a folder without rows": (["ON", "empty"], 1, "empty has no file of rows"),
    "text": (["ON", "notes.txt"], 1, "notes.txt holds no rows: give one of .json"),
    "unknown key": (["SFT", "--set", "sft.epoch=2"], 1, "sft.epoch is not a setting: did you mean 'epochs'?"),
    "unknown section": (["SFT", "--set", "tuning.epochs=2"], 1, "--set tuning.epochs=2 is not section.key=value"),
    "other section": (["SFT", "--set", "dpo.beta=2"], 1, "[dpo] has no place in a run of hunyuan sft"),
    "key of text": (["SFT", "--set", "data.text_key=x"], 1, "data.text_key is for text and has no effect on hunyuan sft"),
    "train on what": (["SFT", "--train-on", "questions"], 1, "sft.train_on is 'questions': choose one of answers, last, all"),
    "unknown template": (["SFT", "--template", "chatml"], 1, "chatml cannot be read (No such file or directory)"),
    "unknown end": (["SFT", "--end-token", "<|im_end|>"], 1, "sft.end_token is '<|im_end|>'"),
    "no epochs": (["SFT", "--epochs", "0"], 1, "sft.epochs is 0"),
    "model with a source": (["SFT", "--set", "model.hidden_size=8"], 1, "model.hidden_size = 8 does not fit the weights"),
    "two weights for one": (["SFT", "--set", "data.weights=[1, 2]"], 1, "data.weights has 2 numbers for 1 data.sources"),
    "context": (["SFT", "--set", "training.sequence_length=96"], 1, "training.sequence_length is 96: the model's context"),
    "rows too short": (["SFT", "--set", "training.sequence_length=4"], 1, "no conversation can be learnt (examples of over"),
    "resume of nothing": (["sft", "--out", "none", "--resume"], 1, "none holds no run to resume"),
    "resume with a model": (["sft", "--out", "RUN", "--resume", "--from", "RUN"], 2, "--from cannot change a run"),
    "resume without a folder": (["sft", "--resume"], 2, "--resume needs the folder of the run"),
    "chats as pairs": (["reward", "--from", "RUN", "--out", "new", "--data", "chats.jsonl"], 1, "line 1: no 'chosen'"),
    "pairs as chats": (["ON", "pairs.jsonl"], 1, "pairs.jsonl, line 1: no conversation"),
    "lying parquet": (["ON", "lie.parquet"], 1, "lie.parquet is not a parquet file"),
    "lying gz": (["ON", "lie.jsonl.gz"], 1, "lie.jsonl.gz is damaged or no .gz file"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(hunyuan, run, tmp_path, name):
    arguments, expected, sentence = MISTAKES[name]
    (tmp_path / "empty").mkdir()
    for lie in ("notes.txt", "lie.parquet", "lie.jsonl.gz"):
        (tmp_path / lie).write_text("words")
    words = {"SFT": sft(run), "RUN": [run], "ON": ["sft", "--from", run, "--out", "new", "--data"]}
    arguments = [part for word in arguments for part in words.get(word, [word])]
    status, out, err = hunyuan(*arguments)
    assert (status, out) == (expected, ""), err
    said = err.splitlines()[-1]
    assert said.startswith("error: ") and sentence in said, err
    assert not (tmp_path / "new").exists() and "Traceback" not in err


def test_a_run_of_another_command_is_not_gone_on_with(hunyuan, run, tmp_path):
    assert hunyuan(*sft(run))[0] == 0
    status, _, err = hunyuan("reward", "--out", "new", "--resume")
    assert status == 1 and "new is no run of hunyuan reward: go on with it by the command that began it" in err
    status, _, err = hunyuan(*sft(run))
    assert status == 1 and "new already holds a run: continue it with --resume" in err
    status, _, err = hunyuan("sft", "--out", "new", "--resume", "--set", "sft.train_on=all")
    assert status == 1 and "sft.train_on cannot change when a run is resumed: it alters what is learnt" in err
    (tmp_path / "chats.jsonl").write_text((tmp_path / "chats.jsonl").read_text().replace("expert", "token"))
    status, _, err = hunyuan("sft", "--out", "new", "--resume", "--steps", 5)
    assert status == 1 and "the data of new has changed since it began" in err
