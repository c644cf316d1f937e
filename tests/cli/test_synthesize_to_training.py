"""What `hunyuan synthesize` leaves, typed on unchanged: pre-training, fine-tuning, and preferences of ranked answers."""

import json
import re

import pytest

from hunyuan_cli import main

KEYS = "micro_batch_size=2 device=cpu precision=float32".split()
FAMILIES = "arithmetic,count,sort,lookup"
TEXT = "\n\n".join(
    f"Paragraph {number} speaks of harbours, lanterns, piers and boats. Its harbours are wide, and its lanterns are lit "
    f"at {number} in the evening. Boats of every size come to the piers, and the piers are never empty of boats."
    for number in range(8)
)


@pytest.fixture
def hunyuan(tmp_path, monkeypatch, capfd):
    """hunyuan(command, ...) -> what it said, in a folder with data/ of two answers an instruction, a third of them wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    for command in ("train", "sft", "dpo"):
        monkeypatch.setattr(f"hunyuan_cli.commands.{command}.draw_run", lambda out, **_: None)

    def call(*arguments, tokens=None):
        more = [part for key in KEYS for part in ("--set", f"training.{key}")] if tokens else []
        if tokens:
            more += [
                "--set",
                f"training.sequence_length={tokens}",
                "--set",
                f"training.global_batch_tokens={4 * tokens}",
            ]
        capfd.readouterr()
        status = main.run([*map(str, arguments), *more])
        said = capfd.readouterr().err
        assert status == 0, said
        return said

    (tmp_path / "text.txt").write_text(TEXT)
    call("synthesize", "text.txt", "--out", "data", "--families", FAMILIES, "--count", 30, "--samples", 2,
         "--error-rate", 0.3, "--quiet")  # fmt: skip
    return call


def test_kept_answers_and_pairs_go_through_train_sft_and_dpo(hunyuan, tmp_path):
    kept = sum(len(part.read_text().splitlines()) for part in (tmp_path / "data/4_kept").glob("part-*.jsonl"))
    pairs = [json.loads(line) for line in (tmp_path / "data/pairs.jsonl").read_text().splitlines()]
    assert kept > 30 and len(pairs) > 5

    hunyuan("train", "--data", "data/4_kept", "--out", "run", "--steps", 2, tokens=64)
    said = hunyuan("sft", "--from", "run", "--data", "data/4_kept", "--out", "tuned", "--steps", 2, tokens=512)
    trained, held_out = re.search(r"4_kept: (\d+) examples for training and (\d+) for validation", said).groups()
    assert int(trained) + int(held_out) == kept
    offline = ["--offline", "data/pairs.jsonl", "--online-share", 0]
    said = hunyuan("dpo", "--from", "tuned", *offline, "--out", "better", "--steps", 2, tokens=512)
    trained, held_out = re.search(r"(\d+) offline pairs \((\d+) held out\)", said).groups()
    assert int(trained) + int(held_out) == len(pairs)
    assert {"run", "tuned", "better"} <= {path.name for path in tmp_path.iterdir() if (path / "summary.json").exists()}
