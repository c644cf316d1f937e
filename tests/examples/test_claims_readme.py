"""examples/claims/README.md: its tables are those of figures.py, and the figures of its sentences follow from the data."""

import json
import re
import runpy
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analyses.training.seeds import variants_table

FOLDER = Path(__file__).parents[2] / "examples" / "claims"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
COMPARED = json.loads((FOLDER / "compare.json").read_text())
FIGURES, STUDY = (runpy.run_path(str(FOLDER / name)) for name in ("figures.py", "study.py"))
CELLS, CURVES = (pd.read_csv(FOLDER / name) for name in ("cells.csv", "curves.csv"))


@cache
def differences(baseline, measure):
    return variants_table(CELLS, baseline, measure).set_index("variant")


def difference(arm, baseline="report", measure="val_loss"):
    return differences(baseline, measure).loc[arm]


def test_every_cell_of_the_plan_is_there():
    planned = [(arm, seed) for seed in range(5) for arm in STUDY["ARMS"] if seed < STUDY["ARMS"][arm].seeds]
    assert list(zip(CELLS["variant"], CELLS["seed"], strict=True)) == planned and len(planned) == 106
    assert (CELLS["tokens"] == 1200 * 4096).all()


def test_the_tables_are_those_that_the_script_prints(capsys):
    FIGURES["print_tables"](CELLS, CURVES, COMPARED["expert_rates"])
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 3
    for table in tables:
        assert table in PAGE


def test_what_compare_said_is_what_the_cells_say():
    table = variants_table(CELLS, "report", "val_loss")
    names = table["variant"].str.replace(", ", "-").str.replace(" ", "-")
    said = pd.DataFrame(COMPARED["arms"]).set_index("variant").loc[names]
    for column in ("n", "mean", "sd", "difference", "low", "high"):
        assert said[column].tolist() == pytest.approx(table[column].tolist(), nan_ok=True)


def test_the_sentences_on_losses_follow_from_the_cells():
    assert f"without it {-difference('no CLA')['difference']:.2f} nats lower, at twice the cache" in TEXT
    assert f"two routed experts are {-difference('routed only')['difference']:.2f} nats lower" in TEXT
    for sentence, arm, baseline in (
        ("{:.3f} nats against none,", "no annealing", "report"),
        ("{:.3f} against one cosine", "cosine to 0.1", "report"),
        ("**better**: {:.3f} nats, and", "no QK norm", "report"),
        ("and {:.3f} at four times the rate", "high rate, no QK norm", "high rate"),
        ("1.0 is {:.3f} nats worse", "large, expert rate 1.0", "large, expert rate 0.31"),
        ("should be equal is {:.4f} nats", "measured", "report"),
        ("at this size: {:+.3f} nats", "unbalanced", "report"),
    ):
        assert sentence.format(difference(arm, baseline)["difference"]) in TEXT, arm
    pairs = CELLS.pivot_table(index="seed", columns="variant", values="val_loss")
    large = (pairs["large, measured"] - pairs["large, expert rate 0.31"]).dropna()
    assert f"differ by {large[0]:.3f} and {large[1]:.3f}," in TEXT
    deviations = CELLS.groupby("variant")["val_loss"].agg(["std", "count"]).query("count == 5")["std"]
    settled = deviations.drop(["no CLA", "no CLA, one KV head"])
    assert f"differ by {settled.min():.3f} to {settled.max():.3f} nats" in TEXT


def test_the_sentences_on_recycling_follow_from_the_cells():
    row = difference("recycle", "drop")
    pairs = CELLS.pivot_table(index="seed", columns="variant", values="val_loss")
    p = stats.ttest_rel(pairs["recycle"], pairs["drop"]).pvalue
    count = sum(len(question.arms) for question in FIGURES["QUESTIONS"])
    said = f"recycling is {-row['difference']:.3f} nats better ({-row['high']:.3f} to {-row['low']:.3f}; p = {p:.2f}, "
    assert said + f"where {count} comparisons ask for {0.05 / count:.3f})" in TEXT
    bits = difference("recycle", "drop", "val_bits_per_byte")["difference"]
    assert f"In bits per byte it is {bits:.4f}" in TEXT
    for sentence, before, base in (
        ("Either costs {:.3f} to {:.3f} nats against dropless", "", "report"),
        ("and {:.3f} to {:.3f} without a balance loss", "unbalanced, ", "unbalanced"),
    ):
        costs = [difference(before + arm, base)["difference"] for arm in ("recycle", "drop")]
        assert sentence.format(*costs) in TEXT


def test_the_sentences_on_cross_layer_attention_follow_from_the_curves():
    unshared = FIGURES["by_seed"](CURVES, "no CLA")
    assert f"in any seed by more than {-unshared[2_048_000].min():.3f} nats" in TEXT
    last = -unshared[unshared.columns[-1]]
    assert f"at 4.9M tokens it is {last.min():.2f} to {last.max():.2f} nats lower in all five" in TEXT
    one_head = FIGURES["by_seed"](CURVES, "no CLA, one KV head")
    assert (one_head[2_048_000] > 0).all() and (one_head.iloc[:, -1] > 0).sum() == 1
    routed = FIGURES["by_seed"](CURVES, "routed only")
    assert (routed.loc[:, 2_800_000:] < 0).all(axis=None) and not (routed.loc[:, :2_800_000] < 0).all().any()


def test_the_sentences_on_the_expert_rate_follow_from_what_compare_said():
    rates = pd.DataFrame(COMPARED["expert_rates"]).set_index(["name", "of_the_run"])
    small, large = (rates.loc[name, "by_the_rule"] for name in ("measured", "large-measured"))
    said = f"gives {small[0.25]:.2f} to {small[1.0]:.2f} at the toy's size and {large[0.25]:.2f} to {large[1.0]:.2f} at"
    assert said in TEXT
    assert f"the rule gives {rates['by_the_rule'].min():.2f} to {rates['by_the_rule'].max():.2f} from" in TEXT
    ratio = rates["noise_scale_routed"] / rates["noise_scale_shared"]
    assert f"It is {ratio.min():.1f} to {ratio.max():.1f} times that" in TEXT
    both = rates["by_both_noise_scales"]
    assert f"asks for {both.min():.2f} to {both.max():.2f}" in TEXT


def test_what_the_page_shows_is_there():
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", PAGE)
    assert sorted(shown) == sorted(path.name for path in FOLDER.glob("*.png")) and len(shown) == 5
    tokens = sum(json.loads((FOLDER / "environment.json").read_text())["data"]["train_tokens"].values())
    assert f"{tokens / 1e6:.1f}M tokens of training, so a run reads {1200 * 4096 / tokens:.0%} of it" in TEXT


def test_the_results_quote_the_same_differences():
    results = (FOLDER.parent / "RESULTS.md").read_text(encoding="utf-8")
    part = results[results.index("**The report's claims, one by one**") : results.index("**Products in bfloat16")]
    asked = {FIGURES["interval"](difference(arm, q.baseline)) for q in FIGURES["QUESTIONS"] for arm in q.arms}
    quoted = re.findall(r"[+-]\d\.\d{4} \[[^]]*\]", part)
    assert len(quoted) == 14 and set(quoted) <= asked
