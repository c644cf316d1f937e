"""A model from one folder to another, in another layout: bytes are moved and nothing is computed.

    convert(Path("downloads/Hunyuan-A13B"), Path("runs/a13b"), to="native")
    convert(Path("runs/first"), Path("exports/first"), to="hunyuan", dtype="bfloat16")

    native         a run folder: config.json, the weights as step 0, the tokenizer's files
    hunyuan        the layout of Hunyuan-Large's release; it holds nearly every model of these families
    transformers   the layout of transformers' own classes, if they compute what the model does; `check` compares the logits

The tokenizer's files are copied. A Hugging Face config.json also holds the ids of special tokens. A run's config.json does not,
so they move to its generation_config.json. Programs that came with a model (.py) are not copied.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from model.checkpoint import run as runs
from model.checkpoint.export_check import compare_with_transformers
from model.checkpoint.load import ModelFiles, locate
from model.checkpoint.released import (
    DEFAULT_SHARD_BYTES,
    EXPERT_BIAS,
    Written,
    load_released,
    refuse_taken,
    released_config,
    write_released,
    written_aside,
)
from model.checkpoint.shard_files import files_of
from model.checkpoint.tensor_files import INDEX
from model.config.hunyuan import HunyuanConfig
from model.config.load import load_values
from model.config.released import write_config
from model.errors import CheckpointError, ConfigError, MissingExtraError
from model.generation.defaults import FILE_NAME as GENERATION_CONFIG
from model.tokenizer.folder import TOKENIZER_CONFIG, TOKENIZER_FILES, TOKENIZER_JSON, load_folder_tokenizer
from model.tokenizer.interface import TextTokenizer
from model.tokenizer.tiktoken_vocab import TIKTOKEN_FILE
from model.transformer import Hunyuan

Target = Literal["native", "hunyuan", "transformers"]
# Opens a stage of the work with its name and bytes, where they are known; what it gives takes the bytes just done.
Stage = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_READ = {"config.json", INDEX, runs.STATE, runs.MANIFEST, *TOKENIZER_FILES}


def convert(
    source: Path,
    target: Path,
    *,
    to: Target,
    dtype: str | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    check: bool = False,
    stage: Stage = lambda name, total: nullcontext(lambda count: None),
) -> dict[str, Any]:
    """Writes the model of a run folder, of one checkpoint or of a Hugging Face folder to `target`, and returns facts about it.

    Weights but those of routers are written in `dtype`; without one they keep the precision of their files. `target` is
    written whole or not at all, and HunyuanError says why not. `check` compares the result with transformers.
    """
    source, target = Path(source), Path(target)
    _check_options(to, dtype, max_shard_bytes)
    refuse_taken(target)
    found = locate(source)
    config = released_config(source) if found.of_release else runs.config_of(found.home, found.weights)
    if to != "native":
        write_config(config, to, "", {})  # for its refusal, before the weights are read
    files, token_ids = _files_beside(found, config, to)
    shards = [path for path in found.weights.glob("*.safetensors") if found.of_release and path.is_file()]
    with stage(f"reading {source}", sum(path.stat().st_size for path in shards) or None) as advance:
        net = _load(found, None if dtype is None else PRECISIONS[dtype], advance)
    facts: dict[str, Any] = {"source": str(source), "out": str(target), "layout": to}
    difference, notes = None, list(found.notes)
    with written_aside(target) as aside:
        for name, content in files.items():
            (aside / name).write_bytes(content)
        with stage(f"writing {target}", sum(tensor.nbytes for tensor in net.state_dict().values())) as advance:
            if to == "native":
                written = _write_run(net, aside, advance)
            else:
                written = write_released(
                    net, aside, layout=to, max_shard_bytes=max_shard_bytes, token_ids=token_ids, progress=advance
                )
        lost = _not_kept(config, HunyuanConfig.from_file(aside))
        if check and to == "transformers":
            with stage("comparing with transformers", None):
                try:
                    difference = compare_with_transformers(net, aside)
                except MissingExtraError as error:
                    notes.append(f"the check was skipped: {error}")
    if not _has_tokenizer(files):
        notes.append(f"{source} has no tokenizer: copy the one that the model was trained with into {target}")
    if to != "native" and any(name.endswith(EXPERT_BIAS) for name in net.state_dict()):
        lost.append("expert_bias, which is 0")
    return facts | {
        "dtype": str(net.embed_tokens.weight.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        **written._asdict(),
        "largest_difference": difference,
        "tokenizer_files": sorted(files),
        "left_out": sorted(_files_left(found)) + lost,
        "notes": notes,
    }


def _check_options(to: str, dtype: str | None, max_shard_bytes: int) -> None:
    problems = []
    if to not in get_args(Target):
        problems.append(f"there is no layout {to!r}: choose one of {', '.join(get_args(Target))}")
    if dtype is not None and dtype not in PRECISIONS:
        problems.append(f"there is no dtype {dtype!r}: choose one of {', '.join(PRECISIONS)}")
    if max_shard_bytes < 1:
        problems.append(f"a shard of at most {max_shard_bytes} bytes holds nothing: give a larger size")
    if problems:
        raise ConfigError(problems)


# --- reading ---------------------------------------------------------------------------------------------------------


def _load(found: ModelFiles, dtype: torch.dtype | None, progress: Callable[[int], None]) -> Hunyuan:
    if found.of_release:
        net = load_released(found.weights, Hunyuan, dtype, progress=progress)
    else:
        net = runs.model_of(found.home, found.weights, Hunyuan, dtype)
    if dtype == torch.float16:  # its largest number is 65,504
        beyond = [name for name, tensor in net.state_dict().items() if not _is_finite(tensor)]
        if beyond:
            raise CheckpointError(f"{beyond[0]} holds numbers that float16 has not: take bfloat16")
    return net


def _is_finite(tensor: Tensor) -> bool:
    return all(map(torch.isfinite, torch.aminmax(tensor)))


def _files_beside(found: ModelFiles, config: HunyuanConfig, to: Target) -> tuple[dict[str, bytes], dict[str, Any]]:
    """What is written beside the weights, and config.json's token ids."""
    files = {name: (found.home / name).read_bytes() for name in TOKENIZER_FILES if (found.home / name).is_file()}
    generation = load_values(found.home / GENERATION_CONFIG) if GENERATION_CONFIG in files else {}
    if found.of_release:
        ids = _token_ids(load_values(found.home / "config.json"))
        if to == "native" and ids.keys() - generation.keys():
            files[GENERATION_CONFIG] = _json(ids | generation)
        return files, ids
    if to == "native":
        return files, {}
    # transformers' classes have ids of their own where none are given: say that there are none.
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")) | _token_ids(generation)
    if TOKENIZER_JSON in files and TIKTOKEN_FILE not in files:  # as training leaves it
        tokenizer = load_folder_tokenizer(found.home)
        if ids["eos_token_id"] is None:
            ids["eos_token_id"] = tokenizer.eos_id
            files[GENERATION_CONFIG] = _json(generation | {"eos_token_id": tokenizer.eos_id})
        if TOKENIZER_CONFIG not in files:
            files[TOKENIZER_CONFIG] = _json(_tokenizer_config(tokenizer, config.max_position_embeddings))
    return files, ids


def _tokenizer_config(tokenizer: TextTokenizer, max_tokens: int) -> dict[str, Any]:
    """What transformers.AutoTokenizer needs beside tokenizer.json, to give the same ids and know what ends a text."""
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    eos = {"eos_token": names[tokenizer.eos_id]} if tokenizer.eos_id in names else {}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens} | eos


def _has_tokenizer(files: dict[str, bytes]) -> bool:
    return TOKENIZER_JSON in files or TIKTOKEN_FILE in files


def _token_ids(values: dict[str, Any]) -> dict[str, Any]:
    """Keys such as eos_token_id, im_start_id, and their ids: one, a list of them, or null."""

    def is_id(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    return {
        key: value
        for key, value in values.items()
        if key.endswith("_id") and (value is None or all(map(is_id, value if isinstance(value, list) else [value])))
    }


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_run(net: Hunyuan, run: Path, progress: Callable[[int], None]) -> Written:
    (run / "config.json").write_bytes(_json(net.config.to_dict()))
    runs.save_weights(run, net)
    weights = net.state_dict()
    size = sum(tensor.nbytes for tensor in weights.values())
    progress(size)
    return Written(len(weights), 1, size)


def _not_kept(config: HunyuanConfig, kept: HunyuanConfig) -> list[str]:
    """Settings that the written config.json cannot hold. They all belong to training."""
    respelled = ("convention", "rope_scaling")  # one may say what the other did
    before, after = config.to_dict(), kept.to_dict()
    return [f"{name} {before[name]}" for name in before if before[name] != after[name] and name not in respelled]


def _files_left(found: ModelFiles) -> set[str]:
    """Files of the source that are neither read nor copied. In a release every safetensors file counts as weights."""
    paths = {path for folder in (found.home, found.weights) for path in folder.iterdir() if path.is_file()}
    weights = {path for path in paths if found.of_release and path.suffix == ".safetensors"}
    read = {*_READ, *files_of("model", [path.name for path in paths])}
    return {path.name for path in paths - weights if path.name not in read and not path.name.startswith(".")}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
