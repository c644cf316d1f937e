"""The columns of a table of runs: which one holds what, by the names that people give them.

    find_columns(table, chosen) -> {quantity: Column}, [what a reader must know]

A name is compared in lower case with one _ for whatever is no letter or digit, so that "eval/loss" is eval_loss. It may
carry a unit: "params (M)", "tokens_billions", "total_gflops".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.scaling.findings import Finding
from analyses.scaling.units import flops_factor, word_factor
from model.errors import DataError

# Groups of names, the preferred first. Two columns of one group, or of neighbours, may be confused, and a reader is told
# which was taken; an empty group keeps apart those that are not.
Groups = tuple[tuple[str, ...], ...]
_SPLITS = ("val", "valid", "validation", "eval", "test", "dev", "heldout")
_FLOPS = tuple(
    f"{kind}{noun}" for noun in ("flops", "flop", "compute") for kind in ("", "training_", "train_", "total_", "model_")
)
COLUMNS: dict[str, Groups] = {
    "budget": (("budget", "compute_budget", "flops_budget", "budget_flops", "flop_budget", "target_flops"),),
    "flops": ((*_FLOPS, "c", "compute_flops", "flos", "total_flos"),),
    "params": (
        ("activated_params", "active_params", "activated_parameters", "active_parameters", "n_activated", "n_active",
         "n_activated_params", "n_active_params", "num_activated_params", "num_active_params", "activated_size",
         "params_activated", "params_active", "n_act", "na"),
        ("params", "parameters", "n_params", "num_params", "nparams", "n_parameters", "num_parameters", "nparameters",
         "param_count", "params_count", "parameter_count", "model_params", "model_parameters", "n", "model_size"),
        ("total_params", "total_parameters", "params_total", "n_total", "n_total_params", "num_total_params"),
        ("non_embedding_params", "params_non_embedding", "n_non_embedding", "nonembedding_params",
         "activated_params_without_embedding"),
    ),
    "tokens": (
        ("tokens", "training_tokens", "train_tokens", "total_tokens", "n_tokens", "num_tokens", "ntokens", "tokens_seen",
         "seen_tokens", "trained_tokens", "tokens_trained", "consumed_tokens", "n_train_tokens", "num_train_tokens",
         "token_count", "d", "dataset_size", "dataset_tokens", "data_size"),
    ),
    "loss": (
        ("loss", "final_loss", "l"),
        tuple(f"{first}{split}_{noun}" for first in ("", "final_", "best_") for split in _SPLITS
              for noun in ("loss", "ce", "nll", "cross_entropy")) + tuple(f"loss_{split}" for split in _SPLITS)
        + ("nll", "cross_entropy", "ce_loss", "lm_loss", "ce"),
        (),
        ("train_loss", "training_loss", "final_train_loss", "final_training_loss"),
    ),
    "perplexity": (
        ("perplexity", "ppl", "final_perplexity", "final_ppl"),
        tuple(f"{split}_{noun}" for split in _SPLITS for noun in ("perplexity", "ppl")),
        (),
        ("train_perplexity", "train_ppl", "training_perplexity"),
    ),
    "batch_tokens": (("batch_tokens", "global_batch_tokens"),),
    "learning_rate": (("learning_rate", "lr", "max_lr", "peak_lr", "base_lr", "max_learning_rate", "peak_learning_rate"),),
    "seed": (("seed", "random_seed", "rng_seed", "data_seed", "run_seed", "model_seed", "init_seed"),),
}  # fmt: skip
ACTIVATED = COLUMNS["params"][0]
TOLD = ("flops", "params", "tokens", "loss", "perplexity")  # of which a reader is told which column was taken
SIZES = ("budget", "flops", "params", "tokens")  # whose names and cells may carry a unit


@dataclass(frozen=True)
class Column:
    name: str  # in the table
    unit: float = 1.0  # that its name says


def plain(name: str) -> str:
    """A column's name as it is compared."""
    return re.sub(r"[^0-9a-zA-Z]+", "_", name).strip("_").lower()


def find_columns(
    columns: Mapping[str, Sequence[Any]], table: str, chosen: Mapping[str, str]
) -> tuple[dict[str, Column], list[Finding]]:
    """The column of every quantity that a table has, those of `chosen` being the user's, and which of several was taken."""
    found: dict[str, Column] = {}
    findings: list[Finding] = []
    for quantity in COLUMNS:
        if quantity in chosen and chosen[quantity] not in columns:
            raise DataError(f"{table} has no column '{chosen[quantity]}': it has {', '.join(columns) or 'none'}")
        matches = _matches(columns, quantity)
        if quantity in chosen:
            named = next((column for _, _, column in matches if column.name == chosen[quantity]), None)
            found[quantity] = named or Column(chosen[quantity])
        elif matches:
            group, _, taken = matches[0]
            found[quantity] = taken
            rivals = [column.name for other, _, column in matches[1:]
                      if other <= group + 1 and columns[column.name] != columns[taken.name]]  # fmt: skip
            if rivals and quantity in TOLD:
                others = " and ".join(f"'{name}'" for name in rivals)
                reason = (
                    f"{quantity} are read from '{taken.name}', not from {others}: --{quantity}-column takes another"
                )
                findings.append(Finding("columns", reason.replace("loss are", "loss is")))
    if found.get("budget") == found.get("flops"):
        found.pop("budget", None)  # named as the FLOPs
    for quantity, column in found.items():
        other = next((one for one in found if one != quantity and found[one].name == column.name), None)
        if other is not None:
            raise DataError(f"{table}: the column '{column.name}' cannot be both {quantity} and {other}: name another")
    return found, findings


def named_as(columns: Iterable[str], quantity: str) -> list[Column]:
    """Every column with a name of the quantity, the preferred first."""
    return [column for _, _, column in _matches(columns, quantity)]


def _matches(columns: Iterable[str], quantity: str) -> list[tuple[int, int, Column]]:
    return sorted((match for name in columns if (match := _match(name, quantity))), key=lambda match: match[:2])


def _match(name: str, quantity: str) -> tuple[int, int, Column] | None:
    """The group and the place there of a column's name, and the column with the unit that its name says."""
    words, unit = plain(name), 1.0
    groups = COLUMNS[quantity]
    if quantity in SIZES and not any(words in group for group in groups):
        words, unit = _unit_in(words, quantity)
    for index, group in enumerate(groups):
        if words in group:
            return index, group.index(words), Column(name, unit)
    return None


def _unit_in(name: str, quantity: str) -> tuple[str, float]:
    """A name without its unit: params_m, million_tokens, total_gflops, pf_days."""
    words = [word for word in name.split("_") if word != "in"]
    if quantity in ("flops", "budget"):
        days = re.fullmatch(r"(?:(.*)_)?(p(?:eta)?f(?:lops?)?(?:_s)?_days?)", name)
        if days is not None:
            return days[1] or quantity, flops_factor(days[2].replace("_s_", "-s-").replace("_", "-")) or 1.0
        for index, word in enumerate(words):
            factor = flops_factor(word) if re.fullmatch(r"[a-z]+flops?", word) else None
            # Alone, gflops and tflops are more often a speed.
            if factor is not None and (len(words) > 1 or factor >= 1e18):
                return "_".join([*words[:index], "flops", *words[index + 1 :]]), factor
    for word, rest in ((words[-1], words[:-1]), (words[0], words[1:])):
        factor = word_factor(word)
        # n_m and d_b are names of other things as well.
        if rest and factor is not None and factor != 1 and (len(word) > 1 or len("_".join(rest)) > 1):
            return "_".join(rest), factor
    return name, 1.0
