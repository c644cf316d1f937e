"""The memory that a plan takes of each device, and how many devices have so much."""

from typing import Any

from analyses.devices import DEVICES, Device
from analyses.planning.layouts import most_expert_parallel
from model.config.hunyuan import HunyuanConfig
from model.config.shape import shape_of
from model.errors import ConfigError
from model.memory import training_memory
from model.parallel.layout import Layout


def memory_of(
    config: HunyuanConfig,
    context: int,
    micro: int,
    *,
    device: Device,
    devices: int,
    expert_parallel: int | None,
    context_parallel: int = 1,
) -> dict[str, Any]:
    """The bytes on each device with activations kept or recomputed, and the devices that have so many.

    Without a size the experts are spread over as many devices as can be.
    """

    def parallel(count: int) -> int:
        return expert_parallel or most_expert_parallel(shape_of(config), count)

    def needed(count: int) -> tuple[int, int, int]:
        layout = Layout(processes=count, expert_parallel=parallel(count), context_parallel=context_parallel)
        need = training_memory(config, batch=micro, context=context, layout=layout)
        return need.total, need.total_recomputed, need.state

    def is_enough(count: int) -> bool:
        try:
            return needed(count)[1] <= device.memory
        except ConfigError:  # so many cannot share out the experts
            return False

    total, recomputed, state = needed(devices)
    counts = ((expert_parallel or 1) * 2**power for power in range(17))
    return {
        "recompute": total > device.memory,
        "bytes": total,
        "recomputed_bytes": recomputed,
        "state_bytes": state,
        "micro_batch_size": micro,
        "devices": devices,
        "expert_parallel": parallel(devices),
        "context_parallel": context_parallel,
        "fits": [name for name, device in DEVICES.items() if total <= device.memory],
        "fits_recomputed": [name for name, device in DEVICES.items() if recomputed <= device.memory],
        "devices_to_fit": next(filter(is_enough, counts), None),
    }
