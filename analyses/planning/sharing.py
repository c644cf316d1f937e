"""The documents on layouts: of one number of devices as given or chosen, and side by side over devices, contexts and GPUs."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from analyses.planning.layouts import PLAN_NOTE, Step, choose_layout, layout_plan, nothing_fits
from model.config.shape import ModelShape
from model.errors import HunyuanError
from model.memory import Precision
from model.parallel.layout import Layout


def sharing_plan(
    shape: ModelShape,
    *,
    devices: int,
    context: int,
    batch: int | None = None,
    precision: Precision = "bfloat16",
    gpu: str | None = None,
    expert_parallel: int | None = None,
    context_parallel: int | None = None,
) -> dict[str, Any]:
    """One layout. With a GPU the sizes that are not given are chosen for its memory, without one they are 1.

    HunyuanError says in a sentence that nothing fits.
    """
    plan = _plan(shape, devices, context, batch, precision, gpu, expert_parallel, context_parallel)
    if plan["fits"] is False:
        raise HunyuanError(nothing_fits(plan, shape.name or "the model"))
    return plan


def sharing_report(
    shape: ModelShape,
    *,
    devices: Sequence[int],
    contexts: Sequence[int],
    gpus: Sequence[str],
    batch: int | None = None,
    precision: Precision = "bfloat16",
    expert_parallel: int | None = None,
    context_parallel: int | None = None,
) -> dict[str, Any]:
    """A layout for each GPU, number of devices and context; what fits nowhere is there too, with a note."""
    layouts = [
        _plan(shape, count, context, batch, precision, gpu, expert_parallel, context_parallel)
        for gpu, count, context in product(gpus, devices, contexts)
    ]
    notes = [PLAN_NOTE, *(nothing_fits(plan, shape.name) for plan in layouts if not plan["fits"])]
    return {"model": shape.name, "layouts": layouts, "notes": notes}


def _plan(
    shape: ModelShape,
    devices: int,
    context: int,
    batch: int | None,
    precision: Precision,
    gpu: str | None,
    expert_parallel: int | None,
    context_parallel: int | None,
) -> dict[str, Any]:
    if gpu is None:
        layout = Layout(processes=devices, expert_parallel=expert_parallel or 1, context_parallel=context_parallel or 1)
        return layout_plan(shape, layout, Step(context=context, batch=batch or 1, precision=precision), None)
    plan = choose_layout(
        shape,
        devices,
        gpu,
        Step(context=context, precision=precision),
        expert_parallel=expert_parallel,
        context_parallel=context_parallel,
        batches=(batch,) if batch else None,
    )
    assert plan is not None, "without a number of sequences a layout is always found"
    return plan
