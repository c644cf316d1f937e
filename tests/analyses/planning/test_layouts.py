"""Layouts for many GPUs: the rates against the files that they come from, times by hand, and what is chosen."""

import json
import re
from pathlib import Path

import pytest

from analyses.devices import DEVICES
from analyses.planning.layouts import MICRO_TOKENS, ROOM, Step, choose_layout, layout_plan
from analyses.planning.sharing import sharing_plan, sharing_report
from analyses.planning.speeds import DENSE, MIXTURE, SCORES
from model.config.load import load_shape
from model.errors import HunyuanError
from model.memory import training_memory
from model.parallel.layout import Layout

EXAMPLES = Path(__file__).parents[3] / "examples" / "gpu"
LARGE = load_shape("hunyuan-large")


def test_rates_are_those_that_were_measured():
    rows = json.loads((EXAMPLES / "layer.json").read_text())["contenders"]
    for rates, contender in ((DENSE, "dense SwiGLU"), (MIXTURE, "hunyuan recycle 1.25")):
        for hidden, rate in rates.items():
            row = next(r for r in rows if r["layer"].startswith(f"{hidden}/") and r["contender"] == contender)
            assert rate.flops_per_second == pytest.approx(row["flops_per_second"], rel=1e-3)
            assert f"{row['tokens']:,} tokens" in rate.source
    log = (EXAMPLES / "LOG.md").read_text()
    milliseconds = int(re.search(r"cuDNN's attention at heads of 64 \((\d+) ms\)", log)[1])
    # 12 layers of 1,024 wide heads, 16 x 2,048 tokens: two products forward, four backward, the causal half of 2,048 keys.
    flops = 12 * 3 * 4 * 1024 * 2048 * (16 * 2048) / 2
    assert SCORES.flops_per_second == pytest.approx(flops / (milliseconds / 1e3), rel=2e-3)


def test_every_term_of_a_step_adds_up():
    layout = Layout(processes=512, expert_parallel=16, context_parallel=8)
    plan = layout_plan(LARGE, layout, Step(context=32768, recompute=True), "h100")
    assert plan["memory_bytes"] == training_memory(LARGE, batch=1, context=32768, layout=layout).total_recomputed
    assert plan["sent_bytes"] == sum(row["bytes"] for row in plan["sent"])
    compute = sum(row["seconds"] for row in plan["computed"])
    free = sum(row["seconds"] for row in plan["sent"] if row["overlaps"])
    wait = sum(row["seconds"] for row in plan["sent"] if not row["overlaps"])
    assert plan["step_seconds"] == pytest.approx(max(compute, free) + wait)
    assert plan["step_seconds_without_overlap"] == pytest.approx(compute + free + wait)
    assert plan["tokens_per_step"] == 64 * 32768
    assert plan["tokens_per_second"] == pytest.approx(64 * 32768 / plan["step_seconds"])
    assert plan["note"].startswith("a plan, not a run")


def test_seconds_of_exchanges_by_hand():
    """Eight GPUs a machine: 450 GB/s among them, 50 GB/s a GPU to others."""
    plan = layout_plan(LARGE, Layout(processes=64, expert_parallel=16, context_parallel=4), Step(context=8192), "h100")
    rows = {row["exchange"]: row for row in plan["sent"]}
    keys = rows["keys and values"]  # within a machine
    assert keys["seconds"] == pytest.approx(keys["bytes"] / 450e9)
    dense = rows["dense weights"]  # 8 machines, each of which receives 7/8 of the whole over 8 links
    assert dense["seconds"] == pytest.approx(dense["bytes"] * 64 / 63 * 7 / 8 / 400e9)
    experts = rows["expert weights"]  # 4 ranks, 16 apart: each in a machine of its own
    assert experts["ranks"] == 4 and experts["seconds"] == pytest.approx(experts["bytes"] / 50e9)
    tokens = rows["rows to experts and back"]  # 16 ranks in two machines: 8 of 15 others are in the other one
    assert tokens["seconds"] == pytest.approx(tokens["bytes"] * 8 / 15 / 50e9)


def test_computed_seconds_by_hand():
    computed = {
        r["part"]: r for r in layout_plan(LARGE, Layout(), Step(context=8192, recompute=True), "h200")["computed"]
    }
    scores = computed["scores of attention"]
    assert scores["flops"] == 3 * 4 * 6400 * 8192 * 8192 * 64 / 2
    assert scores["seconds"] == pytest.approx(scores["flops"] / 291e12)  # an H200 computes as an H100
    blocks = sum(row["flops"] for part, row in computed.items() if part not in ("recomputation", "head"))
    assert computed["recomputation"]["flops"] == pytest.approx(blocks / 3)


@pytest.mark.parametrize("gpu", ["h100", "h200"])
@pytest.mark.parametrize("context", [8192, 262_144])
def test_hunyuan_large_fits_512_gpus(gpu, context):
    plan = sharing_plan(LARGE, devices=512, context=context, gpu=gpu)
    assert plan["memory_bytes"] <= ROOM * DEVICES[gpu].memory and plan["recompute"]
    assert plan["data_parallel"] * plan["context_parallel"] == 512
    assert plan["micro_batch_size"] * context // plan["context_parallel"] <= max(
        MICRO_TOKENS, context // plan["context_parallel"]
    )
    if context == 262_144:  # one rank cannot keep the blocks' inputs of so many tokens
        assert plan["context_parallel"] > 1
        with pytest.raises(HunyuanError, match="fits no layout of 512"):
            sharing_plan(LARGE, devices=512, context=context, gpu=gpu, context_parallel=1)


def test_the_choice_is_the_best_of_all_that_fit():
    """Compared with every other layout, one by one."""
    chosen = sharing_plan(LARGE, devices=128, context=8192, gpu="h200", batch=1)

    def middle(plan):
        return plan["tokens_per_step"] / (plan["step_seconds"] + plan["step_seconds_without_overlap"])

    for expert_parallel in (1, 2, 4, 8, 16):
        for context_parallel in (1, 2, 8):
            for recompute in (False, True):
                layout = Layout(processes=128, expert_parallel=expert_parallel, context_parallel=context_parallel)
                plan = layout_plan(LARGE, layout, Step(context=8192, recompute=recompute), "h200")
                assert not plan["fits"] or middle(plan) <= middle(chosen)


def test_where_nothing_fits_one_sentence_says_what_to_change():
    with pytest.raises(HunyuanError) as caught:
        sharing_plan(LARGE, devices=32, context=8192, gpu="h100")
    assert str(caught.value).startswith("hunyuan-large at 8,192 tokens fits no layout of 32 h100: the least is ")
    assert str(caught.value).endswith("take more --devices or a shorter --context")
    found = sharing_report(LARGE, devices=[32], contexts=[8192], gpus=["h100"])
    assert not found["layouts"][0]["fits"] and str(caught.value) in found["notes"]


def test_a_step_of_given_sequences_is_shared_out_whole():
    plan = choose_layout(LARGE, 512, "h200", Step(context=8192), sequences=1024)
    assert plan["data_parallel"] * plan["micro_batch_size"] * plan["micro_batches"] == 1024
    assert choose_layout(LARGE, 512, "h200", Step(context=8192), sequences=3, context_parallel=1) is None


def test_a_gpu_without_known_links_has_memory_and_bytes_but_no_time():
    plan = sharing_plan(load_shape("mixtral-8x7b"), devices=64, context=4096, gpu="a100-80gb")
    assert plan["fits"] and plan["sent_bytes"] > 0
    assert plan["step_seconds"] is None and plan["tokens_per_second"] is None
