"""Attention variants by name: the same model with other keys and values to keep.

    MHA  GQA  GQA:4  MQA  CLA  CLA:3  GQA+CLA  MLA  MLA:512:64  GQA+SWA:4096  GQA+SWA:1024*5/GQA

Terms are joined by +, what is not named being MHA over all tokens: GQA:G has G key-value heads, CLA:s lets s layers of a kind
share one cache, MLA:c:r keeps a latent of c values and a rotated key of r, SWA:w a window of w tokens. Layers that differ are
joined by / and repeat to the end, *n standing for n layers. Without a number a term takes the model's own, or the
field's usual one.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, groupby, islice

from model.config.shape import Attention, LatentAttention, ModelShape
from model.errors import ConfigError

STANDARD = ("MHA", "GQA", "MQA", "CLA", "GQA+CLA")
WINDOW = 4096  # of Mistral 7B (arXiv:2310.06825)

_TERM = re.compile(r"(MHA|GQA|MQA|CLA|MLA|SWA)((?::[0-9]{1,9})*)")
_NUMBERS = {"MHA": 0, "GQA": 1, "MQA": 0, "CLA": 1, "MLA": 2, "SWA": 1}
_FORM = "write MHA, GQA:8, MQA, CLA:2, MLA:512:64 or SWA:4096, joined by + in a layer, by / and *n between layers"


@dataclass(frozen=True)
class Variant:
    """A model with some attention, and whether that is its own."""

    name: str
    shape: ModelShape
    own: bool


def with_variant(shape: ModelShape, name: str) -> ModelShape:
    """The model with the attention of that name; its other parts stay. ConfigError says what does not fit."""
    pattern: list[tuple[Attention | LatentAttention, int]] = []
    for part in name.upper().replace(" ", "").split("/"):
        terms, star, count = part.partition("*")
        if star and not (re.fullmatch("[0-9]{1,5}", count) and 0 < int(count) <= 10_000):
            raise ConfigError([f"variant {name!r} repeats a layer {count!r} times: give a number from 1 to 10,000"])
        pattern += [_attention(shape, terms, name)] * int(count or 1)
    seen: dict[tuple[Attention | LatentAttention, int], int] = {}  # layers of each kind so far
    attentions = []
    for kind in islice(cycle(pattern), len(shape.layers)):
        attention, share = kind
        index = seen[kind] = seen.get(kind, -1) + 1
        attentions.append(dataclasses.replace(attention, owns_cache=index % share == 0))
    return shape.with_attention(tuple(attentions))


def own_variant(shape: ModelShape) -> str:
    """The name of the model's own attention, such as GQA+CLA; of layers that differ, with *n and /."""
    kinds = [_owner(layer.attention) for layer in shape.layers]
    named = {kind: _kind_name(shape, kind) for kind in dict.fromkeys(kinds)}
    names = [named[kind] for kind in kinds]
    period = next(p for p in range(1, len(names) + 1) if all(a == b for a, b in zip(names, names[p:], strict=False)))
    runs = [(name, len(list(run))) for name, run in groupby(names[:period])]
    return "/".join(name if count == 1 else f"{name}*{count}" for name, count in runs)


def variants_of(shape: ModelShape, names: Sequence[str] = ()) -> list[Variant]:
    """The variants of these names, or the standard ones; the model's own is always there."""
    own = own_variant(shape)
    heads = max(layer.attention.heads for layer in shape.layers)
    names = names or [name for name in STANDARD if heads > 1 or "GQA" not in name]
    shapes = {name: shape if name == own else with_variant(shape, name) for name in names}
    if shape not in shapes.values():
        shapes[own] = shape
    marked = own if own in shapes else next(name for name, changed in shapes.items() if changed == shape)
    return [Variant(name, changed, name == marked) for name, changed in shapes.items()]


def _owner(attention: Attention | LatentAttention) -> Attention | LatentAttention:
    return dataclasses.replace(attention, owns_cache=True)


def _kind_name(shape: ModelShape, kind: Attention | LatentAttention) -> str:
    """The terms of one kind of layer, with a number only where without it another one would be meant."""
    share = _share(shape, kind)
    heads = _heads_name(shape.layers[0].attention, kind)
    shared = "" if share == 1 else "CLA" if share == 2 == max(2, _share(shape)) else f"CLA:{share}"
    window = "" if kind.window is None else f"SWA:{kind.window}"
    heads = "" if heads == "MHA" and (shared or window) else heads
    return "+".join(term for term in (heads, shared, window) if term)


def _heads_name(own: Attention | LatentAttention, kind: Attention | LatentAttention) -> str:
    if isinstance(kind, LatentAttention):
        usual = _latent(own, [], kind.window)
        sizes = (kind.kv_lora_rank, kind.qk_rope_head_dim)
        return "MLA" if sizes == (usual.kv_lora_rank, usual.qk_rope_head_dim) else "MLA:{}:{}".format(*sizes)
    if kind.kv_heads == kind.heads:
        return "MHA"
    if kind.kv_heads == 1:
        return "MQA"
    return "GQA" if kind.kv_heads == _kv_heads(own, [], "") else f"GQA:{kind.kv_heads}"


def _share(shape: ModelShape, kind: Attention | LatentAttention | None = None) -> int:
    """How many layers (of a kind) share one cache."""
    layers = [layer.attention for layer in shape.layers]
    if kind is not None:
        layers = [attention for attention in layers if _owner(attention) == kind]
    owners = [index for index, attention in enumerate(layers) if attention.owns_cache]
    return owners[1] if len(owners) > 1 else len(layers)


def _attention(shape: ModelShape, terms: str, name: str) -> tuple[Attention | LatentAttention, int]:
    """One layer's attention, and how many layers share its cache."""
    numbers: dict[str, list[int]] = {}
    for term in terms.split("+"):
        match = _TERM.fullmatch(term)
        if match is None or match[1] in numbers or match[2].count(":") > _NUMBERS[match[1]] or ":0" in match[2]:
            raise ConfigError([f"{term!r} in variant {name!r} is not understood: {_FORM}"])
        numbers[match[1]] = [int(number) for number in match[2].split(":")[1:]]
    if len(numbers.keys() & {"MHA", "GQA", "MQA", "MLA"}) > 1:
        raise ConfigError([f"variant {name!r} names two kinds of heads for one layer: keep one of them"])
    own = shape.layers[0].attention
    window = None
    if "SWA" in numbers:
        windows = [layer.attention.window for layer in shape.layers if layer.attention.window]
        window = [*numbers["SWA"], *windows, WINDOW][0]
    share = [*numbers["CLA"], max(2, _share(shape))][0] if "CLA" in numbers else 1
    if share > len(shape.layers):
        raise ConfigError(
            [f"variant {name!r} shares one cache among {share} layers: the model has {len(shape.layers)}"]
        )
    if "MLA" in numbers:
        return _latent(own, numbers["MLA"], window), share
    # Without its rotated part a latent head is one of v_head_dim, as in DeepSeek-V2's own comparison (its table 1).
    head_dim = own.v_head_dim if isinstance(own, LatentAttention) else own.head_dim
    base = Attention(heads=own.heads, kv_heads=own.heads, head_dim=head_dim, window=window)
    if isinstance(own, Attention):
        base = dataclasses.replace(own, kv_heads=own.heads, window=window, owns_cache=True)
    if "MQA" in numbers:
        return dataclasses.replace(base, kv_heads=1), share
    if "GQA" in numbers:
        return dataclasses.replace(base, kv_heads=_kv_heads(own, numbers["GQA"], name)), share
    return base, share


def _kv_heads(own: Attention | LatentAttention, given: list[int], name: str) -> int:
    divisors = [count for count in range(1, own.heads + 1) if own.heads % count == 0]
    if given:
        if given[0] not in divisors:
            shown = ", ".join(map(str, divisors))
            raise ConfigError([f"variant {name!r} has {given[0]} key-value heads: {own.heads} heads allow {shown}"])
        return given[0]
    if isinstance(own, Attention) and 1 < own.kv_heads < own.heads:
        return own.kv_heads
    return max(count for count in divisors if count <= max(1, min(8, own.heads // 2)))


def _latent(own: Attention | LatentAttention, given: list[int], window: int | None) -> LatentAttention:
    if isinstance(own, LatentAttention):
        base = dataclasses.replace(own, window=window, owns_cache=True)
    else:  # DeepSeek-V2, section 2.1: a latent of 4 heads' size, a rotated key of half a head's
        base = LatentAttention(
            heads=own.heads, q_lora_rank=None, kv_lora_rank=4 * own.head_dim, qk_nope_head_dim=own.head_dim,
            qk_rope_head_dim=own.head_dim // 2, v_head_dim=own.head_dim, window=window,
        )  # fmt: skip
    sizes = dict(zip(("kv_lora_rank", "qk_rope_head_dim"), given, strict=False))
    return dataclasses.replace(base, **sizes)  # type: ignore[arg-type]
