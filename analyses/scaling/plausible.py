"""Whether parameters, tokens, FLOPs and losses can be what they are taken for, and which unit they look like otherwise.

    doubt_sizes(sizes, given, named) -> Finding | None     "params look like millions: --params-unit 1e6"
    doubt_losses(loss)               -> Finding | None     perplexities, or no losses at all

The limits are far from anything published, so that a strange study passes; units are wrong by factors of a thousand and more.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from analyses.scaling.findings import Finding
from analyses.scaling.units import PF_DAY, unit_name

# FLOPs of a token and parameter. A forward pass costs 2, with its gradients 6, and 8 where all activations are computed
# again; Hunyuan-Large counts 9.59 (attention and routing with it), with recomputation 12.8. Forward passes counted alone give
# 2. A mixture's table may have all parameters: 6 / 18 for DeepSeek-V3, 6 / 1000 for the sparsest studied (Clark et al. 2022,
# arXiv:2202.01169, 512 experts).
LEAST_COST, MOST_COST = 1e-3, 12.8
# What does not grow with the parameters: 2.3e8 in Hunyuan-Large's rule; an output layer that the parameters leave out, of
# 256K tokens and width 512, costs 8e8; attention over 8K tokens about 4e8 at that width.
FIXED_COST = 1e9
COST_OF_SMALLEST = 1e3  # beyond this even a model of a few parameters under a large vocabulary is a matter of units
PROPORTIONAL = 0.02  # FLOPs are k N D when k varies by less
# The smallest model of Kaplan et al. 2020 (arXiv:2001.08361) has 768 parameters without embeddings, the largest of any 1e13.
PARAMS = (1e3, 1e14)  # of the middle run
TOKENS = (1e4, 1e15)
TOKENS_PER_PARAM = (1e-4, 1e6)
# Typical studies, among which units are sought.
TYPICAL = {"params": (1e5, 2e12), "tokens": (1e7, 1e14), "tokens_per_param": (0.1, 1e5), "cost": (1.5, 60.0)}
TYPICAL_LOG10 = (8.5, 1.8)  # of params and tokens per parameter: what the likeliest of several units comes near
FACTORS = {
    "params": (1.0, 1e3, 1e6, 1e9),
    "tokens": (1.0, 1e3, 1e6, 1e9, 1e12),
    "flops": (1.0, 1e9, 1e12, 1e15, 1e18, PF_DAY, 1e21),
}
LARGEST_NATS = math.log(2**18)  # a guess among the 262,144 tokens of the largest vocabularies
LARGEST_PERPLEXITY = 2.0**18


def doubt_sizes(
    sizes: Mapping[str, np.ndarray],
    given: set[str],
    named: set[str],
    *,
    costs: bool = True,
    other_params: Sequence[np.ndarray] = (),
    activated: bool = False,
) -> Finding | None:
    """Of flops, params and tokens (n,), of which the table gave some and the others follow from the cost rule.

    Those that were `named` by the user have the unit that they should have. Without `costs` FLOPs are not compared with
    parameters and tokens. FLOPs may also be those of `other_params`, each (n,), such as all of a mixture's beside the
    activated ones. Where only `activated` ones are known they may count too little: that is told, and no suspicion.
    """
    units = tuple(name for name in FACTORS if name in given and name not in named)
    if not units or not len(sizes["params"]):
        return None
    flops, params, tokens = (sizes[name] for name in ("flops", "params", "tokens"))
    whole = len(given) == 3
    reason = _wrong_cost(flops, params, tokens) if whole and costs else None
    if any(_wrong_cost(flops, other, tokens) is None for other in other_params):
        reason = None
    middle = {name: float(np.median(np.log10(values))) for name, values in sizes.items()}
    strange = not _within(middle["params"], PARAMS)
    if not whole:  # otherwise the costs tell more
        strange |= not _within(middle["tokens"], TOKENS)
        strange |= not _within(middle["tokens"] - middle["params"], TOKENS_PER_PARAM)
    if reason is None and not strange:
        return None
    likely = _likely_units(middle, units, given)
    if likely:
        looks = " and ".join(
            f"{name.replace('flops', 'FLOPs')} look like {unit_name(name, factor)}" for name, factor in likely
        )
        options = " ".join(f"--{name}-unit {_written(factor)}" for name, factor in likely)
        return Finding("units", f"{looks}: {options}, or name the units that they have", suspect=True)
    if reason is None:
        reason = f"the middle run has 10^{middle['params']:.1f} parameters and 10^{middle['tokens']:.1f} tokens"
    elif (
        activated
        and not strange
        and middle["flops"] - middle["params"] - middle["tokens"] < math.log10(COST_OF_SMALLEST)
    ):
        return Finding(
            "cost_mismatch", f"{reason}: the activated parameters may leave some out, or the FLOPs be too large"
        )
    advice = " ".join(f"--{name}-unit" for name in units)
    return Finding(
        "units", f"{reason}: check the columns and their units ({advice}; 1 where they are right)", suspect=True
    )


def _wrong_cost(flops: np.ndarray, params: np.ndarray, tokens: np.ndarray) -> str | None:
    """What is wrong with FLOPs per parameter and token, by the larger half of the models: fixed costs hide it least there."""
    cost = np.log(flops) - np.log(params) - np.log(tokens)
    large = params >= np.median(params)
    typical = float(np.median(cost[large]))
    low, high = np.quantile(cost, [0.1, 0.9])
    most = MOST_COST if high - low < PROPORTIONAL else MOST_COST + FIXED_COST / float(np.median(params[large]))
    if math.log(LEAST_COST) <= typical <= math.log(min(most, COST_OF_SMALLEST)):
        return None
    seen = f"{math.exp(min(typical, 700)):.3g}"
    return f"FLOPs are {seen} N D for N parameters and D tokens, where training costs about 6 (2 to {MOST_COST:g})"


def _likely_units(middle: Mapping[str, float], units: tuple[str, ...], given: set[str]) -> list[tuple[str, float]]:
    """The fewest changes of unit that make a typical study; of several the most typical one. Nothing where none does."""
    best: tuple[float, float] | None = None
    likely: list[tuple[str, float]] = []
    for factors in product(*(FACTORS[name] for name in units)):
        log = dict(middle)
        for name, factor in zip(units, factors, strict=True):
            log[name] += math.log10(factor)
        cost = log["flops"] - log["params"] - log["tokens"]
        if len(given) == 2:  # the third follows from the others
            cost = math.log10(6)
            third = next(name for name in FACTORS if name not in given)
            log[third] = {"flops": cost + log["params"] + log["tokens"], "params": log["flops"] - cost - log["tokens"],
                          "tokens": log["flops"] - cost - log["params"]}[third]  # fmt: skip
        ratio = log["tokens"] - log["params"]
        found = {"params": log["params"], "tokens": log["tokens"], "tokens_per_param": ratio, "cost": cost}
        if not all(_within(found[name], TYPICAL[name]) for name in found):
            continue
        changed = sum(factor != 1 for factor in factors)
        params, per_param = TYPICAL_LOG10
        far = abs(log["params"] - params) + 2 * abs(ratio - per_param)
        rank = (changed, far)
        if changed and (best is None or rank < best):
            best = rank
            likely = [(name, factor) for name, factor in zip(units, factors, strict=True) if factor != 1]
    return likely


def _written(factor: float) -> str:
    power = round(math.log10(factor))
    return f"1e{power}" if factor == 10.0**power else f"{factor:.5g}"


def _within(log10: float, limits: tuple[float, float]) -> bool:
    return math.log10(limits[0]) <= log10 <= math.log10(limits[1])


def doubt_losses(loss: np.ndarray) -> Finding | None:
    """Of losses (n,) in nats per token: a quarter beyond a blind guess are no losses, for few runs of a study diverge."""
    if not len(loss) or np.mean(loss > LARGEST_NATS) < 0.25:
        return None
    middle = float(np.median(loss))
    seen = f"the losses, {middle:.4g} in the middle, are no nats per token (a blind guess has {LARGEST_NATS:.3g})"
    what = "they look like perplexities: --loss-unit perplexity" if middle < LARGEST_PERPLEXITY else "check the column"
    return Finding("units", f"{seen}: {what}, or --loss-unit nats where they are right", suspect=True)
