"""The document of `hunyuan kv-cache`: cache bytes of all models and variants, what fits on each device, and how fast."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from analyses.memory.kv_cache import kv_cache_rows, window_notes
from analyses.memory.serving import Serving, decode_rows, largest_batch_rows, longest_context_rows, serving_notes
from model.config.load import CountedModel
from model.config.storage import BF16, Storage
from model.config.variants import Variant, own_variant, variants_of


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about the models. `servings` has one for each device and cache format."""

    models: Sequence[CountedModel]
    variants: Sequence[str]  # names; empty is the standard ones of one model, of several each model's own
    contexts: Sequence[int]
    batches: Sequence[int]  # sequences
    storages: Sequence[Storage]  # of the cache
    servings: Sequence[Serving]
    weights: Storage | None = None  # None is each model's own format

    def variants_of(self, model: CountedModel) -> list[Variant]:
        names = self.variants or ([own_variant(model.shape)] if len(self.models) > 1 else ())
        return variants_of(model.shape, names)

    def servings_of(self, model: CountedModel) -> list[Serving]:
        """With the model's weights."""
        weights = self.weights or model.weights or BF16
        return [dataclasses.replace(serving, weights=weights) for serving in self.servings]

    @property
    def all_variants(self) -> list[Variant]:
        return [variant for model in self.models for variant in self.variants_of(model)]

    @property
    def series(self) -> list[tuple[Variant, Serving]]:
        """Every variant on every device and in every format, of one model after the other."""
        return [
            pair
            for model in self.models
            for pair in product(self.variants_of(model), self.servings_of(model))
        ]  # fmt: skip


def kv_cache_report(question: Question) -> dict[str, Any]:
    """The document; what fits is there where a memory is known, decoding where a bandwidth is known."""
    asked, variants = question, question.all_variants
    knows_memory = any(serving.memory for serving in asked.servings)
    knows_speed = any(serving.bandwidth for serving in asked.servings)
    gpus = list(dict.fromkeys(serving.gpu for serving in asked.servings if serving.gpu))
    document: dict[str, Any] = {
        "model": _one([model.shape.name for model in asked.models]),
        "context": _one(asked.contexts),
        "batch": _one(asked.batches),
        "dtype": _one([storage.name for storage in asked.storages]),
        "rows": kv_cache_rows(variants, contexts=asked.contexts, batches=asked.batches, storages=asked.storages),
    }
    if gpus:
        document["gpu"] = _one(gpus)
    notes = [note for model in asked.models for note in model.notes] + window_notes(variants, asked.contexts)
    parts = [(asked.variants_of(model), asked.servings_of(model)) for model in asked.models]
    if knows_memory:
        document["largest_batch"] = [row for part in parts for row in largest_batch_rows(*part, asked.contexts)]
        document["longest_context"] = [row for part in parts for row in longest_context_rows(*part, asked.batches)]
    if knows_speed:
        document["decoding"] = [row for part in parts for row in decode_rows(*part, asked.contexts, asked.batches)]
    if knows_memory or knows_speed:
        formats = [_weights(asked, model) for model in asked.models]
        document["weights"] = formats
        notes += [
            f"{found['model']}: weights are counted as {found['format']}: {found['reason']}"
            for found, model in zip(formats, asked.models, strict=True)
            if model.weights_reason
        ]
        notes += [note for names, servings in parts for note in serving_notes(names, servings[0])]
    if notes or knows_memory or knows_speed:
        document["notes"] = notes
    return document


def _weights(question: Question, model: CountedModel) -> dict[str, str]:
    """The format that a model's weights are counted in, and why."""
    storage = question.weights or model.weights or BF16
    if question.weights:
        reason = "--weights says so" + (f", though {model.weights_reason}" if model.weights_reason else "")
    else:
        reason = model.weights_reason or "no quantization_config says otherwise"
    return {"model": model.shape.name, "format": storage.name, "reason": reason}


def _one(values: Sequence[Any]) -> Any:
    """The value where there is one, all of them where there are several."""
    return values[0] if len(values) == 1 else list(values)
