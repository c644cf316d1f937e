"""examples/experts_on_disk.py: a small checkpoint is written, answers from disk, and gives the logits of memory."""

import importlib.util
import json
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "experts_on_disk.py"


def test_it_writes_answers_and_compares(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("experts_on_disk", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    monkeypatch.setattr(script, "CONFIG", script.CONFIG.replace(**sizes, head_dim=16, num_hidden_layers=2))
    target = tmp_path / "figures.json"
    options = ["--folder", str(tmp_path / "model"), "--cache", "3e-5", "--new-tokens", "5", "--check", "--layers", "2"]
    monkeypatch.setattr(sys, "argv", ["experts_on_disk.py", *options, "--output", str(target)])
    script.main()
    figures = json.loads(target.read_text())
    assert figures == json.loads(capsys.readouterr().out)
    assert figures["largest_logit_difference"] == 0
    assert figures["new_tokens"] == 5
    assert figures["misses"] > 4 and figures["bytes_read"] == figures["misses"] * 3 * 32 * 32 * 2
