"""Loss by position and key-value retrieval by length and depth of one checkpoint, at its own RoPE base or at another."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.data.config import DataConfig
from model.data.corpus import Corpus, prepare_corpus
from model.data.lengths import document_lengths
from model.data.shards import TokenShard
from model.data.task_source import TaskSource
from model.data.tasks import VALIDATION, TaskMaker
from model.device import autocast, compute_dtype
from model.errors import DataError
from model.transformer import Hunyuan

DEPTHS = 8
TOKENS = 65_536  # of a forward pass, about
_READ: dict[str, Corpus] = {}


@torch.no_grad()
def measure(
    plan: Any, out: Path, weights: Path, base: dict[str, float] | None, device: str
) -> dict[str, list[dict[str, Any]]]:
    """{"loss": rows, "retrieval": rows}; `base` is what an arm sets, None for the checkpoint's own."""
    place = torch.device(device)
    net = Hunyuan.from_checkpoint(weights, dtype=torch.float32, device=place).eval()
    if base and "rope_theta" in base:
        net.config = net.config.replace(rope_theta=base["rope_theta"])
    elif base:
        net.config = net.config.replace(rope_scaling={"type": "dynamic", "alpha": base["alpha"]})
    long, corpus = str((out / "text" / "long").absolute()), held_out(out, weights.parents[1], net.config.vocab_size)
    with autocast(place, compute_dtype("auto" if place.type == "cuda" else "float32", place)):
        loss = list(loss_by_position(net, windows(corpus.validation[long], corpus, plan), place))
        retrieval = [row for length in plan.lengths for row in retrieved(net, corpus, plan, length, place)]
    for row in (*loss, *retrieval):
        row["rope_base"] = net.config.rope_base
    return {"loss": loss, "retrieval": retrieval}


def held_out(out: Path, home: Path, vocab_size: int) -> Corpus:
    """The study's text; all runs have one tokenizer, so that a process reads it once."""
    if "corpus" not in _READ:
        long, short = (str((out / "text" / name).absolute()) for name in ("long", "short"))
        data = DataConfig(sources=(short, long), join=(long,), validation_fraction=0.1, tokenizer=str(home))
        _READ["corpus"] = prepare_corpus(data, vocab_size)
    return _READ["corpus"]


def windows(shard: TokenShard, corpus: Corpus, plan: Any) -> np.ndarray:
    """(n, S + 1) of held-out text, S the last context: each inside one document, from its beginning on, without overlap."""
    length = plan.contexts[-1]
    lengths = document_lengths(shard, corpus.tokenizer.eos_id)
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    starts = [
        int(begin) + k * (length + 1)
        for begin, size in zip(begins, lengths, strict=True)
        for k in range(size // (length + 1))
    ]
    if not starts:
        raise DataError(f"no held-out document has {length + 1:,} tokens: give more text with --text")
    chosen = np.linspace(0, len(starts) - 1, min(plan.windows, len(starts))).round().astype(int)
    return np.stack([shard.tokens[starts[k] : starts[k] + length + 1] for k in chosen]).astype(np.int64)


def edges(length: int) -> list[int]:
    """Of the parts of a window: two for each doubling, the last one its end."""
    found = [0]
    size = max(2, min(64, length // 16))
    while size < length:
        found += [size, size * 3 // 2]
        size *= 2
    return [*(edge for edge in found if edge < length), length]


def loss_by_position(net: Hunyuan, rows: np.ndarray, device: torch.device) -> Any:
    """Nats per token of each part, over all windows."""
    losses = []
    for row in torch.from_numpy(rows).to(device):
        loss = net(row[None, :-1], row[None, 1:], reduction="none").loss
        assert loss is not None, "labels were given"
        losses.append(loss[0].double())
    mean: np.ndarray = torch.stack(losses).mean(dim=0).cpu().numpy()
    for first, end in zip(edges(len(mean))[:-1], edges(len(mean))[1:], strict=True):
        yield {"first": first, "end": end, "loss": float(mean[first:end].mean()), "tokens": (end - first) * len(rows)}


def retrieved(net: Hunyuan, corpus: Corpus, plan: Any, length: int, device: torch.device) -> Any:
    """How many of the questions of held-out documents have their answer as the likeliest token, by the depth of its pair."""
    source = TaskSource(task="key_value", length=length, pairs=plan.pairs, questions=plan.pairs)
    maker = TaskMaker.of(source, VALIDATION, corpus.tokenizer, 0.1)
    documents = [maker.document(index) for index in range(plan.documents)]
    answers, correct = np.zeros(DEPTHS, np.int64), np.zeros(DEPTHS, np.int64)
    at_once = max(1, TOKENS // length)
    for first in range(0, len(documents), at_once):
        some = documents[first : first + at_once]
        ids = torch.from_numpy(np.stack([document.ids for document in some])).to(device)
        hidden, _, _ = net.hidden_states(ids[:, :-1])
        for row, document in enumerate(some):
            said = likeliest(net, hidden[row, torch.from_numpy(document.answers - 1).to(device)])
            room = document.answers[0] - 2  # where the questions begin
            depth = np.minimum(document.origins * DEPTHS // room, DEPTHS - 1)
            np.add.at(answers, depth, 1)
            np.add.at(correct, depth, said.cpu().numpy() == document.ids[document.answers])
    for depth in range(DEPTHS):
        yield {"length": length, "depth": depth, "answers": int(answers[depth]), "correct": int(correct[depth])}


def likeliest(net: Hunyuan, hidden: Tensor) -> Tensor:
    """The token of the highest logit after each hidden state (n, D)."""
    return (hidden.float() @ net.head_weight.float().T).argmax(dim=-1)
