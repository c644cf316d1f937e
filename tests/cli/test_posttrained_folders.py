"""What `hunyuan sft` and `hunyuan dpo` leave goes to the released layout and back, and answers there as before."""

import json
import sys
from io import StringIO

import pytest
import torch

from hunyuan_cli import main
from model import Hunyuan

KEYS = "sequence_length=48 micro_batch_size=2 global_batch_tokens=192 device=cpu precision=float32 steps=3".split()
TINY = [part for key in KEYS for part in ("--set", f"training.{key}")]
GREEDY = ["--max-new-tokens", 12, "--temperature", 0]


@pytest.fixture
def hunyuan(tmp_path, monkeypatch, capfd):
    """hunyuan(command, ...) -> stdout of a command that works, in a folder with chats.jsonl and pairs.jsonl."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    for command in ("sft", "reward", "dpo"):
        monkeypatch.setattr(f"hunyuan_cli.commands.{command}.draw_run", lambda out, **_: None)
    rows = [{"prompt": f"{number} router", "chosen": "expert", "rejected": "no"} for number in range(20)]
    chats = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    for name, content in {"pairs": rows, "chats": chats}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))

    def call(*arguments, status=0):
        capfd.readouterr()
        found = main.run([*map(str, arguments)])
        out, err = capfd.readouterr()
        assert found == status, err
        return out if status == 0 else err

    return call


def dpo(hunyuan, source):
    offline = ["--offline", "pairs.jsonl", "--online-share", 0, "--average", 0.5, "--learning-rate", 0.01]
    hunyuan("dpo", "--from", source, *offline, *TINY, "--out", "dpo")


@torch.no_grad()
def logits(folder):
    return Hunyuan.from_checkpoint(folder)(torch.arange(12).view(1, 12)).logits


@pytest.mark.parametrize("which", ["sft", "dpo", "dpo/average"])
def test_there_and_back_it_answers_the_same(hunyuan, run, tmp_path, monkeypatch, which):
    hunyuan("sft", "--from", run, "--data", "chats.jsonl", *TINY, "--out", "sft")
    if which != "sft":
        dpo(hunyuan, "sft")
    hunyuan("convert", which, "--out", "there")
    hunyuan("convert", "there", "--out", "back")
    assert torch.equal(logits("back"), logits(which)) and torch.equal(logits("there"), logits(which))
    assert not torch.equal(logits(which), logits(run))
    answers, chats = [], []
    for folder in (which, "there", "back"):
        asked = ["infer", "3 router", "--checkpoint", folder, "--chat", *GREEDY, "--format", "json"]
        answers.append(json.loads(hunyuan(*asked)))
        monkeypatch.setattr(sys, "stdin", StringIO("3 router\n5 router\n"))
        chats.append(hunyuan("chat", "--checkpoint", folder, *GREEDY))
    assert len({answer["text"] for answer in answers}) == len(set(chats)) == 1
    assert answers[0]["text"].split("\n")[0] in chats[0] and chats[0].count("\n") >= 2
    for name in ("chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / which / name).read_bytes()


def test_fine_tuning_and_preferences_begin_with_what_was_converted(hunyuan, run):
    """A run of a converted folder has the template and the tokens of the folder: its answers end as before."""
    hunyuan("sft", "--from", run, "--data", "chats.jsonl", *TINY, "--out", "sft")
    hunyuan("convert", "sft", "--out", "there")
    dpo(hunyuan, "there")
    asked = ["--chat", *GREEDY, "--format", "json"]
    assert json.loads(hunyuan("infer", "3 router", "--checkpoint", "dpo/average", *asked))["text"]


def test_a_reward_model_is_not_converted(hunyuan, run):
    hunyuan("reward", "--from", run, "--data", "pairs.jsonl", *TINY, "--out", "judge")
    assert "judge is a reward model, which judges answers and gives none" in hunyuan(
        "convert", "judge", "--out", "there", status=1
    )
