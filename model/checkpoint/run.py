"""Checkpoints of a run: safetensors and JSON in one folder a step, complete or not there at all.

    RUN/checkpoints/step-00000200/
        model.safetensors       weights and buffers by name
        optimizer.safetensors   AdamW's moments by parameter name
        state.json              step, tokens, seconds, ...
        task.safetensors        what the task follows the weights with, such as their average; only where it has any
        config.json             the model's configuration at that step; only of a run of stages, which change it
        manifest.json           SHA-256 of each file above

A model that was imported has a step 0 with its weights alone (`save_weights`).

A folder is written under another name, synced and renamed, so that a crash leaves none by halves; the checksums find what a
disk damaged later. Nothing is ever unpickled.
"""

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.checkpoint.shard_files import ShardFiles, files_of, read_all
from model.config.hunyuan import HunyuanConfig
from model.errors import CheckpointError
from model.files import folder_aside, read_json, sha256, write_json
from model.kernels.adamw import join

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
STATE, MANIFEST, TASK = "state.json", "manifest.json", "task.safetensors"
CONFIG = "config.json"


def save_checkpoint(
    run: Path,
    step: int,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
    task: dict[str, Tensor] | None = None,
    *,
    config: HunyuanConfig | None = None,
    boundaries: Collection[int] = (),
) -> Path:
    """Writes the checkpoint of `step`, then removes later ones and all but the newest `keep` and those of `boundaries`.

    `task` holds tensors of the task's own, `config` the model's where the run's changes. CheckpointError when it cannot be
    written.
    """
    folder = checkpoint_folder(run, step)
    try:
        sweep_left_over(folder)
        with folder_aside(
            folder
        ) as aside:  # the same step may be there, of a run that was taken back to an earlier one
            _save_tensors(_weights(net, optimizer), aside / MODEL)
            _save_tensors(_moments(net, optimizer), aside / OPTIMIZER)
            write_json(aside / STATE, state | {"step": step})
            if task:
                _save_tensors(task, aside / TASK)
            if config is not None:
                write_json(aside / CONFIG, config.to_dict())
            names = (MODEL, OPTIMIZER, STATE, *([TASK] if task else []), *([CONFIG] if config else []))
            write_json(aside / MANIFEST, {name: sha256(aside / name) for name in names})
    except (OSError, SafetensorError) as error:
        raise not_written(run, step, error) from error
    remove_others(run, step, keep, boundaries)
    return folder


def sweep_left_over(folder: Path) -> None:
    """Removes what an earlier crash left beside a checkpoint, whatever its step."""
    for left_over in folder.parent.glob(".step-*.writing"):
        shutil.rmtree(left_over, ignore_errors=True)


def not_written(run: Path, step: int, error: Exception) -> CheckpointError:
    """The error of a checkpoint that could not be written."""
    return CheckpointError(
        f"the checkpoint of step {step} could not be written to {run / 'checkpoints'} ({error}): free some space and resume; "
        f"{_what_is_left(run)}"
    )


def remove_others(run: Path, step: int, keep: int, boundaries: Collection[int] = ()) -> None:
    """Removes the checkpoints after `step`, and all but the newest `keep` and those of `boundaries`."""
    saved = steps_saved(run)
    older = [other for other in saved if other <= step]
    later = [other for other in saved if other > step]  # damaged ones, which the run was resumed before
    for other in [one for one in older[:-keep] if one not in boundaries] + later:
        shutil.rmtree(checkpoint_folder(run, other), ignore_errors=True)


def restore(folder: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Loads a checkpoint into what a run is made of, in place, and returns its state.json."""
    try:
        net.load_state_dict(read_all(folder, "model"))
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder} holds a model of another shape than run.toml says: undo the change there"
        ) from error
    moments = read_all(folder, "optimizer")
    for name, parameter in net.named_parameters():
        optimizer.state[parameter] = {
            "step": moments[f"{name}.step"],
            "exp_avg": moments[f"{name}.exp_avg"].to(parameter.device),
            "exp_avg_sq": moments[f"{name}.exp_avg_sq"].to(parameter.device),
        }
        if parameter.device.type != "cpu":  # the fused kernel reads its step where the parameter is
            optimizer.state[parameter]["step"] = moments[f"{name}.step"].to(parameter.device)
    state: dict[str, Any] = read_json(folder / STATE)
    return state


def task_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of the task in a checkpoint; none where it had none."""
    return load_file(folder / TASK) if (folder / TASK).exists() else {}


def has_generator_state(folder: Path) -> bool:
    """Whether an older version wrote the checkpoint, which drew the places of recycle routing from a generator."""
    return (folder / "generators.safetensors").exists()


def steps_saved(run: Path) -> list[int]:
    """Steps of the complete checkpoints of a run, in order."""
    names = (path.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdigit())  # a copy that somebody set aside is not one


def step_of(folder: Path) -> int:
    """The step of a checkpoint."""
    return int(folder.name.removeprefix("step-"))


def newest_intact(run: Path, *, weights_alone: bool = False) -> tuple[Path, list[str]]:
    """The newest checkpoint whose checksums hold, and a sentence on each newer one that was passed over."""
    passed_over: list[str] = []
    for step in reversed(steps_saved(run)):
        folder = checkpoint_folder(run, step)
        damage = find_damage(folder, weights_alone=weights_alone)
        if damage is None:
            return folder, passed_over
        passed_over.append(f"the checkpoint {folder.name} is damaged ({damage}): the one before it is used")
    if not passed_over:
        raise _none_yet(run)
    reason = f": {passed_over[-1].split(': the')[0]}"
    raise CheckpointError(f"{run} holds no usable checkpoint{reason}; start it again in another folder with --out")


def find_damage(folder: Path, *, weights_alone: bool = False) -> str | None:
    """What is wrong with a checkpoint, or None. With `weights_alone` its optimizer, twice as large, is not looked at."""
    try:
        manifest = read_json(folder / MANIFEST)
        weights, moments = files_of("model", manifest) or [MODEL], files_of("optimizer", manifest)
        weights_alone |= not moments and not (folder / OPTIMIZER).exists()
        config = [CONFIG] if CONFIG in manifest else []
        every = (*weights, *(moments or [OPTIMIZER]), STATE, *([TASK] if TASK in manifest else []), *config)
        for name in (*weights, STATE, *config) if weights_alone else every:
            if sha256(folder / name) != manifest[name]:
                return f"{name} does not match its checksum"
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    return None


def config_of(run: Path, checkpoint: Path) -> HunyuanConfig:
    """The model's configuration at a checkpoint: its own, which a run of stages has, or else the run's."""
    return HunyuanConfig.from_file(checkpoint if (checkpoint / CONFIG).is_file() else run)


class _Model(Protocol):
    config: HunyuanConfig

    def __init__(self, config: HunyuanConfig) -> None: ...
    def load_state_dict(self, state_dict: Any, /, strict: bool = True, assign: bool = False) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, device: torch.device | str, /) -> Self: ...
    def state_dict(self) -> dict[str, Any]: ...


ROUTED, ROUTER = ".mlp.experts.", ".mlp.router."  # in the names of tensors
REWARD_HEAD = "reward_head."  # begins the names of what makes a reward model of a model


def keeps_precision(name: str) -> bool:
    """Whether a tensor stays as it is when a model changes its precision: those of a router, which decides in float32."""
    return ROUTER in name


M = TypeVar("M", bound=_Model)


def save_weights(run: Path, net: nn.Module) -> None:
    """Writes weights alone, as step 0 of a run folder."""
    folder = checkpoint_folder(run, 0)
    folder.mkdir(parents=True)
    _save_tensors(net.state_dict(), folder / MODEL)
    write_json(folder / STATE, {"step": 0})
    write_json(folder / MANIFEST, {name: sha256(folder / name) for name in (MODEL, STATE)})


def without_storage(kind: type[M], config: HunyuanConfig, where: Path) -> M:
    """A model on the meta device. CheckpointError if the config.json in `where` has sizes that no machine can address."""
    try:
        with torch.device("meta"), WithoutDrawing():
            return kind(config)
    except RuntimeError as error:
        raise CheckpointError(
            f"{where / 'config.json'} describes tensors that are too large to be addressed: mend its sizes"
        ) from error


class WithoutDrawing(TorchFunctionMode):
    """Draws no normal numbers: on the meta device torch loads its compiler to do so, which takes a second."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def checkpoint_of(folder: Path) -> tuple[Path, Path]:
    """The run and the checkpoint that a path means: the newest one of a run with intact weights, or the one that is named."""
    run = run_of(folder)
    if folder == run:
        return run, newest_intact(run, weights_alone=True)[0]
    if damage := find_damage(folder, weights_alone=True):
        raise CheckpointError(f"the checkpoint {folder} is damaged ({damage}): use another one of {folder.parent}")
    return run, folder


def model_of(run: Path, folder: Path, kind: type[M], dtype: torch.dtype | None = None, *, routed: bool = True) -> M:
    """The model of a run and its checkpoint `folder`, which is intact, on the CPU, in evaluation mode.

    In `dtype`, where one is given, but for the routers. Without `routed` the routed experts stay behind, on the meta device.
    """
    net = without_storage(kind, config_of(run, folder), run)
    files = ShardFiles(folder, "model")
    names = [name for name in files.names() if routed or ROUTED not in name]
    if any(name.startswith(REWARD_HEAD) for name in names):
        raise CheckpointError(
            f"{run} is a reward model, which judges answers and gives none: name the run that it began with"
        )
    weights = {}
    for name in names:
        with files:  # opened anew for each: what it maps is given back
            tensor = files.read(name)
            # A copy: in the mapped file tensors begin anywhere, where products are slower and round otherwise.
            weights[name] = tensor.to(tensor.dtype if dtype is None or keeps_precision(name) else dtype, copy=True)
    try:
        missing, unexpected = net.load_state_dict(weights, assign=True, strict=routed)
        if unexpected or any(ROUTED not in name for name in missing):
            raise RuntimeError(missing, unexpected)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} holds a model of another shape than {run / 'config.json'} says") from error
    net.eval()
    return net


def run_of(folder: Path) -> Path:
    """The run folder that `folder` is, or is a checkpoint of."""
    for run in (folder, folder.parent.parent):
        if (run / "config.json").is_file() and (run / "checkpoints").is_dir():
            return run
    if (folder / "run.toml").is_file():
        raise _none_yet(folder)
    what = "has no checkpoint" if folder.is_dir() else "does not exist"
    if folder.is_dir() and not any(folder.iterdir()):
        what = "is empty"
    raise CheckpointError(
        f"{folder} {what}: give the folder of a run, the one that hunyuan train --out named, or that of a Hugging Face model"
    )


def _none_yet(run: Path) -> CheckpointError:
    return CheckpointError(
        f"{run} is a run that has saved no checkpoint yet (the first comes after training.checkpoint_every steps): wait for "
        f"it, or, where the run was ended, go on with hunyuan train (or sft, reward, dpo) --out {run} --resume"
    )


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def _weights(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return net.state_dict() | {name: weight.cpu() for name, weight in whole_weights(net, optimizer)}


def whole_weights(net: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The parameters in float32, whatever the optimizer has made of them (model/training/split_adamw.py), one at a time."""
    for name, parameter in net.named_parameters():
        yield name, part_weight(parameter, optimizer)


def part_weight(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    """One of them, or a process's part of one."""
    low = optimizer.state[parameter].get("low")
    return parameter.detach() if low is None else join(parameter.detach(), low)


def _moments(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = ((name, optimizer.state[p]) for name, p in net.named_parameters())
    return {f"{name}.{key}": value for name, state in states for key, value in state.items() if key != "low"}


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    write_tensors({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file that others may read where they may read other files; the library's own mode is 0600."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=metadata)
    path.chmod(mode)


def _what_is_left(run: Path) -> str:
    steps = steps_saved(run)
    return f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no earlier checkpoint"
