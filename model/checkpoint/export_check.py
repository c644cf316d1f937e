"""Whether transformers computes what this project does from a folder that was written for it."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from model.checkpoint.tensor_files import some
from model.errors import CheckpointError, MissingExtraError
from model.moe.layer import MoE
from model.transformer import Hunyuan

SEQUENCES, LENGTH = 8, 16  # random tokens that both are given
TOLERANCE = 1e-4  # of a logit, or of the largest one where that is above 1
NEAR_TIE = 1e-4  # between a router's last chosen expert and the next: rounding may decide either way


@torch.inference_mode()
def compare_with_transformers(net: Hunyuan, folder: Path) -> float:
    """The largest difference between a logit of the model and the same one of transformers' class, which loads the folder.

    Both compute in float32 on a processor, whatever the precision of the weights: in bfloat16, rounding alone sends tokens to
    other experts. Where two experts are nearly tied even so, the rest of that sequence is not compared. CheckpointError if
    transformers cannot load the folder, misses tensors, fails at computing, or differs by more than TOLERANCE.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", "the comparison with transformers") from error
    generator = torch.Generator().manual_seed(0)
    length = min(LENGTH, net.config.max_position_embeddings)
    input_ids = torch.randint(net.config.vocab_size, (SEQUENCES, length), generator=generator)
    ours, settled = _logits(net, input_ids)
    with _quietly(transformers):
        model = _loaded(transformers, folder)
        try:
            theirs = model(input_ids, use_cache=False).logits
        except MemoryError:
            raise
        except Exception as error:  # such as kernels that want widths of a multiple of 16 bytes
            raise CheckpointError(
                f"transformers {transformers.__version__} failed at computing with what was written "
                f"({_reason(error)}): --no-check leaves the comparison out"
            ) from error
    difference, largest = (ours - theirs)[settled].abs().max().item(), ours.abs().max().item()
    if not difference <= TOLERANCE * max(1.0, largest):  # nor where either is not a number
        raise CheckpointError(
            f"transformers {transformers.__version__} computes other logits from what was written, by up to {difference:.3g} "
            f"where the largest is {largest:.3g}: write the released layout, --to hunyuan"
        )
    return difference


def _logits(net: Hunyuan, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The model's logits (B, S, V) with its weights in float32, and the positions (B, S) that no near tie reaches."""
    tied = torch.zeros_like(input_ids, dtype=torch.bool)

    def look(router: Any, inputs: Any, scores: Tensor, chosen: int) -> None:
        best = scores.topk(min(chosen + 1, scores.shape[1])).values  # (T, K + 1)
        if best.shape[1] > chosen:
            tied.logical_or_((best[:, -2] - best[:, -1] < NEAR_TIE).view_as(tied))

    weights = {name: tensor.float() for name, tensor in net.state_dict().items()}
    with ExitStack() as hooks:
        for layer in net.layers:
            if isinstance(layer.mlp, MoE):
                hooks.enter_context(layer.mlp.router.register_forward_hook(partial(look, chosen=layer.mlp.top_k)))
        logits: Tensor = functional_call(net, weights, (input_ids,)).logits
    settled = tied.cumsum(1) == 0
    return logits, settled if settled.any() else ~settled


def _loaded(transformers: Any, folder: Path) -> Any:
    """The folder's model in float32, every tensor of which comes from the folder."""
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever a class says of a configuration that it does not take
        raise CheckpointError(
            f"transformers {transformers.__version__} cannot load what was written ({_reason(error)}): "
            "write the released layout, --to hunyuan, or leave the comparison out, --no-check"
        ) from error
    lists = {what: sorted(map(str, info[f"{what}_keys"])) for what in ("missing", "unexpected", "mismatched")}
    problems = [f"{what}: {some(names)}" for what, names in lists.items() if names]
    if problems:
        raise CheckpointError(f"transformers has other tensors than what was written ({'; '.join(problems)})")
    return model.eval()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(". ")


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Silences transformers' progress bars and warnings."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
