"""examples/claims/figures.py on a study whose every number is known."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "claims"
FIGURES, STUDY = (runpy.run_path(str(FOLDER / name)) for name in ("figures.py", "study.py"))


@pytest.fixture(scope="module")
def study():
    """Arm i lies i / 100 above the first, for both seeds; recycling loses half of that in the first tenth of training."""
    cells, curves = [], []
    for index, arm in enumerate(STUDY["ARMS"]):
        over = {"dropped_fraction": 0.2 * ("drop" in arm), "recycled_fraction": 0.25 * ("recycle" in arm)}
        for seed in (0, 1):
            key = {"variant": arm, "seed": seed}
            loss = 3.0 + seed + index / 100
            cells.append(dict.fromkeys(STUDY["MEASURES"], 1.0) | key | {"val_loss": loss} | over)
            for tokens in range(1, 101):
                early = 0.5 * ("recycle" in arm) * (tokens <= 10)
                line = (
                    key
                    | {"tokens": tokens, "loss": loss + early, "val_loss": loss if tokens % 10 == 0 else None}
                    | over
                )
                if "measured" in arm:
                    line |= {"noise_scale_shared": 100.0 * tokens, "noise_scale_routed": 1000.0}
                curves.append(line)
    return pd.DataFrame(cells), pd.DataFrame(curves).reindex(columns=["variant", "seed", *STUDY["CURVES"]])


def test_every_arm_of_the_study_is_asked_about():
    asked = {name for question in FIGURES["QUESTIONS"] for name in (question.baseline, *question.arms)}
    assert asked | {"large, measured"} == set(STUDY["ARMS"])
    assert {name for question in FIGURES["QUESTIONS"] for name in question.beside} <= set(STUDY["MEASURES"])


def test_a_question_has_its_baseline_its_differences_and_what_is_beside_them(study):
    question = next(q for q in FIGURES["QUESTIONS"] if q.title == "Capacity 1.0")
    table = FIGURES["question_table"](study[0], question).set_index("variant")
    arms = list(STUDY["ARMS"])
    assert list(table.index) == ["report", "drop", "recycle"]
    assert table.loc["drop", "difference"] == pytest.approx(arms.index("drop") / 100)
    assert table.loc["recycle", ["dropped_fraction", "recycled_fraction"]].tolist() == [0.0, 0.25]


def test_phases_tell_where_in_training_two_arms_differ(study):
    table = FIGURES["phases_table"](study[1], "drop", "recycle")
    assert table["to"].tolist() == [0.02, 0.05, 0.1, 0.25, 0.5, 1.0]
    assert table["difference"].tolist() == pytest.approx([0.51] * 3 + [0.01] * 3)
    assert table["over capacity, drop"].tolist() == pytest.approx([0.2] * 6)
    assert table["over capacity, recycle"].tolist() == pytest.approx([0.25] * 6)


RATE = {
    "name": "large-measured", "of_the_run": 0.25, "noise_scale_shared": 15920.4, "noise_scale_routed": 36893.3,
    "batch_noise_ratio": 0.2573, "by_the_rule": 0.3093, "by_both_noise_scales": 0.7434,
}  # fmt: skip


def test_the_tables_are_printed(study, capsys):
    FIGURES["print_tables"](*study, [RATE])
    printed = capsys.readouterr().out
    assert (
        "| Capacity 1.0 | recycle | 3.6300 ± 0.7071 | report: 3.5000 | +0.1300 [+0.1300, +0.1300] "
        "| recycled fraction 25.0%, against 0.0% |"
    ) in printed
    assert "| 0% to 2% | +0.5100 [+0.5100, +0.5100] | 20.0% | +0.5100 [+0.5100, +0.5100] | 20.0% |" in printed
    assert "| large, measured | 25% | 15,920 | 36,893 | 0.257 | 0.31 | 0.74 |" in printed


def test_the_figures_are_drawn(study):
    drawn = FIGURES["figures"](*study)
    assert list(drawn) == ["differences.png", "expert_rate.png", "cross_layer.png", "recycling.png", "noise_scale.png"]
    shared = drawn["noise_scale.png"].axes[0].get_lines()[0]
    assert list(shared.get_ydata())[:3] == pytest.approx([100, 200, 300])
    over_time = drawn["recycling.png"].axes[0].get_lines()[0]
    assert list(over_time.get_ydata())[:4] == pytest.approx([0.51, 0.51, 0.01, 0.01])  # bins of a twentieth
    seeds = drawn["cross_layer.png"].axes[1].get_lines()[:2]  # no CLA, one KV head: the third arm
    assert [list(line.get_ydata()) for line in seeds] == [pytest.approx([0.02] * 10)] * 2
