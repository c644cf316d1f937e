"""A model over several processes: expert parallelism, then FSDP2 from the blocks up, then weights, each rank its own pieces.

Weights that are shared out go to FSDP. Those of which every rank of a group has a copy stay plain (model/parallel/copies.py).

    shards, optimizer = shared_model(config, training, ranks)
    shards.fill(pieces_of(shards, initial_weights(config, seed)), optimizer.state)

The model is made without storage, shared out, and filled one parameter at a time: no rank ever holds it whole. What torch does
with it, it does with DTensors; everything of this project that handles parameters, the optimizer, the norm and the checkpoints,
sees plain tensors: the rank's pieces (model/parallel/pieces.py) under the parameters' names.

Gradients are summed over ranks and never averaged: the loss of a micro-batch is divided by what the whole step has.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from model.checkpoint.run import WithoutDrawing
from model.config.hunyuan import HunyuanConfig
from model.device import compute_dtype, memory_bytes
from model.kernels.adamw import split as halves
from model.memory import Precision, all_gathered_bytes, training_memory
from model.moe.layer import MoE
from model.parallel.copies import Copies, Gradient
from model.parallel.exchange import ParallelExperts
from model.parallel.pieces import Piece, is_replicated, piece_of
from model.parallel.places import route_together
from model.parallel.sequence import split_sequences
from model.parallel.start import Ranks
from model.training.config import TrainingConfig
from model.training.optimizer import build_optimizer
from model.training.prepare import prepare
from model.training.split_adamw import SplitAdamW, is_split
from model.transformer import Hunyuan

ROOM = 0.8  # of a GPU's memory that a step may take and still keep what it has gathered


class Shards:
    """The pieces that this rank holds of a shared-out model."""

    def __init__(self, net: Hunyuan, ranks: Ranks, pieces: dict[str, Piece], copies: Copies) -> None:
        self.net, self.ranks, self.pieces, self._copies = net, ranks, pieces, copies
        self._whole = dict(net.named_parameters())
        self.parts = {name: _local(parameter) for name, parameter in self._whole.items()}
        for name, part in self.parts.items():
            assert tuple(part.shape) == pieces[name].shape, (name, part.shape, pieces[name])
        self._replicated = [name for name in self.parts if is_replicated(name, pieces[name].whole)]

    def fill(self, pieces: Iterable[tuple[str, Tensor]], states: dict[Any, dict[str, Any]]) -> None:
        """Puts float32 values in place; of split weights the lower half goes into the optimizer's `states` of the part."""
        with torch.no_grad():
            for name, piece in pieces:
                part = self.parts[name]
                value = piece.to(part.device, torch.float32)
                if part.dtype == torch.bfloat16:
                    value, states[part]["low"] = halves(value)
                part.copy_(value)

    def before_backward(self, gradient: Gradient | None) -> None:
        """`gradient` is given before this rank's last backward pass of a step: what it has of a parameter by then."""
        self._copies.begin(gradient)

    def take_gradients(self) -> None:
        """Moves the gradients of a backward pass to the pieces, and adds them to what is there already."""
        self.ranks.mark(quick=True)
        for name, parameter in self._whole.items():
            gradient, part = parameter.grad, self.parts[name]
            if gradient is None or parameter is part:
                continue
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            part.grad = local if part.grad is None else part.grad.add_(local)
            parameter.grad = None

    def sum_copies(self) -> None:
        """After the last backward pass: sums over ranks the gradients that FSDP has not, for want of shares."""
        self._copies.finish()
        small = [self.parts[name].grad for name in self._replicated]
        there = [gradient for gradient in small if gradient is not None]
        if there:
            flat = self.ranks.sum_(torch.cat([gradient.flatten() for gradient in there]))
            for gradient, summed in zip(there, flat.split([gradient.numel() for gradient in there]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def copies(self) -> dict[nn.Parameter, int]:
        """How many ranks hold the same as each part."""
        return {self.parts[name]: piece.copies for name, piece in self.pieces.items()}

    def squares(self, gradients: dict[nn.Parameter, Tensor]) -> Tensor:
        """This rank's share of the squared norm (), float64: what several hold they share."""
        copies = self.copies()
        return torch.stack([g.double().square().sum() / copies[part] for part, g in gradients.items()]).sum()


def build(
    config: HunyuanConfig,
    ranks: Ranks,
    *,
    split: bool = False,
    keep_gathered: bool = False,
    prepare: Callable[[Hunyuan], None],
) -> Shards:
    """The model over `ranks`, its weights undefined and its buffers 0.

    `split` weights are bfloat16 (model/training/split_adamw.py). `prepare` is what is done to a model of one process, such as
    recomputation and compilation, before it is shared out.
    """
    with torch.device("meta"), WithoutDrawing():
        net = Hunyuan(config)
    wholes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    layout = ranks.layout
    layout.check_fits(num_experts=config.num_experts, expert_rows=(2 * config.intermediate_size, config.hidden_size))
    if layout.expert_parallel > 1:
        group = ranks.experts["expert_parallel"].get_group()
        sizes = config.num_experts, config.hidden_size, config.intermediate_size
        for layer in _mixtures(net):
            with torch.device("meta"):
                layer.experts = ParallelExperts(*sizes, group)
    for name, parameter in net.named_parameters():
        if split and is_split(name, parameter):
            parameter.data = parameter.data.to(torch.bfloat16)
    prepare(net)
    _share_out(net, ranks, keep_gathered)
    net.to_empty(device=ranks.device)
    for buffer in net.buffers():
        buffer.zero_()
    pieces = {name: piece_of(layout, ranks.rank, name, whole) for name, whole in wholes.items()}
    return Shards(net, ranks, pieces, _copies_of(net, ranks))


def shared_model(
    model: HunyuanConfig, training: TrainingConfig, ranks: Ranks, *, keep_gathered: bool | None = None
) -> tuple[Shards, torch.optim.Optimizer]:
    """A model over `ranks` with its optimizer. The weights are still to be filled in, and SplitAdamW to begin after that.

    `keep_gathered` is whether FSDP gathers weights once a micro-batch and not again for the backward pass; None: where the
    device has room for that.
    """
    training = dataclasses.replace(training, graph=False)  # a message between processes is not recorded
    half = ranks.device.type == "cuda" and compute_dtype(training.precision, ranks.device) == torch.bfloat16
    keep = has_room(model, training, ranks, half) if keep_gathered is None else keep_gathered
    shards = build(
        model, ranks, split=half, keep_gathered=keep, prepare=lambda net: prepare(net, training, ranks.device)
    )
    sequence, net = None, shards.net
    if ranks.layout.context_parallel > 1:
        sequence = split_sequences(net, ranks.context["context"].get_group(), recompute=training.recompute)
    assert dist.group.WORLD is not None
    route_together(net, dist.group.WORLD, sequence)
    if training.hidden_dropout or training.attention_dropout:  # what has one routing key must not drop alike
        own = ranks.rank if model.capacity_scope == "global" else ranks.layout.context_index(ranks.rank)
        net.dropout_stream = own
    optimizer = build_optimizer(shards.parts, model, training, begin=False)
    if isinstance(optimizer, SplitAdamW):
        optimizer.copies = shards.copies()
    return shards, optimizer


def has_room(model: HunyuanConfig, training: TrainingConfig, ranks: Ranks, half: bool) -> bool:
    """Whether a GPU can hold all gathered weights besides what a step takes; what the host has is not known to be free."""
    there = memory_bytes(ranks.device) if ranks.device.type == "cuda" else None
    if there is None or ranks.layout.shard == 1:
        return False
    precision: Precision = "bfloat16" if half else "float32"
    step = training_memory(
        model,
        batch=training.micro_batch_size,
        context=training.sequence_length,
        precision=precision,
        moments=training.moments,
        several=training.micro_batches > ranks.layout.data_parallel,
        layout=ranks.layout,
    )
    taken = step.total_recomputed if training.recompute else step.total
    return taken + all_gathered_bytes(model, ranks.layout, precision) <= ROOM * there


def _share_out(net: Hunyuan, ranks: Ranks, keep_gathered: bool) -> None:
    """FSDP2, bottom up: experts over their own mesh, then blocks, then the rest; what has copies alone goes without."""
    # It warns of blocks that return a view, which must not be changed in place. None is.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    layout = ranks.layout
    small = {p for name, p in net.named_parameters() if is_replicated(name, tuple(p.shape))}
    of_experts: set[nn.Parameter] = set()

    def shard(module: nn.Module, mesh: Any, placement: Callable[[nn.Parameter], Shard | None] | None = None) -> None:
        again: dict[str, Any] = {} if module is net else {"reshard_after_forward": not keep_gathered}
        fully_shard(module, mesh=mesh, shard_placement_fn=placement, ignored_params=small | of_experts, **again)

    inner = Shard(layout.expert_shard_dim(net.config.num_experts or 1))
    for mixture in _mixtures(net) if layout.expert_parallel > 1 else []:
        if layout.expert_shard > 1:
            shard(mixture.experts, _mesh(ranks.experts, "expert_replicate", "expert_shard"), lambda parameter: inner)
            register_fsdp_forward_method(mixture.experts, "mixture")
        else:
            of_experts |= set(mixture.experts.parameters())
    if layout.shard > 1:
        dense = _mesh(ranks.dense, "replicate", "shard")
        for layer in net.layers:
            shard(layer, dense, lambda parameter: inner if parameter.dim() == 3 else None)
        shard(net, dense)
        # The host of a rank may be late where it has waited for its sizes: the next block is asked for before this one.
        for layer, following in pairwise(net.layers):
            layer.set_modules_to_forward_prefetch([following])
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(
                True
            )  # gloo scales nothing on its way, and nothing is to be scaled


def _copies_of(net: Hunyuan, ranks: Ranks) -> Copies:
    """Of what FSDP does not share out, block by block, and by the ranks that have the same; but for what is small."""
    layout, copies = ranks.layout, Copies()
    plain = {
        p: name
        for name, p in net.named_parameters()
        if not isinstance(p, DTensor) and not is_replicated(name, tuple(p.shape))
    }
    for module in (*net.layers, net):
        own = {p: plain.pop(p) for p in module.parameters() if p in plain}
        apart = [p for p, name in own.items() if ".experts." in name and layout.expert_parallel > 1]
        copies.add(apart, ranks.experts["expert_replicate"].get_group())
        copies.add((p for p in own if p not in set(apart)), ranks.dense["replicate"].get_group())
    return copies


def _mesh(mesh: DeviceMesh, replicate: str, shard: str) -> DeviceMesh:
    """What FSDP is given: where there is one copy nothing is summed over copies."""
    return mesh[shard] if mesh[replicate].size() == 1 else mesh[replicate, shard]


def initial_weights(config: HunyuanConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The weights that a new model of one process has, one whole parameter at a time, on the processor."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"), WithoutDrawing():
        net = Hunyuan(config)
    for name, parameter in net.named_parameters():
        weight = nn.Parameter(torch.ones(parameter.shape))  # of norms: what is not drawn
        net.draw_(name, weight, generator)
        yield name, weight.detach()


def pieces_of(shards: Shards, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """This rank's pieces of whole weights."""
    for name, weight in weights:
        yield name, weight[shards.pieces[name].slices]


def whole_model(net: Hunyuan, ranks: Ranks) -> Hunyuan:
    """A copy of a shared-out model on every rank, for what each computes by itself; in evaluation mode. All ranks call it."""
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # the root keeps its weights gathered after a pass without a backward pass
    parts = {name: _local(parameter).detach() for name, parameter in net.named_parameters()}
    with torch.device("meta"), WithoutDrawing():
        whole = Hunyuan(net.config)
    values = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for name, parameter in whole.named_parameters():
        piece, part = piece_of(ranks.layout, ranks.rank, name, tuple(parameter.shape)), parts[name]
        values[name] = part.new_zeros(piece.whole)
        if piece.is_first:
            values[name][piece.slices] = part
        ranks.sum_(values[name])  # of one value and zeros
    whole.load_state_dict(values, assign=True)
    return whole.requires_grad_(False).eval()


def _mixtures(net: Hunyuan) -> list[MoE]:
    return [layer.mlp for layer in net.layers if isinstance(layer.mlp, MoE)]


def _local(parameter: nn.Parameter) -> nn.Parameter:
    """The rank's part of a parameter as one of its own, in the same memory."""
    return nn.Parameter(parameter.to_local().detach()) if isinstance(parameter, DTensor) else parameter
