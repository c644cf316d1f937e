"""What `infer` and `chat` share: the model they open, and the statistics they show."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hunyuan_cli.console import human_bytes, stderr

if TYPE_CHECKING:
    from model.generation.defaults import TokenLimit
    from model.generation.engine import Engine
    from model.generation.generate import GenerationStats


def open_engine(
    checkpoint: Path, *, dtype: str | None, weights: str | None, device: str, experts: str, expert_cache: int
) -> "Engine":
    """The model of a folder; of a run with a damaged newest checkpoint the one before it, with a word about that."""
    from model.device import pick_device
    from model.generation.engine import Engine

    engine = Engine.from_folder(
        checkpoint,
        dtype=dtype,
        weights=weights,
        device=pick_device(device),
        expert_cache_bytes=expert_cache if experts == "disk" else None,
    )
    for note in engine.notes:
        stderr(note)
    return engine


def standard_input() -> TextIO:
    """Standard input, with U+FFFD for what is not UTF-8."""
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != "replace":  # once: it must not have been read
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin


def stats_of(engine: "Engine", measured: "GenerationStats", limit: "TokenLimit") -> dict[str, Any]:
    """The measured facts, with the cache's size in closed form beside the allocated one, and the limit of new tokens."""
    from model.config.storage import STORAGE
    from model.counts import kv_cache_bytes

    precision = {4: STORAGE["fp32"], 2: STORAGE["bf16"]}[engine.net.embed_tokens.weight.element_size()]
    expected = kv_cache_bytes(engine.net.config, tokens=measured.cache_tokens, batch=measured.slots, storage=precision)
    facts = measured.to_dict() | {"cache_formula_bytes": expected}
    facts |= {"max_new_tokens": limit.tokens, "max_new_tokens_source": limit.source}
    cache = expert_cache_of(engine)
    if cache is not None:
        reads = cache.stats.to_dict()
        per_token = reads["bytes_read"] / max(1, measured.new_tokens)
        facts["experts"] = reads | {
            "bytes_read_per_new_token": per_token, "cache_bytes": cache.held_bytes, "anonymous_bytes": _anonymous_bytes()
        }  # fmt: skip
    return facts


def expert_cache_of(engine: "Engine") -> Any:
    """The cache of experts that stay on disk, or None."""
    return getattr(getattr(engine.net.layers[0].mlp, "experts", None), "cache", None)


def show_stats(facts: dict[str, Any]) -> None:
    """The facts as four or five lines on standard error."""
    first, prefill, decode = (facts[f"{name}_seconds"] for name in ("first_token", "prefill", "decode"))
    reused = f", {facts['reused_tokens']:,} more were in the cache" if facts["reused_tokens"] else ""
    stderr(
        f"prefill: {_speed(facts, 'prompt_tokens', prefill, 'prefill')}{reused}, first token after {first or 0:.3f} s"
    )
    stderr(f"decode: {_speed(facts, 'decoded_tokens', decode, 'decode')}; {facts['new_tokens']:,} new in all")
    stderr(
        f"cache: {facts['cache_bytes']:,} bytes allocated, {facts['cache_formula_bytes']:,} by formula "
        f"({facts['slots']} x {facts['cache_tokens']:,} tokens)"
    )
    stderr(f"at most {facts['max_new_tokens']:,} new tokens, by {facts['max_new_tokens_source']}")
    if "experts" in facts:
        reads = facts["experts"]
        memory = reads["anonymous_bytes"]
        stderr(
            f"experts on disk: {reads['hit_rate'] or 0:.1%} of uses from memory, "
            f"{human_bytes(reads['bytes_read_per_new_token'])} read per new token, {human_bytes(reads['cache_bytes'])} held"
            + ("" if memory is None else f"; anonymous memory of the process {human_bytes(memory)}")
        )


def _speed(facts: dict[str, Any], count: str, seconds: float, part: str) -> str:
    rate = facts[f"{part}_tokens_per_second"]
    return f"{facts[count]:,} tokens in {seconds:.3f} s" + (f" ({rate:,.0f} tokens/s)" if rate else "")


def _anonymous_bytes() -> int | None:
    """Memory of this process that no file backs, where Linux tells it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)
