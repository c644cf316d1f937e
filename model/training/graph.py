"""The whole training step of a small model as one CUDA graph: forward, backward, statistics and update.

Such a step is hundreds of kernels of a few microseconds each, which a host launches more slowly than they run. Recorded once,
the step is one launch. What changes from step to step lies in tensors that stay where they are: the batch, the routing keys and
the learning rate are copied into them, and the graph reads them there. The gradients' memory belongs to the graph.

The first steps of a run are computed as they are: what a library sets up at first use must not be recorded. The kernels are the
same in both, so the numbers are.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from model.config.hunyuan import HunyuanConfig
from model.counts import activated_params
from model.device import compute_dtype
from model.errors import ConfigError
from model.kernels.choice import has_triton
from model.training.config import TrainingConfig
from model.training.split_adamw import SplitAdamW

WARM_UP = 2  # steps before the one that is recorded
LAUNCH_BOUND = 1e12  # activated parameters x tokens of a micro-batch, up to which auto records; 0 is never


def records(model: HunyuanConfig, config: TrainingConfig, device: torch.device) -> bool:
    """Whether the steps of a run are recorded; auto is on for a GPU where they can be and the host is what they wait for.

    On an H100 a product of 1.2e11 took 49 ms launched one by one and 7 ms recorded (examples/gpu/LOG.md). The device's part
    grows with the product and the host's does not: at 1e12 they are about equal, and with compiled blocks before.
    """
    if config.graph != "auto":
        return config.graph
    tokens = config.micro_batch_size * config.sequence_length
    return not _obstacles(model, config, device) and activated_params(model) * tokens <= LAUNCH_BOUND


def check_recording(model: HunyuanConfig, config: TrainingConfig, device: torch.device) -> None:
    """Refuses training.graph = true where no step can be recorded."""
    obstacles = _obstacles(model, config, device)
    if config.graph is True and obstacles:
        raise ConfigError([f"training.graph needs {obstacles[0]}: leave it at auto"])


def _obstacles(model: HunyuanConfig, config: TrainingConfig, device: torch.device) -> list[str]:
    """What a recording needs and does not find. torch's grouped product waits for the device in all but bfloat16."""
    needs = {
        "a CUDA device": device.type == "cuda",
        "Triton": has_triton(),
        "training.precision bfloat16": model.is_dense or compute_dtype(config.precision, device) == torch.bfloat16,
    }
    return [name for name, there in needs.items() if not there]


class RecordedStep:
    """recorded(inputs) is compute(inputs), by a CUDA graph from the third step on.

    Inputs are any nesting of lists and named tuples of tensors on the device and of numbers. What is returned of a recorded
    step lies in the graph's memory, which the next step overwrites. Steps whose inputs have another form than the first one's
    are computed as they are.
    """

    def __init__(
        self, compute: Callable[[Any], Any], optimizer: SplitAdamW, device: torch.device, note: Callable[[str], None]
    ) -> None:
        self._compute, self._optimizer, self._note = compute, optimizer, note
        # A graph cannot be recorded on the default stream, and what runs first on another leaves its traces there.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._until_recording = WARM_UP
        self._form: Any = None
        self._told = False
        self._static: list[Tensor] = []  # the inputs that the graph reads
        self._outputs: Any = None
        self._replay: Callable[[], None] | None = None
        self._kept: Any = None  # tables that the graph reads

    def __call__(self, inputs: Any) -> Any:
        leaves, structure = tree_flatten(inputs)
        form = structure, [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if self._form is None:
            self._form = form
        if form != self._form:
            self._tell(
                "the batches of this run differ in shape: steps are recorded as a CUDA graph for those like the first"
            )
            return self._aside(inputs)
        if self._until_recording > 0:
            self._until_recording -= 1
            return self._aside(inputs)
        if self._until_recording == 0:
            self._until_recording = -1
            self._record(leaves, structure)
        if self._replay is None:
            return self._aside(inputs)
        for there, new in zip(self._static, tensors_of(leaves), strict=True):
            there.copy_(new)
        self._replay()
        return self._outputs

    def _record(self, leaves: list[Any], structure: Any) -> None:
        """Makes the graph. Recording computes nothing: no weight has moved when it fails."""
        self._static = [tensor.clone() for tensor in tensors_of(leaves)]
        places = iter(self._static)
        inputs = tree_unflatten([next(places) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
        try:
            self._replay, self._outputs = capture(lambda: self._compute(inputs), self._stream)
            self._kept = self._optimizer.settle()
        except Exception as error:
            self._replay, self._static = None, []
            self._optimizer.forget()
            reason = " ".join(str(error).split())[:200]
            self._tell(f"the step cannot be recorded as a CUDA graph here ({reason}): training goes on without, slower")

    def _aside(self, inputs: Any) -> Any:
        """The step without a recording, on the stream that recordings are made on."""
        if self._stream is None:
            return self._compute(inputs)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outputs = self._compute(inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return outputs

    def _tell(self, sentence: str) -> None:
        if not self._told:
            self._note(sentence)
        self._told = True


def tensors_of(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def capture(compute: Callable[[], Any], stream: torch.cuda.Stream | None) -> tuple[Callable[[], None], Any]:
    """A function that computes it again on the device, and the results, which lie where each run leaves them."""
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as autograd's, may do what a recording thread may not.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        outputs = compute()
    return graph.replay, outputs
