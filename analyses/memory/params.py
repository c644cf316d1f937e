"""How big a model is: parameters by component, FLOPs per token, and the memory that training it takes."""

from typing import Any, Literal

from model.config.hunyuan import HunyuanConfig
from model.config.shape import ModelShape, shape_of
from model.counts import RULES, activated_params, flops_by_component, parameter_counts, total_params
from model.memory import ONE, TrainingMemory, training_memory
from model.parallel.layout import Layout

FLOPS_RULES = {
    "attention": "2 per weight of the projections",
    "scores": "4 * H * P * context per layer: queries by keys, probabilities by values",
    "shared": "2 per weight",
    "routed": "2 per weight of the K chosen experts",
    "router": "2 * D * E per layer",
    "head": "2 * V * D, tied or not",
}
MEMORY_RULES = {
    "weights": "4 bytes a parameter; in bfloat16 2 of those of products",
    "gradients": "4 bytes a parameter: sums over micro-batches",
    "optimizer": "8 bytes a parameter, AdamW's two moments; in bfloat16 2 for the other half of weights of products",
    "compute_copies": "weights of queries, keys and values side by side, or the layers that FSDP has gathered",
    "activations": "what each block leaves for the backward pass",
    "working": "at the fullest moment: the loss, its logits and gradients; or gradients on their way through a block; or "
    "the first block with the gradients of all others",
    "total": "",
}


def params_report(
    model: HunyuanConfig | ModelShape,
    *,
    context: int = 4096,
    batch: int = 1,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
    layout: Layout = ONE,
) -> dict[str, Any]:
    """The document of `hunyuan params`: counts of parameters, FLOPs per token, bytes per device.

    exact is training (three forward passes' worth of FLOPs), to be held against six_n and paper, 9.59 N + 2.3e8, with N
    the activated parameters. `batch` is that of one device and micro-batch.
    """
    shape = shape_of(model)
    activated = activated_params(shape)
    forward = flops_by_component(shape, context)
    memory = training_memory(shape, batch=batch, context=context, precision=precision, layout=layout)
    return {
        "model": shape.name,
        "total": total_params(shape),
        "activated": activated,
        "components": {
            name: {"total": count.total, "activated": count.activated, "rule": RULES[name]}
            for name, count in parameter_counts(shape).items()
        },
        "flops_per_token": {
            "exact": 3 * sum(forward.values()),
            "six_n": 6 * activated,
            "paper": 9.59 * activated + 2.3e8,
            "forward": sum(forward.values()),
            "context": context,
            "components": {name: {"forward": count, "rule": FLOPS_RULES[name]} for name, count in forward.items()},
        },
        "training_memory": {
            "batch": batch,
            "context": context,
            "precision": precision,
            "devices": layout.processes,
            "expert_parallel": layout.expert_parallel,
            "context_parallel": layout.context_parallel,
            "per_device": memory_by_part(memory),
        },
    }


def memory_by_part(memory: TrainingMemory) -> dict[str, dict[str, Any]]:
    """Bytes on one device at the fullest moment of a step: blocks' activations kept, and every block recomputed instead.

    That moment is the loss; or the backward pass of a block, in which a recomputed block's activations are there, too; or that
    of the first block, when the gradients of all others are there and their activations are not.
    """
    in_loss = memory.head >= memory.working_recomputed
    kept = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        **_moment(memory, memory.compute_copies, memory.activations, max(memory.head, memory.in_flight)),
        "total": memory.total,
    }
    recomputed = kept | {
        **_moment(
            memory,
            memory.compute_copies_recomputed,
            memory.activations_recomputed - (memory.block if in_loss else 0),
            memory.head if in_loss else memory.in_flight + memory.exchanged,
        ),
        "total": memory.total_recomputed,
    }
    return {
        part: {"bytes": kept[part], "recomputed_bytes": recomputed[part], "rule": rule}
        for part, rule in MEMORY_RULES.items()
    }


def _moment(memory: TrainingMemory, copies: int, activations: int, working: int) -> dict[str, int]:
    """What there is besides the state: when a backward pass begins, or in its first block where that is more."""
    if copies + activations + working < memory.closing:
        copies, activations, working = 0, 0, memory.closing
    return {"compute_copies": copies, "activations": activations, "working": working}
