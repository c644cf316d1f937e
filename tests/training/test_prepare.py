"""model/device.py and model/training/prepare.py: devices, precision, and what is refused before a step fails."""

import ctypes
import os
import platform
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from tiny import weights

from model.device import autocast, compute_dtype, keep_freed_memory, pick_device
from model.errors import ConfigError
from model.training.prepare import check_memory, prepare
from model.training.split_adamw import WHOLE
from model.transformer import Hunyuan

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BFLOAT16, COMPILE = "training.precision=bfloat16", "training.compile=true"
DENSE = ("model.num_experts=1", "model.num_shared_expert=0")
MULTIPLE = "in bfloat16 the experts need a multiple of 8 on cpu"


# --- device and precision --------------------------------------------------------------------------------------------


@pytest.fixture
def accelerators(monkeypatch):
    """accelerators(2): torch sees two CUDA devices, whatever this machine has."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return see


@pytest.mark.parametrize(
    ("count", "name", "device"),
    [(0, "auto", "cpu"), (1, "auto", "cuda"), (2, "cpu", "cpu"), (1, "cuda", "cuda"), (2, "cuda:1", "cuda:1")],
)
def test_a_device_by_its_name(accelerators, count, name, device):
    accelerators(count)
    assert pick_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("count", "name", "says"),
    [
        (0, "cuda", "device 'cuda' is not there: torch sees 0 CUDA devices; use cpu"),
        (2, "cuda:2", "device 'cuda:2' is not there: torch sees 2 CUDA devices; use cpu"),
        (1, "xpu", "device 'xpu' is not supported: use auto, cpu or cuda"),
        (1, "cuda:one", "device 'cuda:one' is not known: use auto, cpu or cuda"),
        (1, "", "device '' is not known: use auto, cpu or cuda"),
    ],
)
def test_a_device_that_cannot_be_used_is_one_sentence(accelerators, count, name, says):
    accelerators(count)
    with pytest.raises(ConfigError) as caught:
        pick_device(name)
    assert str(caught.value) == says


def test_a_run_on_a_device_that_is_not_there_leaves_no_folder(pretrain, accelerators, tmp_path):
    accelerators(0)
    with pytest.raises(ConfigError, match="device 'cuda' is not there"):
        pretrain("training.device=cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("precision", "device", "dtype"),  # auto: test_precision.py
    [("float32", CUDA, torch.float32), ("bfloat16", CPU, torch.bfloat16)],
)
def test_the_precision_of_the_settings_is_that_of_products(settings, precision, device, dtype):
    chosen = settings(f"training.precision={precision}").training
    assert compute_dtype(chosen.precision, device) == dtype
    with autocast(CPU, dtype):
        assert (torch.ones(8, 8) @ torch.ones(8, 8)).dtype == dtype
    assert (torch.ones(8, 8) @ torch.ones(8, 8)).dtype == torch.float32


def test_training_in_bfloat16_stays_near_float32(pretrain, settings, tmp_path, monkeypatch):
    """Twelve steps: rounding is seen, and no more than rounding."""
    monkeypatch.setattr("model.kernels.onednn.WORK", 0)  # so that products of these sizes are rounded
    exact = pretrain(folder=tmp_path / "exact").rows
    rounded = pretrain(BFLOAT16, folder=tmp_path / "rounded").rows
    losses = [[row["loss"] for row in rows] for rows in (exact, rounded)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1][-1] < losses[1][0] - 0.1  # learnt
    one, other = (weights(tmp_path / name, 12) for name in ("exact", "rounded"))
    start = Hunyuan(settings().model, torch.Generator().manual_seed(7)).state_dict()
    for name, begun in start.items():
        moved = (one[name] - begun).norm()
        assert (other[name] - one[name]).norm() < 0.5 * moved, name


# --- what a grouped product cannot do --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        (("model.hidden_size=36",), [f"model.hidden_size is 36: {MULTIPLE}"]),
        (("model.intermediate_size=20",), [f"model.intermediate_size is 20: {MULTIPLE}"]),
        (
            ("model.hidden_size=36", "model.intermediate_size=20"),
            [f"model.hidden_size is 36: {MULTIPLE}", f"model.intermediate_size is 20: {MULTIPLE}"],
        ),
    ],
)
def test_rows_that_are_not_aligned_are_refused_before_a_step(pretrain, tmp_path, monkeypatch, changes, problems):
    monkeypatch.setattr("model.kernels.onednn.ONEDNN", False)
    with pytest.raises(ConfigError) as caught:
        pretrain(BFLOAT16, *changes)
    assert caught.value.problems == problems
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "changes",
    [
        ("model.hidden_size=34",),
        (BFLOAT16, "model.hidden_size=40"),
        (BFLOAT16, "model.hidden_size=36", *DENSE),
        (BFLOAT16, "model.hidden_size=34", "model.intermediate_size=19"),
    ],
    ids=["float32", "aligned", "dense", "neither"],
)
@pytest.mark.parametrize("rounds", [True, False])
def test_a_processor_takes_rows_of_every_size(pretrain, monkeypatch, changes, rounds):
    monkeypatch.setattr("model.kernels.onednn.ROUNDS", rounds)
    assert pretrain("training.steps=1", *changes).summary["status"] == "finished"


FLOAT32, AUTO = "training.precision=float32", "training.precision=auto"
ODD = "model.hidden_size=34"
NEEDS_BFLOAT16 = "training.compile needs training.precision bfloat16 here: torch traces its grouped product in no other"


@pytest.mark.parametrize(
    ("changes", "device", "onednn", "problems"),
    [
        ((COMPILE, FLOAT32), CUDA, True, [NEEDS_BFLOAT16]),
        ((COMPILE, AUTO), CUDA, True, []),  # which is bfloat16 there
        ((FLOAT32,), CUDA, True, []),
        ((COMPILE, FLOAT32, *DENSE), CUDA, True, []),
        ((COMPILE,), CPU, True, []),
        ((COMPILE,), CPU, False, [NEEDS_BFLOAT16]),
        ((), CPU, False, []),
        (
            (FLOAT32, ODD),
            CUDA,
            True,
            [f"{ODD.replace('=', ' is ')}: in float32 the experts need a multiple of 4 on cuda"],
        ),
        ((FLOAT32, "model.hidden_size=36"), CUDA, True, []),
        ((ODD,), CPU, False, [f"{ODD.replace('=', ' is ')}: in float32 the experts need a multiple of 4 on cpu"]),
        ((ODD,), CPU, True, []),
    ],
)
def test_another_device_or_no_onednn_is_told_before_anything_is_changed(
    settings, monkeypatch, changes, device, onednn, problems
):
    """The model stays on the processor: preparing it for an accelerator needs none."""
    monkeypatch.setattr("model.kernels.onednn.ONEDNN", onednn)
    chosen = settings(*changes)
    net = Hunyuan(chosen.model, torch.Generator().manual_seed(0))
    if problems:
        with pytest.raises(ConfigError) as caught:
            prepare(net, chosen.training, device)
        assert caught.value.problems == problems
        assert all(layer._compiled_call_impl is None for layer in net.layers)
    else:
        prepare(net, chosen.training, device)
        assert {layer._compiled_call_impl is not None for layer in net.layers} == {chosen.training.compile is True}


# --- memory ----------------------------------------------------------------------------------------------------------


SEVERAL = ("training.micro_batch_size=4",)  # two of them in a step
ONE, NARROW = ("training.micro_batch_size=8",), ("training.micro_batch_size=8", "training.moments=bfloat16")


@pytest.mark.parametrize(
    ("device", "changes", "split", "whole"),
    [  # bytes of a parameter
        (CPU, NARROW, 16, 16),  # a processor has float32 moments
        (CUDA, SEVERAL, 16, 16),
        (CUDA, ONE, 14, 16),
        (CUDA, NARROW, 10, 12),
        (CUDA, (*NARROW, FLOAT32), 12, 12),
    ],
)
def test_a_model_whose_state_is_more_than_the_device_has_is_refused(
    settings, monkeypatch, device, changes, split, whole
):
    """One byte less than that is too little."""
    chosen = settings("training.precision=auto", *changes)
    weights = Hunyuan(chosen.model).named_parameters()
    is_split = {name: p.dim() >= 2 and not any(part in name for part in WHOLE) for name, p in weights}
    sizes = {name: p.numel() for name, p in Hunyuan(chosen.model).named_parameters()}
    needed = sum(sizes[name] * (split if is_split[name] else whole) for name in sizes)

    def has(there):
        properties = types.SimpleNamespace(total_memory=there if device == CUDA else 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        pages = {"SC_PHYS_PAGES": there if device == CPU else 0, "SC_PAGE_SIZE": 1}
        monkeypatch.setattr(os, "sysconf", pages.get)

    has(needed)
    check_memory(chosen.model, chosen.training, device)
    has(needed - 1)
    with pytest.raises(ConfigError) as caught:
        check_memory(chosen.model, chosen.training, device)
    sizes = f"{needed / 1e9:,.0f} GB before activations and {device.type} has {(needed - 1) / 1e9:,.0f} GB"
    assert str(caught.value) == f"training this model takes {sizes}: take a smaller model"


def test_what_a_stage_keeps_beside_the_model_counts_as_well(settings, monkeypatch):
    chosen = settings()
    state = 16 * sum(parameter.numel() for parameter in Hunyuan(chosen.model).parameters())
    pages = {"SC_PHYS_PAGES": state + 3_000_000_000, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr(os, "sysconf", pages.get)
    check_memory(chosen.model, chosen.training, CPU, beside=3_000_000_000, of_what="the reference")
    with pytest.raises(
        ConfigError, match="takes 3 GB, 3 GB of them for the reference, before activations and cpu has 3"
    ):
        check_memory(chosen.model, chosen.training, CPU, beside=3_000_000_001, of_what="the reference")


def test_memory_is_not_asked_of_a_system_that_does_not_tell(settings, monkeypatch):
    monkeypatch.setattr(os, "sysconf_names", {})
    monkeypatch.setattr("model.training.prepare.state_bytes", lambda model: 10**30)
    check_memory(settings().model, settings().training, CPU)


def test_a_run_that_cannot_fit_leaves_no_folder(pretrain, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    with pytest.raises(ConfigError, match="take a smaller model"):
        pretrain()
    assert not (tmp_path / "run").exists()


class Library:
    """Stands in for ctypes: keeps what the C library is told, and what it answers when there is a real one behind."""

    def __init__(self, real=None):
        self.told, self.answers, self.real = [], [], real

    def CDLL(self, name):
        assert name is None
        return types.SimpleNamespace(mallopt=self.mallopt)

    def mallopt(self, parameter, value):
        self.told.append((parameter, value))
        self.answers.append(self.real.mallopt(parameter, value) if self.real else 1)


GLIBC = [(-3, 33_554_432), (-1, 2_147_483_647)]  # mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


@pytest.mark.parametrize(
    ("device", "libc", "told"), [(CPU, "glibc", GLIBC), (CPU, "", []), (CPU, "musl", []), (CUDA, "glibc", [])]
)
def test_freed_memory_is_kept_under_glibc_on_a_processor_alone(monkeypatch, device, libc, told):
    library = Library()
    monkeypatch.setattr("model.device.ctypes", library)
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2"))
    keep_freed_memory(device)
    assert library.told == told


def test_the_c_library_of_this_machine_accepts_it_as_often_as_asked(monkeypatch):
    real = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    library = Library(real)
    monkeypatch.setattr("model.device.ctypes", library)
    for _ in range(2):
        keep_freed_memory(CPU)
    assert library.told == (2 * GLIBC if real else [])
    assert set(library.answers) <= {1}  # its word for yes


FAULTS = """
import resource, torch
from model.device import keep_freed_memory
keep_freed_memory(torch.device("cpu"))
def step():
    tensors = [torch.full((4_000_000,), float(i)) for i in range(8)]  # 16 MB each
    assert all(tensor.eq(i).all() for i, tensor in enumerate(tensors))
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_a_step_freed_is_not_faulted_in_by_the_next():
    """Five steps of 128 MB: 3,000 to 23,000 faults, and 95,000 to 160,000 where the memory is given back in between."""
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50_000 or platform.libc_ver()[0] != "glibc"
