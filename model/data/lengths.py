"""How long the documents of a corpus are, in tokens: what says, before training, whether a long context has anything to see.

Documents of a shard end with the end-of-text token, which counts as theirs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.data.corpus import Corpus
from model.data.shards import TokenShard

CHUNK = 1 << 24  # tokens looked at at once
SHOWN = 8  # sources that are told of


def document_lengths(shard: TokenShard, end: int) -> np.ndarray:
    """Tokens of each document, int64 (documents,)."""
    if shard.document_length:
        return np.full(shard.documents, shard.document_length)
    chunks = range(0, len(shard), CHUNK)
    ends = [first + np.flatnonzero(shard.tokens[first : first + CHUNK] == end) for first in chunks]
    return np.diff(np.concatenate(ends), prepend=-1).astype(np.int64)


def length_table(corpus: Corpus, contexts: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Of every source's training text: documents, tokens, median, 90% quantile, longest, and the share of its tokens that stand
    in documents of at least each context's length, `in_long` by context."""
    return {
        spec: _row(document_lengths(shard, corpus.tokenizer.eos_id), contexts) for spec, shard in corpus.train.items()
    }


def _row(lengths: np.ndarray, contexts: Sequence[int]) -> dict[str, Any]:
    tokens = int(lengths.sum())
    median, ninth = np.quantile(lengths, (0.5, 0.9), method="inverted_cdf")
    share = {str(context): round(int(lengths[lengths >= context].sum()) / tokens, 4) for context in contexts}
    return {
        "documents": len(lengths), "tokens": tokens, "median": int(median), "p90": int(ninth), "longest": int(lengths.max()),
        "in_long": share,
    }  # fmt: skip


def describe_lengths(table: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each source, up to SHOWN of them."""
    lines = [
        f"{spec}: {row['documents']:,} documents, {row['tokens']:,} tokens; median {row['median']:,}, 90 % {row['p90']:,}, "
        f"longest {row['longest']:,}; in documents of a context or more: "
        + ", ".join(f"{share:.0%} of the tokens at {int(context):,}" for context, share in row["in_long"].items())
        for spec, row in list(table.items())[:SHOWN]
    ]
    more = len(table) - SHOWN
    return [*lines, f"and {more:,} more sources, in environment.json"] if more > 0 else lines
