"""Rates, tokens, vocabulary and positions of pre-training."""

from collections.abc import Iterator

from analyses.paper.row import Row
from model.config.hunyuan import HunyuanConfig
from model.config.presets import PRESETS
from model.tokenizer.tiktoken_vocab import EXTRAS, RANKS, special_names
from model.training.config import TrainingConfig
from model.training.schedule import anneal_start, batch_learning_rate, expert_lr_scale, learning_rate_ratio

TOKENS, SYNTHETIC, LONG_STAGE = 7e12, 1.5e12, 10e9
NATURAL_LONG = 0.25
CHARACTERS = (3.13, 2.78)  # a token, of the report's tokenizer and of Llama 3.1's
ROPE_BASE = 1e9  # of the stage at 256K tokens
STEPS = 10_000  # of a run that is long enough for every phase


def rows() -> Iterator[Row]:
    config = TrainingConfig()
    yield from rate_rows(config)
    yield from token_rows(config)
    yield from vocabulary_rows()
    yield from rope_rows()


def rate_rows(config: TrainingConfig) -> Iterator[Row]:
    model = HunyuanConfig.from_dict(PRESETS["hunyuan-large"])
    noise = config.batch_noise_ratio
    yield Row(
        key="expert_rate", quantity="learning rate of experts", published="0.31", value=expert_lr_scale(model, config),
        where="expert-specific learning rate", formula=f"lr(B/16) / lr(B) at B / B_noise {noise:g}, which is not printed; "
        "0.238 to 0.282 round to 0.31",
    )  # fmt: skip
    tiny = 1e-9
    yield Row(
        key="expert_rate.limit", quantity="its limit, B far below B_noise",
        value=batch_learning_rate(tiny / model.num_experts) / batch_learning_rate(tiny),
        where="expert-specific learning rate", formula="1 / sqrt(16)",
    )  # fmt: skip
    yield Row(
        key="schedule.final_rate", quantity="last rate over the peak", published="0.1",
        value=learning_rate_ratio(config, STEPS - 1, STEPS), where="learning rate schedule",
        formula=f"step {STEPS:,} of {STEPS:,} of this project's schedule",
    )  # fmt: skip


def token_rows(config: TrainingConfig) -> Iterator[Row]:
    annealed = 1 - anneal_start(config, STEPS) / STEPS
    yield Row(
        key="tokens.synthetic_share", quantity="synthetic tokens", unit="percent", value=100 * SYNTHETIC / TOKENS,
        where="data", formula="1.5T / 7T",
    )  # fmt: skip
    yield Row(
        key="tokens.annealing_share", quantity="annealing", unit="percent", published="5", value=100 * annealed,
        where="learning rate schedule", formula=f"of {STEPS:,} steps of this project's schedule",
    )  # fmt: skip
    yield Row(
        key="tokens.annealing", quantity="annealing", unit="tokens", value=annealed * TOKENS,
        where="learning rate schedule", formula="5% of 7T",
    )  # fmt: skip
    for context in ("32k", "256k"):
        yield Row(
            key=f"tokens.long.{context}", quantity=f"natural long text at {context.upper()}", unit="tokens",
            value=NATURAL_LONG * LONG_STAGE, where="long-context pre-training", formula="25% of about 10B",
        )  # fmt: skip


def vocabulary_rows() -> Iterator[Row]:
    ids = RANKS + len(special_names(EXTRAS))
    embedding = PRESETS["hunyuan-large"]["vocab_size"]
    ours, llama = CHARACTERS
    yield Row(
        key="tokenizer.compression", quantity="characters a token over Llama 3.1's", unit="percent",
        value=100 * (ours / llama - 1), where="tokenizer", formula="3.13 / 2.78 - 1",
    )  # fmt: skip
    yield Row(
        key="tokenizer.ids", quantity="ids in the vocabulary", published="128e3", value=ids, where="table 1",
        formula=f"{RANKS:,} tokens of text in hy.tiktoken and {ids - RANKS} special ones",
    )  # fmt: skip
    yield Row(
        key="tokenizer.rows", quantity="rows of the embedding", published="128e3", value=embedding, where="table 1",
        formula=f"vocab_size of the released config; {embedding - ids} rows have no token",
    )  # fmt: skip


def rope_rows() -> Iterator[Row]:
    model = HunyuanConfig.from_dict(PRESETS["hunyuan-large"])
    head, alpha = model.head_dim, (model.rope_scaling or {})["alpha"]
    yield Row(
        key="rope.base", quantity="RoPE base at 256K", published="1.0e9", value=model.rope_base,
        where="long-context pre-training", formula=f"1e4 * {alpha:g}^({head}/{head - 2}), alpha of the released config",
    )  # fmt: skip
    yield Row(
        key="rope.alpha", quantity="alpha for a base of 1e9", published=f"{alpha:g}",
        value=(ROPE_BASE / model.rope_theta) ** ((head - 2) / head), where="the released config",
        formula=f"(1e9 / 1e4)^({head - 2}/{head})",
    )  # fmt: skip
