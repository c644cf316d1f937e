"""Plans: from a budget to a shape, tokens, steps and memory; the same by the counts of model/ and by published numbers."""

import dataclasses
import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.devices import DEVICES
from analyses.planning.batch import critical_batch, learning_rate_of
from analyses.planning.families import FAMILIES, candidates, nearest
from analyses.planning.plan import FAR_OFF, Request, plan_report
from analyses.planning.run_file import run_file
from analyses.scaling.laws import LAWS
from model.config import HunyuanConfig
from model.config.presets import PRESETS
from model.counts import activated_params, total_params, training_flops_per_token
from model.errors import ConfigError, HunyuanError
from model.training.settings import RunSettings

PAPER = LAWS["paper"]
BUDGETS = st.floats(11, 26).map(lambda power: 10**power)


def plan_of(flops, law=PAPER, **wishes):
    return plan_report(law, [flops], Request(**wishes))["plans"][0]


def codes(flops, law=PAPER, **wishes):
    return [warning["code"] for warning in plan_report(law, [flops], Request(**wishes))["warnings"]]


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in PRESETS if name.startswith("ladder-") and not name.endswith("-dense")]
)
def test_the_family_report_has_the_ladder_s_settings(name):
    preset = PRESETS[name]
    made = FAMILIES["report"].settings(preset["hidden_size"], preset["num_hidden_layers"], 4096)
    assert made == preset


def test_the_family_hunyuan_large_has_its_own_shape():
    made = FAMILIES["hunyuan-large"].settings(6400, 64, 129_024)
    assert made == PRESETS["hunyuan-large"]
    rungs = FAMILIES["hunyuan-large"].rungs(129_024)
    assert any((rung.hidden_size, rung.layers, rung.activated) == (6400, 64, 51_322_077_440) for rung in rungs)


@pytest.mark.parametrize("name", FAMILIES)
def test_rungs_count_as_their_configurations(name):
    family = FAMILIES[name]
    rungs = family.rungs(1000)
    assert [rung.activated for rung in rungs] == sorted(rung.activated for rung in rungs)
    for rung in rungs[:: len(rungs) // 20]:
        config = HunyuanConfig.from_dict(family.settings(rung.hidden_size, rung.layers, 1000))
        assert rung.activated == activated_params(config) and rung.layers % 2 == 0
        assert config.num_attention_heads * config.head_dim == rung.hidden_size


def test_around_a_rung_are_two_smaller_and_two_larger():
    rungs = FAMILIES["report"].rungs(4096)
    for params in (1e6, 1e8, 1e10):
        chosen = nearest(rungs, params)
        sizes = [rung.activated for rung in candidates(rungs, chosen, params)]
        assert len(sizes) == 5 and sizes[2] == chosen.activated and sizes == sorted(set(sizes))
    assert len(candidates(rungs, rungs[0], 1.0)) == 3  # the smallest has none below


# --- the report's budget ----------------------------------------------------------------------------------------------


def test_the_report_s_budget_gives_hunyuan_large_s_neighbours():
    plan = plan_of(3.1e24, family="hunyuan-large")
    assert plan["params_opt"] == pytest.approx(58.1e9, rel=0.005)
    assert plan["tokens_opt"] == pytest.approx(5.6e12, rel=0.01)
    assert abs(plan["miss_fraction"]) < 0.02
    near = [row for row in plan["candidates"] if abs(row["activated_params"] / 52e9 - 1) < 0.05]
    assert [(row["hidden_size"], row["chosen"]) for row in near] == [(6400, False)]


def test_hunyuan_large_itself_on_the_report_s_budget():
    plan = plan_of(3.1e24, model="hunyuan-large", context=8192)
    assert (plan["activated_params"], plan["total_params"]) == (51_322_077_440, 388_701_405_440)
    # 6 N and attention over 8,192 keys: 3.1e24 / 3.482e11; by the report's 9.59 N + 2.3e8 a token 6.3T.
    assert plan["tokens"] == pytest.approx(8.90e12, rel=0.001)
    assert plan["tokens_by_law_cost"] == pytest.approx(6.30e12, rel=0.001)
    assert plan["expert_lr_scale"] == pytest.approx(0.31, abs=0.001)
    assert [row["chosen"] for row in plan["candidates"]] == [True]


def test_the_report_s_own_run_is_told():
    notes = plan_report(PAPER, [3.1e24], Request(family="hunyuan-large"))["notes"]
    assert any("7T tokens" in note and "2.44e+24" in note and "3.45e+24" in note for note in notes)


# --- any budget -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(flops=BUDGETS, law=st.sampled_from(list(LAWS.values())))
def test_a_plan_adds_up(flops, law):
    report = plan_report(law, [flops], Request())
    plan = report["plans"][0]
    config = HunyuanConfig.from_dict(plan["model"])
    per_token = training_flops_per_token(config, plan["context"])
    assert (plan["activated_params"], plan["total_params"]) == (activated_params(config), total_params(config))
    assert plan["tokens"] * per_token <= flops < (plan["tokens"] + 2) * per_token * (1 + 1e-9)
    step = plan["batch_tokens"] * per_token
    assert -1e-9 * flops <= plan["run_flops"] - flops < step * (1 + 1e-9) + 1e-9 * flops
    assert plan["batch_tokens"] == plan["batch_sequences"] * plan["context"]
    assert 1 / FAR_OFF < plan["params_opt"] / plan["activated_params"] < 2
    off, warned = abs(plan["miss_fraction"]), [warning["code"] for warning in report["warnings"]]
    assert (
        off < (0.04 if plan["params_opt"] > 3e9 else 0.3 if plan["params_opt"] > 1e6 else 1)
        or "smallest_shape" in warned
    )
    assert 0 < plan["expert_learning_rate"] < plan["learning_rate"] < 0.02
    assert sum(row["chosen"] for row in plan["candidates"]) == 1
    assert all(math.isfinite(plan[key]) and plan[key] > 0 for key in ("device_hours", "days", "batch_tokens"))
    critical = plan["critical_batch_tokens"]
    assert (critical is None) == (plan["loss_estimate"] is None) and (critical is None or critical > 0)


@settings(max_examples=40, deadline=None)
@given(flops=BUDGETS, factor=st.floats(3, 1e3), family=st.sampled_from(list(FAMILIES)))
def test_more_flops_are_more_parameters_and_tokens(flops, factor, family):
    """From three times the budget on, whatever the steps between shapes."""
    if family == "hunyuan-large":
        flops = max(flops, 1e17)  # below, the smallest shape is far off the law
    less, more = plan_of(flops, family=family), plan_of(min(1e26, flops) * factor, family=family)
    assert less["params_opt"] < more["params_opt"] and less["activated_params"] <= more["activated_params"]
    assert less["tokens_opt"] < more["tokens_opt"] and less["tokens"] < more["tokens"]
    assert less["learning_rate"] >= more["learning_rate"] and less["device_hours"] < more["device_hours"]


# --- batch, rate, memory, time ----------------------------------------------------------------------------------------


def test_the_critical_batch_is_kaplan_s():
    assert critical_batch(1.0) == 2e8
    assert critical_batch(2.0) == pytest.approx(2e8 / 2 ** (1 / 0.21)) == pytest.approx(7.37e6, rel=1e-3)


def test_the_batch_follows_the_loss_and_leaves_a_thousand_steps():
    low, high = (plan_of(1e21, loss=loss) for loss in (2.0, 3.5))
    assert low["batch_tokens"] > high["batch_tokens"] and low["loss_source"] == "given"
    assert 0.7 < high["batch_tokens"] / high["critical_batch_tokens"] < 1.5
    assert math.log2(low["batch_sequences"]).is_integer()
    assert high["flops_min"] == pytest.approx(1e21 / (1 + high["batch_tokens"] / high["critical_batch_tokens"]))
    assert 1000 <= plan_of(1e13, loss=2.0)["steps"] < 2001
    assert plan_of(1e13, loss=2.0, batch_tokens=3 * 256, context=256)["batch_tokens"] == 768


@pytest.mark.parametrize(("params", "rate"), [(1.22e6, 4e-3), (8.03e9, 3e-4), (70.6e9, 1.5e-4), (405.9e9, 8e-5)])
def test_the_rate_goes_through_the_toy_s_and_llama_s(params, rate):
    """README of this project; Llama 3.1, arXiv:2407.21783, table 3."""
    assert learning_rate_of(params) == pytest.approx(rate, rel=0.11)


def test_hours_are_flops_over_the_used_peak():
    plan = plan_of(989e12 * 3600, gpu="h200", mfu=0.5, vocab_size=512)  # an hour of an H200's peak
    assert plan["device_hours"] == pytest.approx(2.0) and plan["days"] == pytest.approx(2 / 24)
    by_six_n = 6 * plan["activated_params"] / plan["flops_per_token"]
    assert plan["device_hours_by_six_n"] == pytest.approx(2 * by_six_n, rel=1e-6)
    four = plan_of(989e12 * 3600, gpu="h200", mfu=0.5, vocab_size=512, devices=4)
    assert four["device_hours"] == pytest.approx(2.0) and four["days"] == pytest.approx(0.5 / 24)


def test_peaks_are_between_an_a100_s_and_a_few_petaflops():
    peaks = {name: device.peak_flops for name, device in DEVICES.items() if device.peak_flops is not None}
    assert peaks.keys() == DEVICES.keys() - {"m3-ultra"}
    assert all(1e14 < peak < 3e15 for peak in peaks.values())
    assert (peaks["a100-80gb"], peaks["h100"], peaks["h200"]) == (312e12, 989e12, 989e12)


def test_memory_is_that_of_a_device_and_says_where_it_fits():
    one, many = (plan_of(3.1e24, model="hunyuan-large", devices=n)["memory"] for n in (1, 512))
    assert one["state_bytes"] == 16 * 388_701_405_440 and one["fits_recomputed"] == []
    assert "h200" in many["fits_recomputed"] and "rtx-4090" not in many["fits_recomputed"] and many["recompute"]
    assert 64 <= one["devices_to_fit"] == many["devices_to_fit"] <= 512
    assert plan_of(3.1e24, model="hunyuan-large", devices=one["devices_to_fit"])["memory"]["fits_recomputed"]
    small = plan_of(1e15)["memory"]
    assert small["fits"] == list(DEVICES) and not small["recompute"] and small["devices_to_fit"] == 1


def test_warnings_have_codes():
    assert codes(1e20) == [] and codes(9.9e22, devices=256) == ["extrapolation"] and codes(9e22, devices=256) == []
    assert codes(1e15) == ["extrapolation"] and codes(1e16, law=LAWS["chinchilla"]) == ["extrapolation"]
    assert codes(1e12) == ["extrapolation", "smallest_shape"]
    assert codes(1e20, devices=64, batch_tokens=3000, context=1000) == ["idle_devices"]
    assert codes(1e20, devices=64, batch_tokens=8192, context=8192) == []  # they share out the one sequence
    assert codes(1e24) == ["extrapolation", "memory"]


def test_a_dense_model_has_no_expert_rate():
    plan = plan_of(1e22, model="llama-3.1-8b", context=8192)
    assert plan["expert_learning_rate"] is None and plan["activated_params"] == 8_030_261_248


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flops", "wishes", "says"),
    [
        (0.0, {}, "the budget is 0 FLOPs"),
        (-1e20, {}, "the budget is -1e"),
        (math.nan, {}, "the budget is nan"),
        (math.inf, {}, "the budget is inf"),
        (1e6, {}, "the smallest shape of the family report has"),
        (1e12, {"family": "hunyuan-large"}, "the smallest shape of the family hunyuan-large"),
        (1e8, {"model": "toy"}, "less than one step of"),
        (1e40, {}, "the largest shape of the family report"),
        (1e20, {"family": "llama"}, "no family 'llama': choose one of report, hunyuan-large"),
        (1e20, {"gpu": "tpu"}, "no device 'tpu'"),
        (1e20, {"gpu": "m3-ultra"}, "m3-ultra has no published bfloat16 peak"),
        (1e20, {"mfu": 0.0}, "mfu is 0"),
        (1e20, {"mfu": 2.0}, "mfu is 2"),
        (1e20, {"mfu": math.nan}, "mfu is nan"),
        (1e20, {"loss": 0.0}, "loss is 0"),
        (1e20, {"learning_rate": -1.0}, "learning_rate is -1"),
        (1e20, {"batch_tokens": 1000}, "no whole number of sequences of 2,048"),
        (1e20, {"model": "deepseek-v3"}, "counted but not built here"),
        (1e20, {"model": "gpt-5"}, "no model and no file named 'gpt-5'"),
        (1e20, {"model": "toy", "context": 4096}, "toy is meant for 1,024: lower --context"),
        (1e20, {"expert_parallel": 3, "devices": 3}, "must divide the 16 experts"),
    ],
)
def test_a_mistake_is_a_sentence(flops, wishes, says):
    with pytest.raises(HunyuanError, match=says):
        plan_of(flops, **wishes)


def test_several_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as refused:
        Request(family="x", gpu="y", mfu=3.0)
    assert len(refused.value.problems) == 3


def test_the_largest_budgets_stay_numbers():
    plan = plan_of(1e299, model="toy")
    assert math.isfinite(plan["device_hours"]) and plan["steps"] > 1e280


# --- the run file -----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(flops=BUDGETS, family=st.sampled_from(["report", "model"]))
def test_a_run_file_is_the_plan(flops, family):
    wishes = {"model": "hunyuan-large"} if family == "model" else {"family": family}
    flops = max(flops, 1e20) if family == "model" else flops
    report = plan_report(PAPER, [flops], Request(**wishes))
    plan, text = report["plans"][0], run_file(report)
    sections = tomllib.loads(text)
    assert list(sections) == ["model", "data", "training"]
    read = RunSettings.from_sections(sections)
    assert read.model.to_dict() == plan["model"]
    found = read.training
    assert (found.steps, found.sequence_length) == (plan["steps"], plan["context"])
    assert (found.global_batch_tokens, found.learning_rate) == (plan["batch_tokens"], plan["learning_rate"])
    assert found.micro_batch_size == plan["memory"]["micro_batch_size"] and found.tokens == found.flops == 0
    assert found.recompute == (plan["memory"]["bytes"] > DEVICES["h200"].memory)
    per_token = training_flops_per_token(read.model, found.sequence_length)
    assert found.total_steps(per_token) == plan["steps"]


def test_a_run_file_names_every_setting_and_says_where_numbers_are_from():
    text = run_file(plan_report(PAPER, [1e18], Request()))
    sections = tomllib.loads(text)
    assert sections["training"].keys() == {
        field.name for field in dataclasses.fields(RunSettings.from_sections({}).training)
    }
    for told in (
        "arXiv:2411.02265",
        "activated, ",
        "the critical batch is",
        "FLOPs over",
        "0.004 * (1.22e+06 / N)^0.3",
    ):
        assert told in text, told


# --- what is not known ------------------------------------------------------------------------------------------------


def test_far_below_chinchilla_s_budgets_there_is_no_loss_and_no_critical_batch():
    """Its surface has more than ln V there, and the critical batch at such a loss would be a few thousand tokens for all."""
    small, large = plan_of(1e13), plan_of(1e19)
    assert small["loss_estimate"] is small["critical_batch_tokens"] is small["flops_min"] is None
    large_vocabulary = plan_of(1e15, vocab_size=100_000)  # ln V is 11.5: above what the surface says there, 8 to 9
    assert large_vocabulary["loss_estimate"] is None
    assert "--loss" in small["loss_source"] and "sweep's rule" in small["batch_source"]
    assert (
        large["loss_estimate"] < math.log(large["model"]["vocab_size"])
        and large["batch_source"] == "the critical batch"
    )
    batches = [plan_of(flops)["batch_tokens"] for flops in (1e12, 1e14, 1e16, 1e18, 1e20)]
    assert batches == sorted(batches) and batches[0] < batches[-1] / 100
    assert plan_of(1e13, loss=3.0)["critical_batch_tokens"] == critical_batch(3.0)
    assert "no critical batch" in run_file(plan_report(PAPER, [1e13], Request()))


def test_a_law_s_own_budgets_tell_the_loss():
    law = dataclasses.replace(PAPER, valid=(1e13, 1e15), losses=((1e13, 4.0), (1e14, 3.5), (1e15, 3.2)))
    plan = plan_of(1e14, law)
    assert plan["loss_estimate"] == 3.5 and "own budgets" in plan["loss_source"]
    assert plan["critical_batch_tokens"] == pytest.approx(critical_batch(3.5))
    assert law.loss_at(math.sqrt(1e27)) == pytest.approx(math.sqrt(4.0 * 3.5))
    assert law.loss_at(1e16) == pytest.approx(3.2 * 3.2 / 3.5) and law.loss_at(1e12) == pytest.approx(4.0 * 4.0 / 3.5)
    assert law.loss_at(1e19) is None and PAPER.loss_at(1e20) is None
    assert dataclasses.replace(law, losses=((1e13, 3.0), (1e15, 3.5))).loss_at(1e14) is None


def test_the_price_is_that_of_all_device_hours():
    plan = plan_of(1e21, price_per_hour=2.5, devices=8)
    assert plan["price"] == pytest.approx(2.5 * plan["device_hours"]) and plan_of(1e21)["price"] is None
    assert plan["price"] == pytest.approx(2.5 * 1e21 / (989e12 * 0.35) / 3600)
    with pytest.raises(ConfigError, match="price_per_hour is -1"):
        Request(price_per_hour=-1.0)
