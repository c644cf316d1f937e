"""A writer that asks a model of this machine: a run folder or a Hugging Face folder, in batches, with its chat template.

An answer is a function of the seed, the request's id and its sample. Neighbours in a batch, and so where a run was stopped,
change it by no more than the rounding of sums.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from model.checkpoint.load import locate
from model.data.synthesis.local_config import LocalConfig
from model.data.synthesis.writer import Reply, Request
from model.device import pick_device
from model.errors import DataError
from model.generation import request as generation
from model.generation.defaults import merge
from model.generation.engine import Engine
from model.generation.generate import generate_batch
from model.generation.sampling import Sampling

VERSION = 1  # raise it where the same request would be answered in another way
AHEAD = 4  # times the slots: requests that are read at once, so that slots stay full until their end
SAMPLE_BYTES = 2**16  # of each file of weights, read at this many places, that tell a model from another
PLACES = 64


class LocalWriter:
    """A Writer of a model that is loaded when it is first asked."""

    def __init__(self, name: str, config: LocalConfig) -> None:
        """CheckpointError where the folder holds no model."""
        self.name, self.config = name, config
        self._engine: Engine | None = None
        self._model = fingerprint(config.folder)

    @property
    def identity(self) -> Mapping[str, Any]:
        told = asdict(self.config) | {"folder": self._model}
        return {"kind": "local", "version": VERSION} | {
            key: value for key, value in told.items() if key not in ("batch_size", "device")
        }

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            device = pick_device(self.config.device)
            self._engine = Engine.from_folder(self.config.folder, dtype=self.config.dtype, device=device)
        return self._engine

    def write(self, requests: Iterable[Request]) -> Iterator[Reply]:
        source, size = iter(requests), AHEAD * self.config.batch_size
        while chunk := list(islice(source, size)):
            yield from self._answer(chunk)

    def _answer(self, requests: list[Request]) -> Iterator[Reply]:
        engine, ids, prepared = self.engine, {}, []
        for request in requests:
            try:
                one = self._prepared(request)
            except DataError as error:
                yield Reply(request.id, "", "error", error=str(error))
                continue
            prepared.append(one)
            ids[id(one)] = request.id
        prepared.sort(key=lambda one: len(one.prompt))  # prompts of one length are read together
        for done, _ in generate_batch(
            engine.net, prepared, sampling=self._sampling(), slots=self.config.batch_size, session=engine.session
        ):
            if done.stop_reason is not None:
                usage = {"prompt_tokens": len(done.prompt), "completion_tokens": done.new_tokens}
                cut = done.stop_reason == "length"
                reason = "cut off at the limit of tokens" if cut else ""
                yield Reply(ids[id(done)], done.text.strip(), "length" if cut else "stop", usage, reason)

    def _prepared(self, request: Request) -> generation.Request:
        """What is generated from; DataError where the template cannot say it, or it is too long."""
        seed = own_seed(self.config.seed, request.id, request.sample)
        made = self.engine.reply(request.messages, max_new_tokens=self.config.max_tokens, fit=True, seed=seed)
        context = self.engine.net.config.max_position_embeddings
        if len(made.prompt) >= context:
            raise DataError(f"the prompt has {len(made.prompt):,} tokens and the model's context is {context:,}")
        return made

    def _sampling(self) -> Sampling:
        c = self.config
        return merge(self.engine.defaults, temperature=c.temperature, top_p=c.top_p, top_k=c.top_k)

    def close(self) -> None:
        self._engine = None


def own_seed(seed: int, id: str, sample: int) -> int:
    """Of one answer, below 2^63."""
    digest = hashlib.sha256(f"{seed}\x1f{id}\x1f{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fingerprint(folder: Path) -> str:
    """Tells the model of a folder from others, wherever it lies: small files whole, and samples of large ones."""
    found = locate(folder)
    digest = hashlib.sha256()
    weights = set(found.weights.glob("*.safetensors"))
    small = {path for kind in ("*.json", "*.jinja", "*.tiktoken") for path in found.home.glob(kind)}
    for path in sorted(weights | {path for path in small if path.name not in ("environment.json", "summary.json")}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            for place in range(0, size, max(SAMPLE_BYTES, size // PLACES)):
                file.seek(place)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]
