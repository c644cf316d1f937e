"""The grid of a plan against numbers computed by hand, and the sentences on plans that cannot be."""

import itertools
import tomllib

import pytest

from model.config.hunyuan import HunyuanConfig
from model.config.presets import LADDER
from model.counts import activated_params
from model.errors import ConfigError
from model.sweep.config import BatchRule, LearningRateRule, SweepConfig
from model.sweep.plan import SweepPlan, override, short


def plan(**sections) -> SweepPlan:
    return SweepPlan.from_sections(sections)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_a_cell_counts_what_a_hand_does():
    """ladder-64 at 256 tokens: D 64, V 4096, two layers that share keys and values, 16 experts of 192 and a shared one.

    Multiply-adds of a token: attention 10,240 + 8,192, shared and routed 2 x 73,728, routers 2,048, head 262,144, scores
    2 x 128 x 256; their sum of 495,616 costs 2 FLOPs each, three times.
    """
    (cell,) = plan(sweep={"budgets": [1e13], "sizes": ["ladder-64"]}).cells()
    assert cell.flops_per_token == 6 * 495_616 == 2_973_696
    assert cell.id == "1e+13_ladder-64_s0"
    training = cell.settings.training
    assert (training.steps, training.global_batch_tokens, training.micro_batch_size) == (821, 4096, 16)  # 821.0
    assert cell.tokens == 821 * 4096
    assert cell.flops == 821 * 4096 * 2_973_696
    assert (cell.budget, cell.seed) == (1e13, 0)
    assert cell.activated == 430_464
    assert cell.activated_without_embedding == 430_464 - 4096 * 64
    assert cell.total == 430_464 + 15 * 73_728
    assert training.learning_rate == pytest.approx(0.00667855, rel=1e-6)  # 4e-3 * (430,464 / 1.2e6)^-0.5
    assert (training.evaluate_every, training.log_every, training.checkpoint_every) == (0, 8, 200)


def test_the_grid_is_every_budget_size_and_seed_in_order():
    grid = plan(sweep={"budgets": [3e13, 1e13], "sizes": ["ladder-96", "ladder-64"], "seeds": [1, 0]})
    assert [cell.id for cell in grid.cells()] == [
        "1e+13_ladder-64_s0", "1e+13_ladder-64_s1", "1e+13_ladder-96_s0", "1e+13_ladder-96_s1",
        "3e+13_ladder-64_s0", "3e+13_ladder-64_s1", "3e+13_ladder-96_s0", "3e+13_ladder-96_s1",
    ]  # fmt: skip


def sizes_at(budget: float, **sweep) -> list[str]:
    return [cell.size.removeprefix("ladder-") for cell in plan(sweep={"budgets": [budget], **sweep}).cells()]


def test_without_sizes_the_window_chooses_and_times_moves_it_along():
    """The window is 0.25 to 100 tokens per activated parameter. At 4e13 FLOPs they are 107 for ladder-40, 67 for ladder-48,
    0.66 for ladder-192 and 0.24 for ladder-224; at ten times the budget, ten times as many."""
    rungs = [str(width) for width in LADDER]
    now, later = sizes_at(4e13), sizes_at(4e13, times=10)
    assert now == [rung for rung in rungs if 48 <= int(rung) <= 192]
    assert later == [rung for rung in rungs if 96 <= int(rung) <= 320]
    assert sizes_at(4e13, times=10) == sizes_at(4e14)
    assert sizes_at(4e13, tokens_per_param=[4, 10]) == [rung for rung in rungs if 96 <= int(rung) <= 128]


def test_sizes_that_are_named_are_taken_unless_a_window_is_given():
    named = {"sizes": ["ladder-64", "ladder-192", "toy-dense"], "batch_tokens": {"value": 4096}}
    model = {"vocab_size": 4096}
    assert len(plan(sweep={"budgets": [1e13], **named}, model=model).cells()) == 3
    (cell,) = plan(sweep={"budgets": [1e13], "tokens_per_param": [5, 50], **named}, model=model).cells()
    assert cell.size == "ladder-64"


def test_budgets_are_nominal_and_named_to_their_last_digit():
    assert [short(b) for b in (1e15, 2.5e14, 123456789.0, 1e9)] == ["1e+15", "2.5e+14", "1.23456789e+08", "1e+09"]
    assert SweepConfig(budgets=(0.1, 0.3), times=3).nominal_budgets == [0.3, 0.9]  # not 0.30000000000000004
    cells = plan(sweep={"budgets": [1e8], "sizes": ["ladder-64"], "seeds": [2**62]}).cells()
    assert cells[0].settings.training.steps == 1 and cells[0].seed == 2**62


def test_the_batch_rule_in_numbers():
    """16 sequences at 1e13, growing with C^0.33: 1.6 at 1e10, 7.5 at 1e12, 25 at 4e13, 73 at 1e15."""
    rule = BatchRule()
    budgets = (1.0, 1e10, 1e12, 1e13, 4e13, 1e15)
    assert [rule.sequences(budget, 256) for budget in budgets] == [1, 2, 8, 16, 32, 64]
    assert rule.sequences(1e13, 4096) == 1
    assert BatchRule(value=6000, exponent=0.0).sequences(1e20, 1000) == 8  # 6 is nearer to 8 by ratio
    cell = plan(sweep={"budgets": [1e9], "sizes": ["ladder-64"]}).cells()[0]
    assert (cell.settings.training.global_batch_tokens, cell.settings.training.micro_batch_size) == (256, 1)
    cell = plan(sweep={"budgets": [4e13], "sizes": ["ladder-64"]}).cells()[0]
    assert (cell.settings.training.global_batch_tokens, cell.settings.training.micro_batch_size) == (8192, 16)


def test_the_learning_rate_rule_in_numbers():
    rule = LearningRateRule(value=1e-3, at_params=1e6, params_exponent=-0.25, at_batch_tokens=1000, batch_exponent=0.5)
    assert rule.rate(1_000_000, 1000) == 1e-3
    assert rule.rate(16_000_000, 1000) == pytest.approx(0.5e-3, rel=1e-12)
    assert rule.rate(16_000_000, 16_000) == pytest.approx(2e-3, rel=1e-12)


def test_a_plan_reads_its_own_file_back():
    changed = plan(
        model={"num_experts": 8, "rope_scaling": {"type": "linear", "factor": 2.0}},
        data={"sources": ["stdlib"]},
        training={"weight_decay": 0, "log_every": 3},
        sweep={"budgets": [10**13], "times": 2, "seeds": [3], "batch_tokens": {"value": 8192}},
    )
    for one in (plan(), changed):
        again = SweepPlan.from_sections(tomllib.loads(one.to_toml()))
        assert again == one
        assert again.cells() == one.cells()
    assert changed.cells()[0].settings.training.log_every == 3


def test_factors_give_every_batch_every_rate():
    """The rule's 2,048 tokens at 256 a sequence are 8 sequences, its rate at 2,048 tokens is 2e-3."""
    rules = {
        "learning_rate": {"value": 2e-3, "params_exponent": 0.0, "at_batch_tokens": 2048, "factors": [2, 0.5]},
        "batch_tokens": {"value": 2048, "factors": [1, 2]},
    }
    cells = plan(sweep={"budgets": [1e13], "sizes": ["ladder-64"], **rules}).cells()
    assert [cell.id.removeprefix("1e+13_ladder-64_s0") for cell in cells] == ["_lr0.5", "_lr2", "_b2_lr0.5", "_b2_lr2"]
    assert [cell.settings.training.global_batch_tokens for cell in cells] == [2048, 2048, 4096, 4096]
    rates = [1e-3, 4e-3, 1e-3 * 2**0.5, 4e-3 * 2**0.5]
    assert [cell.settings.training.learning_rate for cell in cells] == pytest.approx(rates)
    assert cells[0].settings.training.steps == pytest.approx(
        2 * cells[2].settings.training.steps, abs=1
    )  # equal tokens


def test_a_dense_rung_activates_what_its_mixture_does_less_the_router():
    for width in LADDER:
        mixture, dense = (HunyuanConfig.from_name(f"ladder-{width}{kind}") for kind in ("", "-dense"))
        router = width * mixture.num_experts * mixture.num_hidden_layers
        assert activated_params(dense) == activated_params(mixture) - router


def test_the_ladder_climbs_by_less_than_two():
    rungs = [f"ladder-{width}" for width in LADDER]
    cells = plan(sweep={"budgets": [1e13], "sizes": rungs}).cells()
    assert [cell.size for cell in cells] == rungs
    assert all(1 < high.activated / low.activated < 2 for low, high in itertools.pairwise(cells))


def test_set_reaches_every_key():
    sections: dict = {}
    for assignment in (
        "sweep.learning_rate.value=2e-3",
        "sweep.seeds=[4]",
        "model.moe_routing=drop",
        "sweep.times = 2",
    ):
        override(sections, assignment)
    changed = SweepPlan.from_sections(sections)
    assert (changed.sweep.learning_rate.value, changed.sweep.seeds, changed.sweep.times) == (2e-3, (4,), 2)
    assert changed.cells()[0].settings.model.moe_routing == "drop"
    for wrong in ("budgets=[1]", "sweep.budgets", "sweep.rate.value=1", "training.a.b=1", "run.x=1", "=1"):
        with pytest.raises(ConfigError, match=r"is not section\.key=value: the sections are model"):
            override({}, wrong)


# --- plans that cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"stages": [{"name": "long"}]}, "[[stages]] have no place in a sweep, whose cells have one context and one rule of"),
        ({"swep": {}}, "[swep] is not a section of a plan: known are model, data, training, sweep"),
        ({"sweep": 3}, "sweep must be a table: write [sweep]"),
        ({"sweep": {"budget": [1e13]}}, "sweep.budget is not a setting: did you mean 'budgets'?"),
        ({"sweep": {"budgets": []}}, "sweep.budgets is empty: give FLOPs, such as [1e13, 3e13]"),
        ({"sweep": {"budgets": 1e13}}, "sweep.budgets is 10000000000000.0: give a list of FLOPs above 0"),
        ({"sweep": {"budgets": [1e13, -1]}}, "sweep.budgets is [10000000000000.0, -1]: give a list of FLOPs above 0"),
        ({"sweep": {"budgets": [1e13, 1e13]}}, "sweep.budgets names 10000000000000.0 twice: name each once"),
        ({"sweep": {"seeds": [0.5]}}, "sweep.seeds is [0.5]: give a list of whole numbers from 0 up"),
        ({"sweep": {"seeds": []}}, "sweep.seeds is empty: give one at least"),
        ({"sweep": {"sizes": ["ladder-65"]}}, "there is no model named 'ladder-65': choose one of toy,"),
        ({"sweep": {"sizes": ["toy", "ladder-64"]}}, "the sizes have vocabularies of 2048, 4096: set one for all with model"),
        ({"sweep": {"tokens_per_param": [9, 4]}}, "sweep.tokens_per_param is [9, 4]: give the least and the most"),
        ({"sweep": {"tokens_per_param": [4]}}, "sweep.tokens_per_param is [4]: give the least and the most"),
        ({"sweep": {"budgets": [1e9]}}, "no size has between 0.25 and 100 tokens per activated parameter at a budget of 1e+09"),
        ({"sweep": {"times": 0}}, "sweep.times is 0: it must be above 0"),
        ({"sweep": {"times": "ten"}}, "sweep.times is 'ten': give a number"),
        ({"sweep": {"learning_rate": 1e-3}}, "sweep.learning_rate is 0.001: it is a rule, write sweep.learning_rate.value"),
        ({"sweep": {"learning_rate": {"value": 0}}}, "sweep.learning_rate.value is 0: it must be above 0"),
        ({"sweep": {"batch_tokens": {"exponnt": 1}}}, "sweep.batch_tokens.exponnt is not a setting: did you mean 'exponent'?"),
        ({"sweep": {"learning_rate": {"factors": [1, 1]}}}, "sweep.learning_rate.factors names 1 twice: name each once"),
        ({"sweep": {"learning_rate": {"factors": []}}}, "sweep.learning_rate.factors is empty: give one at least"),
        ({"sweep": {"batch_tokens": {"factors": [1, 3]}}}, "sweep.batch_tokens.factors has 3: give powers of two"),
        ({"model": {"preset": "toy"}}, "model.preset cannot be set in a plan: name the presets in sweep.sizes"),
        ({"model": {"moe_topk": 17}}, "model.moe_topk is 17: with 16 experts it must be between 1 and 16"),
        ({"training": {"steps": 5}}, "training.steps is decided by sweep.budgets: leave it out of [training]"),
        ({"training": {"learning_rate": 1e-3}}, "training.learning_rate is decided by [sweep.learning_rate]: leave it out"),
        ({"training": {"micro_batch_size": 12}}, "training.micro_batch_size is 12: a batch is a power of two of sequences"),
        ({"training": {"device": "cuda:1"}}, "training.device is 'cuda:1': use auto, cpu or cuda, and choose devices with"),
        ({"training": {"beta1": 2.0}}, "training.beta1 is 2.0: it must lie in [0, 1)"),
        ({"training": {"sequence_length": 10_000}}, "training.sequence_length is 10000: the model's context"),
        ({"data": {"sources": []}}, "data.sources is empty"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_one_sentence(sections, says):
    with pytest.raises(ConfigError) as refused:
        SweepPlan.from_sections(sections)
    (problem,) = refused.value.problems
    assert problem.startswith(says)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as refused:
        plan(sweep={"budgets": [], "learning_rate": {"value": -1}}, training={"steps": 3, "beta1": 2.0}, data={"x": 1})
    assert len(refused.value.problems) == 5
