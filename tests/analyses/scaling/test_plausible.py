"""analyses/scaling/plausible.py: wrong units are named, and nothing published is suspected."""

import itertools
import math

import numpy as np
import pytest
from isoflop_data import runs_of, study, surface_study, table

from analyses.scaling.cost import parse_cost
from analyses.scaling.runs import clean_runs

WHOLE = surface_study(budgets=5, sizes=7, decades=0.7, noise=0.004, seed=3)  # 3e18 to 3e21 FLOPs at 6 N D
KEYS = ("flops", "params", "tokens")


def doubts(columns, **options):
    return [one.reason for one in clean_runs(table(columns), **options)[1] if one.code == "units"]


def scaled(columns, **units):
    return {name: [value / units.get(name, 1) for value in values] for name, values in columns.items()}


def without(columns, name):
    return {key: values for key, values in columns.items() if key != name}


def study_of(params, tokens, flops):
    loss = 1.8 + 480 / np.asarray(params) ** 0.348 + 2080 / np.asarray(tokens) ** 0.366
    loss = np.minimum(loss, 9 + 1e-9 * np.asarray(params) ** 0.1)  # no loss is larger than a guess
    return {"params": list(params), "tokens": list(tokens), "flops": list(flops), "loss": loss.tolist()}


# --- wrong units -----------------------------------------------------------------------------------------------------

WRONG = {
    "params look like millions: --params-unit 1e6,": {"params": 1e6},
    "params look like billions: --params-unit 1e9,": {"params": 1e9},
    "tokens look like billions: --tokens-unit 1e9,": {"tokens": 1e9},
    "tokens look like millions: --tokens-unit 1e6,": {"tokens": 1e6},
    "FLOPs look like GFLOPs: --flops-unit 1e9,": {"flops": 1e9},
    "FLOPs look like PFLOPs: --flops-unit 1e15,": {"flops": 1e15},
    "FLOPs look like EFLOPs: --flops-unit 1e18,": {"flops": 1e18},
    "FLOPs look like PF-days: --flops-unit 8.64e+19,": {"flops": 8.64e19},
    "params look like millions and tokens look like billions: --params-unit 1e6 --tokens-unit 1e9,": {
        "params": 1e6, "tokens": 1e9,
    },
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_the_likely_unit_is_named_and_converts(words):
    """Of a table with FLOPs, parameters and tokens."""
    columns, units = scaled(WHOLE, **WRONG[words]), WRONG[words]
    (reason,) = doubts(columns)
    assert reason.startswith(words)
    assert doubts(columns, units=units) == []
    found, expected = runs_of(columns, units=units), runs_of(WHOLE)
    for name in KEYS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


@pytest.mark.parametrize(
    ("missing", "units"),
    [
        ("flops", {"params": 1e6}), ("flops", {"params": 1e9}), ("flops", {"tokens": 1e9}),
        ("flops", {"params": 1e6, "tokens": 1e9}), ("flops", {"tokens": 1e6}), ("tokens", {"params": 1e6}),
        ("tokens", {"params": 1e9}), ("tokens", {"flops": 1e9}), ("tokens", {"flops": 1e18}), ("params", {"tokens": 1e9}),
        ("params", {"tokens": 1e6}), ("params", {"flops": 1e18}),
    ],
)  # fmt: skip
def test_the_likely_unit_is_named_where_a_third_follows(missing, units):
    (reason,) = doubts(without(scaled(WHOLE, **units), missing))
    assert all(f"--{name}-unit 1e{round(math.log10(factor))}" in reason for name, factor in units.items())
    assert reason.count("look like") == len(units)


def test_of_two_units_that_would_do_the_usual_one_is_named():
    """Models of 1B parameters on a trillion tokens, written as 1000: with a billion tokens they would be few."""
    (reason,) = doubts({"params": [1e9, 2e9, 3e9], "tokens": [1000.0, 1200.0, 1500.0], "loss": [2.2, 2.1, 2.0]})
    assert reason.startswith("tokens look like billions: --tokens-unit 1e9,")


def test_a_wrong_unit_of_two_is_named_beside_the_one_that_was_given():
    columns = scaled(WHOLE, params=1e6, tokens=1e9)
    (reason,) = doubts(columns, units={"params": 1e6})
    assert reason.startswith("tokens look like billions: --tokens-unit 1e9,")


@pytest.mark.parametrize("factor", [3.0, 10.0, 50.0])
def test_flops_that_no_training_costs_are_told(factor):
    """18 N D: no unit is wrong by 3, so what to check is named instead."""
    (reason,) = doubts(scaled(WHOLE, flops=1 / factor))
    assert reason.startswith(f"FLOPs are {6 * factor:.3g} N D") and "--flops-unit" in reason
    assert doubts(scaled(WHOLE, flops=1 / factor), units={"flops": 1 / factor}) == []


def test_a_cost_that_the_user_named_is_believed():
    assert doubts(scaled(WHOLE, flops=1 / 3), cost=parse_cost("18,0")) == []
    assert len(doubts(scaled(WHOLE, flops=1 / 3), cost=parse_cost("6,0"))) == 1


def test_units_that_the_user_named_as_right_are_believed():
    columns = without(scaled(WHOLE, params=1e6), "flops")
    assert doubts(columns, units={"params": 1.0, "tokens": 1.0}) == []


# --- nothing published is suspected ------------------------------------------------------------------------------------

RNG = np.random.default_rng(7)
PARAMS = np.logspace(7, 10, 40)
TOKENS = 20 * PARAMS * 10 ** RNG.uniform(-1, 1, 40)
# Parameters and tokens as their authors published them, in no table's order.
FRONTIER = np.array([
    (175e9, 300e9), (280e9, 300e9), (70e9, 1.4e12), (540e9, 780e9), (65e9, 1.4e12), (7e9, 1e12), (8e9, 15e12),
    (405e9, 15.6e12), (1.1e9, 3e12), (0.6e9, 36e12), (135e6, 2e12), (1.6e12, 576e9), (671e9, 14.8e12), (389e9, 7e12),
]).T  # fmt: skip
WIDTH = np.array([256, 384, 512, 768, 1024, 1536, 2048])
DEPTH = WIDTH // 64
DENSE = 12 * DEPTH * WIDTH**2.0
SIXTH = 20 * DENSE
SOUND = {
    "6 N D": study_of(PARAMS, TOKENS, 6 * PARAMS * TOKENS),
    "the report's cost": study_of(PARAMS, TOKENS, (9.59 * PARAMS + 2.3e8) * TOKENS),
    "with recomputation": study_of(PARAMS, TOKENS, 8 * PARAMS * TOKENS),
    "the report's, with recomputation": study_of(PARAMS, TOKENS, 4 / 3 * (9.59 * PARAMS + 2.3e8) * TOKENS),
    "forward passes alone": study_of(PARAMS, TOKENS, 2 * PARAMS * TOKENS),
    "read off a picture": study_of(PARAMS, TOKENS, 6 * PARAMS * TOKENS * RNG.uniform(0.8, 1.3, 40)),
    "all parameters of a mixture": study_of(18 * PARAMS, TOKENS, 6 * PARAMS * TOKENS),
    "all parameters of 512 experts": study_of(300 * PARAMS, TOKENS, 6 * PARAMS * TOKENS),
    "attention over 8K tokens": study_of(DENSE, SIXTH, (6 * DENSE + 12 * DEPTH * WIDTH * 8192) * SIXTH),
    "a vocabulary of 128K not counted": study_of(DENSE, SIXTH, (6 * DENSE + 6 * 128_000 * WIDTH) * SIXTH),
    "Kaplan's sizes": study_of(np.logspace(2.89, 9.2, 30), np.full(30, 2.3e10), 6 * np.logspace(2.89, 9.2, 30) * 2.3e10),
    "well-known models": study_of(*FRONTIER, 6 * FRONTIER[0] * FRONTIER[1]),
    "toys": study_of(PARAMS / 1e3, TOKENS / 1e3, 6 * PARAMS * TOKENS / 1e6),
    "a study of this suite": study(noise=1e-3),
}  # fmt: skip


@pytest.mark.parametrize(("name", "missing"), list(itertools.product(SOUND, (None, *KEYS))))
def test_sound_studies_are_not_suspected(name, missing):
    columns = SOUND[name] if missing is None else without(SOUND[name], missing)
    cost = parse_cost("paper") if missing and "report" in name else None
    assert doubts(columns, cost=cost) == []


def test_total_parameters_beside_activated_ones_are_no_matter():
    """FLOPs may be those of either."""
    columns = without(SOUND["all parameters of a mixture"], "params")
    both = {**columns, "activated_params": PARAMS.tolist(), "total_params": (18 * PARAMS).tolist()}
    assert doubts(both) == []
    assert clean_runs(table({**both, "flops": (18 * 6 * PARAMS * TOKENS).tolist()}))[1] == []


def test_activated_parameters_far_below_the_compute_are_told_but_no_suspicion():
    columns = {"activated_params": PARAMS.tolist(), **without(SOUND["6 N D"], "params")}
    columns["flops"] = [5 * flops for flops in columns["flops"]]
    (finding,) = clean_runs(table(columns))[1]
    assert (finding.code, finding.suspect) == ("cost_mismatch", False) and "FLOPs are 30 N D" in finding.reason
    columns["flops"] = [1e9 * flops for flops in columns["flops"]]
    assert len(doubts(columns)) == 1


# --- losses ----------------------------------------------------------------------------------------------------------


def test_perplexities_in_a_column_of_losses_are_told():
    columns = {**WHOLE, "loss": np.exp(WHOLE["loss"]).tolist()}
    (reason,) = doubts(columns)
    assert "they look like perplexities: --loss-unit perplexity" in reason
    assert runs_of(columns, loss_unit="perplexity").loss == pytest.approx(runs_of(WHOLE).loss, rel=1e-12)
    assert doubts(columns, loss_unit="perplexity") == doubts(columns, loss_unit="nats") == []


@pytest.mark.parametrize("name", ["ppl", "Perplexity", "val_ppl", "eval/perplexity"])
def test_a_column_of_perplexities_is_read_with_a_word(name):
    columns = {**without(WHOLE, "loss"), name: np.exp(WHOLE["loss"]).tolist()}
    runs, findings = clean_runs(table(columns))
    assert runs.loss == pytest.approx(runs_of(WHOLE).loss, rel=1e-12)
    assert [(one.code, one.excludes, one.suspect) for one in findings] == [("perplexity", False, False)]
    assert name in findings[0].reason


def test_bits_are_converted():
    columns = {**WHOLE, "loss": (np.array(WHOLE["loss"]) / math.log(2)).tolist()}
    assert runs_of(columns, loss_unit="bits").loss == pytest.approx(runs_of(WHOLE).loss, rel=1e-12)


def test_a_few_runs_that_diverged_are_no_perplexities():
    columns = {**WHOLE, "loss": [40.0] * 5 + WHOLE["loss"][5:]}
    assert doubts(columns) == []


def test_losses_that_are_nothing_known_are_told():
    (reason,) = doubts({**WHOLE, "loss": [1e6 * loss for loss in WHOLE["loss"]]})
    assert "check the column" in reason and "--loss-unit nats" in reason
