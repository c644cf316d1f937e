"""Answers that a model gives while it learns: to the same held-out questions at every validation, always the likeliest token.

RUN/samples.jsonl: {"step", "question", "answer", "stop_reason", "reference"}, a line each. Lines of steps that a resumed run
computes again are cut off.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from model.data.instructions.preferences import Question
from model.data.instructions.rendering import Renderer
from model.files import write_file
from model.generation.generate import generate_batch
from model.generation.request import Request
from model.generation.sampling import Sampling
from model.tokenizer.messages import text_of
from model.transformer import Hunyuan

FILE = "samples.jsonl"
SHOWN = 60  # characters of a text in a sentence


class Samples:
    """The questions of a run, and where the answers go."""

    def __init__(
        self,
        folder: Path,
        renderer: Renderer,
        questions: Sequence[tuple[Question, str]],
        *,
        max_new_tokens: int,
        context: int,
        show: Callable[[str], None],
    ) -> None:
        """`questions` come with the answer that is there; `context` is the model's; `show` takes a sentence for each answer."""
        self._path, self._show = folder / FILE, show
        self._ends, self._stream = renderer.ends, renderer.tokenizer.stream
        self._asked = [(text_of(q.messages[-1]), renderer.question(q), reference) for q, reference in questions]
        self._limits = [min(max_new_tokens, context - len(ids)) for _, ids, _ in self._asked]

    def take_up(self, step: int) -> None:
        """The run goes on after `step`: what was written of later ones is cut off."""
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_file(self._path, "".join(line for line in lines if _step(line) <= step))

    def answer(self, net: Hunyuan, step: int) -> None:
        """Asks a model in evaluation mode after `step`, and keeps what it says."""
        if not self._asked:
            return
        requests = [
            Request(ids, limit, end_ids=self._ends, stream=self._stream())
            for (_, ids, _), limit in zip(self._asked, self._limits, strict=True)
        ]
        with _uncompiled():
            for _ in generate_batch(net, requests, sampling=Sampling(temperature=0.0), slots=len(requests)):
                pass
        rows = []
        for request, (text, _, reference) in zip(requests, self._asked, strict=True):
            row = {"step": step, "question": text, "answer": request.text, "stop_reason": request.stop_reason}
            rows.append(row | {"reference": reference})
            end = "" if request.stop_reason == "end_of_text" else " (without an end)"
            self._show(f"step {step}: {_short(text)} -> {_short(request.text)}{end}")
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _uncompiled() -> AbstractContextManager[Any]:
    """Generation has other shapes than training at every token: nothing is compiled for them."""
    return torch.compiler.set_stance("force_eager")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else line[: SHOWN - 1] + "…")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash
