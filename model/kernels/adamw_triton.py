"""AdamW over all weights of a model in three kinds of launch, with nothing for the host to wait for.

    1. each chunk of gradients -> the sum of its squares
    2. one program: the norm, whether it is finite, the factor that clips it, the bias corrections
    3. each chunk of weights -> their update, or nothing where a norm was not finite, now or in an earlier step

Chunks are found through tables: of tensors, their addresses; of chunks, their tensor and place. The arithmetic, the halves of a
weight and the rounding of moments are those of model/kernels/adamw.py, the oracle.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.device import on_its_way
from model.kernels.adamw import log_of

CHUNK, BLOCK = 16384, 2048  # values of a program, and of one of its turns
COLUMNS = (
    6  # of the table of tensors: weight, remainder, moments, number of values, its first value's number in the model
)
CLIP, GOES_ON, BIAS1, BIAS2, NORM, RATE = range(6)  # places in the float32 scalars of a step


@triton.jit
def _typed(address, kind: tl.constexpr):
    return tl.multiple_of(address.to(tl.pointer_type(kind)), 16)


@triton.jit
def _square_sums(
    tensors,
    gradients,
    chunks,
    sums,
    COLUMNS: tl.constexpr,
    GRADIENT: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    tensor = tl.load(chunks + 2 * program)
    first = tl.load(chunks + 2 * program + 1) * CHUNK
    size = tl.load(tensors + tensor * COLUMNS + 4)
    gradient = _typed(tl.load(gradients + tensor), GRADIENT)
    total = tl.zeros((BLOCK,), tl.float32)
    if first + CHUNK <= size:  # no mask, so that loads are of 16 bytes
        for turn in range(CHUNK // BLOCK):
            value = tl.load(gradient + first + turn * BLOCK + tl.arange(0, BLOCK)).to(tl.float32)
            total += value * value
    else:
        for turn in range(CHUNK // BLOCK):
            place = first + turn * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(gradient + place, mask=place < size, other=0.0).to(tl.float32)
            total += value * value
    tl.store(sums + program, tl.sum(total, axis=0))


@triton.jit
def _decide(
    sums, scalars, steps, loss, count, max_norm, log_beta1, log_beta2, TURNS: tl.constexpr, BLOCK: tl.constexpr
):
    total = tl.zeros((BLOCK,), tl.float32)
    for turn in range(TURNS):
        place = turn * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(sums + place, mask=place < count, other=0.0)
    norm = tl.sqrt(tl.sum(total, axis=0))
    seen = norm + tl.load(loss)
    goes_on = tl.where((seen - seen == 0) & (tl.load(scalars + 1) > 0), 1.0, 0.0)  # once it is 0 it stays
    step = tl.load(steps) + goes_on
    tl.store(steps, step)
    tl.store(scalars + 0, tl.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0))
    tl.store(scalars + 1, goes_on)
    tl.store(scalars + 2, 1.0 - tl.exp(step * log_beta1))
    tl.store(scalars + 3, 1.0 - tl.exp(step * log_beta2))
    tl.store(scalars + 4, norm)


@triton.jit
def _hash_word(word):
    word = word ^ (word >> 16)
    word = word * 0x7FEB352D
    word = word ^ (word >> 15)
    word = word * 0x846CA68B
    return word ^ (word >> 16)


@triton.jit
def _round_stochastically(value, noise):
    return ((value.to(tl.uint32, bitcast=True) + noise) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _turn(
    weight, low, first_moment, second_moment, gradient, place, size, start, key,
    rate, decay, clip, bias1, bias2, beta1, beta2, epsilon,
    SPLIT: tl.constexpr, NARROW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    mask = place < size if MASKED else None
    grad = tl.load(gradient + place, mask=mask).to(tl.float32) * clip
    old = tl.load(weight + place, mask=mask)
    if SPLIT:
        rest = tl.load(low + place, mask=mask).to(tl.int32)
        old = ((old.to(tl.int16, bitcast=True).to(tl.int32) << 16) + rest).to(tl.float32, bitcast=True)
    first = tl.load(first_moment + place, mask=mask).to(tl.float32)
    second = tl.load(second_moment + place, mask=mask).to(tl.float32)
    first = first + (1 - beta1) * (grad - first)
    second = beta2 * second + (1 - beta2) * grad * grad
    new = old * (1 - rate * decay) - rate / bias1 * first / (tl.sqrt(second / bias2) + epsilon)
    if SPLIT:
        bits = new.to(tl.int32, bitcast=True)
        tl.store(weight + place, ((bits + 0x8000) >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True), mask=mask)
        tl.store(low + place, bits.to(tl.int16), mask=mask)
    else:
        tl.store(weight + place, new, mask=mask)
    if NARROW:
        number = start + place
        noise = _hash_word(_hash_word(number.to(tl.uint32) + key) ^ (number >> 32).to(tl.uint32))
        first = _round_stochastically(first, noise & 0xFFFF)
        second = _round_stochastically(second, noise >> 16)
    tl.store(first_moment + place, first, mask=mask)
    tl.store(second_moment + place, second, mask=mask)


@triton.jit(do_not_specialize=["seed"])
def _update(
    tensors, gradients, scales, chunks, scalars, steps, seed, beta1, beta2, epsilon,
    COLUMNS: tl.constexpr, SPLIT: tl.constexpr, GRADIENT: tl.constexpr, NARROW: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.load(scalars + 1) > 0:
        program = tl.program_id(0).to(tl.int64)
        tensor = tl.load(chunks + 2 * program)
        chunk = tl.load(chunks + 2 * program + 1) * CHUNK
        row = tensors + tensor * COLUMNS
        weight = _typed(tl.load(row), tl.bfloat16 if SPLIT else tl.float32)
        low = _typed(tl.load(row + 1), tl.int16)
        first_moment = _typed(tl.load(row + 2), tl.bfloat16 if NARROW else tl.float32)
        second_moment = _typed(tl.load(row + 3), tl.bfloat16 if NARROW else tl.float32)
        size, start = tl.load(row + 4), tl.load(row + 5)
        gradient = _typed(tl.load(gradients + tensor), GRADIENT)
        rate = tl.load(scalars + 5) * tl.load(scales + 2 * tensor)
        decay = tl.load(scales + 2 * tensor + 1)
        clip, bias1, bias2 = tl.load(scalars), tl.load(scalars + 2), tl.load(scalars + 3)
        step = tl.load(steps).to(tl.int64).to(tl.uint32)
        key = _hash_word(seed.to(tl.uint32) + step * 0x9E3779B9)
        if chunk + CHUNK <= size:
            for turn in range(CHUNK // BLOCK):
                place = chunk + turn * BLOCK + tl.arange(0, BLOCK)
                _turn(
                    weight, low, first_moment, second_moment, gradient, place, size, start, key,
                    rate, decay, clip, bias1, bias2, beta1, beta2, epsilon, SPLIT, NARROW, False,
                )  # fmt: skip
        else:
            for turn in range(CHUNK // BLOCK):
                place = chunk + turn * BLOCK + tl.arange(0, BLOCK)
                _turn(
                    weight, low, first_moment, second_moment, gradient, place, size, start, key,
                    rate, decay, clip, bias1, bias2, beta1, beta2, epsilon, SPLIT, NARROW, True,
                )  # fmt: skip


class Launch:
    """The tables of one optimizer, and its steps. A parameter that has no gradient in the first step must never have one."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.kinds: list[_Kind] | None = None
        self.scalars = torch.zeros(6, device=optimizer.done.device)
        self.scalars[GOES_ON] = 1.0

    def __call__(
        self, gradients: dict[Any, Tensor], learning_rate: float | Tensor, loss: Tensor, agree: Any = None
    ) -> Tensor:
        """Updates weights, remainders and moments in place; the norm (). `agree` is that of SplitAdamW.update."""
        optimizer = self.optimizer
        if self.kinds is None:
            self.kinds = _kinds(optimizer, gradients)
            chunks = sum(len(kind.chunks) for kind in self.kinds)
            self.sums = torch.empty(chunks, device=loss.device)
        if not isinstance(learning_rate, Tensor):
            learning_rate = on_its_way(torch.tensor(learning_rate), loss.device)
        self.scalars[RATE].copy_(learning_rate)
        first = 0
        for kind in self.kinds:
            kind.find(gradients)
            sums = self.sums[first : first + len(kind.chunks)]
            _square_sums[(len(kind.chunks),)](
                kind.tensors, kind.addresses, kind.chunks, sums,
                COLUMNS=COLUMNS, GRADIENT=kind.gradient, CHUNK=CHUNK, BLOCK=BLOCK,
            )  # fmt: skip
            first += len(kind.chunks)
        rates, sums = optimizer.rates, self.sums
        if agree is not None:
            squares, loss = agree((sums.double() / torch.cat([kind.copies for kind in self.kinds])).sum())
            sums, first = squares.float()[None], 1
        turns = triton.cdiv(first, BLOCK)
        _decide[(1,)](
            sums, self.scalars, optimizer.done, loss, first, optimizer.max_grad_norm,
            log_of(rates.beta1), log_of(rates.beta2), TURNS=turns, BLOCK=BLOCK,
        )  # fmt: skip
        narrow = optimizer.moments == torch.bfloat16
        for kind in self.kinds:
            _update[(len(kind.chunks),)](
                kind.tensors, kind.addresses, kind.scales, kind.chunks, self.scalars, optimizer.done, self.seed_of(),
                *rates, COLUMNS=COLUMNS, SPLIT=kind.split, GRADIENT=kind.gradient, NARROW=narrow, CHUNK=CHUNK, BLOCK=BLOCK,
            )  # fmt: skip
        optimizer.goes_on = self.scalars[GOES_ON]
        return self.scalars[NORM].clone()

    def settle(self) -> list[Tensor]:
        """Fills the tables of a step just recorded, which are to be kept as long as it; later steps have their own."""
        return [kind.settle() for kind in self.kinds or []]

    def forget(self) -> None:
        """Has the next step write new tables."""
        for kind in self.kinds or []:
            kind.forget()

    def seed_of(self) -> int:
        return self.optimizer.seed & 0x7FFFFFFF


class _Kind:
    """Parameters that one launch serves: split or whole, with gradients of one precision."""

    def __init__(
        self, split: bool, gradient: torch.dtype, members: list[tuple[Any, Any, int]], state: Any, copies: Any
    ) -> None:
        self.split, self.gradient = split, {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}[gradient]
        self.parameters = [parameter for _, parameter, _ in members]
        device = self.parameters[0].device
        rows, chunks = [], []
        for number, (_, parameter, start) in enumerate(members):
            own = state[parameter]
            low = own["low"] if split else parameter
            tensors = (parameter, low, own["exp_avg"], own["exp_avg_sq"])
            rows.append([*(tensor.data_ptr() for tensor in tensors), parameter.numel(), start])
            chunks += [[number, chunk] for chunk in range(triton.cdiv(parameter.numel(), CHUNK))]
        self.tensors = torch.tensor(rows, device=device)
        self.chunks = torch.tensor(chunks, device=device)
        scales = [[group["lr_scale"], group["weight_decay"]] for group, _, _ in members]
        self.scales = torch.tensor(scales, device=device)
        self.copies = torch.tensor([copies.get(self.parameters[number], 1) for number, _ in chunks], device=device)
        self._found: list[int] = []
        # Made outside of the recording, whose own memory serves one tensor after the other.
        self._of_recording = torch.empty(len(members), dtype=torch.int64, device=device)

    def find(self, gradients: dict[Any, Tensor]) -> None:
        """Takes up where this step's gradients lie."""
        found = [gradients[parameter].data_ptr() for parameter in self.parameters]
        if self.tensors.is_cuda and torch.cuda.is_current_stream_capturing():
            # A recorded step has gradients of its own. It cannot copy from the host: `settle` does, when it is recorded.
            self._found, self.addresses = found, self._of_recording
        elif found != self._found:
            self._found = found
            self.addresses = on_its_way(torch.tensor(found), self.tensors.device)

    def settle(self) -> Tensor:
        """Writes down where the gradients of the recorded step lie."""
        table = self._of_recording
        table.copy_(torch.tensor(self._found))
        self._of_recording = torch.empty_like(table)
        self.forget()
        return table

    def forget(self) -> None:
        self._found = []


def _kinds(optimizer: Any, gradients: dict[Any, Tensor]) -> list[_Kind]:
    members: dict[tuple[bool, torch.dtype], list[tuple[Any, Any, int]]] = {}
    for group, parameter, start in optimizer.places():
        if parameter in gradients and parameter.numel():
            key = ("low" in optimizer.state[parameter], gradients[parameter].dtype)
            members.setdefault(key, []).append((group, parameter, start))
    return [_Kind(*key, found, optimizer.state, optimizer.copies) for key, found in members.items()]
