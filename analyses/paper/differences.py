"""Where the report, the released code and this project differ: the second table of `hunyuan paper`."""

from analyses.paper.training import ROPE_BASE
from model.config.load import load_shape
from model.config.presets import PRESETS
from model.config.variants import with_variant
from model.counts import kv_cache_bytes, parameter_counts
from model.tokenizer.tiktoken_vocab import EXTRAS, RANKS, special_names


def differences() -> list[dict[str, str]]:
    shape, released = load_shape("hunyuan-large"), PRESETS["hunyuan-large"]
    shared, kept = (kv_cache_bytes(with_variant(shape, name), tokens=1) for name in ("GQA+CLA", "GQA"))
    tied = parameter_counts(shape)["embedding"].total
    ids = RANKS + len(special_names(EXTRAS))
    return [
        {
            "what": "a token over an expert's capacity",
            "report": "goes to a random expert with room: none is lost from capacity factor 1 on",
            "release": "moe_drop_tokens and moe_random_routing_dropped_token choose; without the second it is dropped",
            "ours": "moe_routing = recycle, drop or dropless; recycling by a fixed order of places, the same when repeated",
        },
        {
            "what": "the cache of two layers (CLA)",
            "report": f"one for both: {shared:,} bytes a token",
            "release": f"each layer has key norms of its own and caches what they give: {kept:,} bytes a token",
            "ours": f"one for both: {shared:,} bytes a token, with the release's numbers",
        },
        {
            "what": "norms of queries and keys",
            "report": "not mentioned",
            "release": "an RMSNorm of each head after RoPE",
            "ours": "the same; keys are cached without the norm's weight, which multiplies the queries instead",
        },
        {
            "what": "embedding and head",
            "report": "tied; 52B activated",
            "release": f"one tensor of {tied / 1e9:.2f}B parameters, without lm_head.weight",
            "ours": "one tensor, counted once",
        },
        {
            "what": "RoPE base",
            "report": f"{ROPE_BASE:.0e} at 256K tokens",
            "release": f"alpha {released['rope_scaling']['alpha']:g}, so {_base():.3g}",
            "ours": "either: rope_theta, or rope_scaling with alpha",
        },
        {
            "what": "vocabulary",
            "report": "128K",
            "release": f"{ids:,} ids in {released['vocab_size']:,} rows",
            "ours": f"{released['vocab_size']:,} rows",
        },
    ]


def _base() -> float:
    from model.config.hunyuan import HunyuanConfig

    return HunyuanConfig.from_dict(PRESETS["hunyuan-large"]).rope_base
