"""The model, top down: embedding, blocks of attention and experts, final norm, head.

B batch, S sequence, T = B * S, D hidden, V vocabulary, L layers, E experts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from model.config.hunyuan import HunyuanConfig
from model.device import residual_dtype
from model.kernels.cross_entropy import linear_cross_entropies, linear_cross_entropy
from model.kernels.embedding import embed
from model.layers.attention import Attention, KeysValues
from model.layers.documents import positions_within, visible_within
from model.layers.dropout import Dropout, dropout_keys
from model.layers.kv_cache import BranchPass, CachePass, KVCache
from model.layers.linear import Linear, project
from model.layers.mlp import SwiGLU
from model.layers.norm import RMSNorm
from model.layers.rope import rope_table
from model.moe.layer import MoE, MoEStats
from model.moe.place_keys import place_keys


class Output(NamedTuple):
    """With labels the losses are filled, without them the logits."""

    logits: Tensor | None  # (B, S, V)
    loss: Tensor | None  # () cross-entropy, nats per token; or (B, S), that of each
    aux_loss: Tensor | None  # () weighted routing losses, summed over layers, to be added to the loss; not with a cache
    stats: MoEStats | None  # each field stacked over the mixture layers; None for a dense model
    measures: Tensor | None = None  # (M,) sums that a task reports beside its loss; the model gives none


class Rows(NamedTuple):
    """What a layer is told of the rows that it works on."""

    mask: Tensor | None = None  # (B, 1, S, S) what each query sees; None: the tokens up to its own
    real: Tensor | None = None  # (N,) which of the B * S tokens are given to the experts; None: all
    dropless: bool = False  # whether experts take every token that chose them, whatever the model's own policy is
    dropout: Dropout | None = None


PLAIN = Rows()


class Part(NamedTuple):
    """Some tokens of each sequence, where other processes have the others (model/parallel/sequence.py)."""

    positions: Tensor  # (S / n,) or (B, S / n)
    document_ids: Tensor | None  # (B, S) of the whole sequences, which attention reads


class DecoderLayer(nn.Module):
    """Pre-norm block: hidden (B, S, D) -> hidden, the keys and values used, aux_loss, stats."""

    def __init__(self, config: HunyuanConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size) if config.is_dense else MoE(config, layer)

    def forward(
        self,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        shared: KeysValues | None,
        place_keys: Tensor | None = None,
        cache: CachePass | BranchPass | None = None,
        rows: Rows = PLAIN,
    ) -> tuple[Tensor, KeysValues, Tensor | None, MoEStats | None]:
        """With a cache, after the tokens in it, and without aux_loss and stats."""
        drop = rows.dropout
        attended, shared = self.self_attn(self.input_layernorm(hidden), rope, shared, cache, rows.mask, drop)
        if drop is not None:
            attended = drop.of_attended(attended)
        hidden, tokens = self.post_attention_layernorm.after_adding(hidden, attended)
        tokens = tokens.view(-1, hidden.shape[-1])  # (T, D)
        aux_loss, stats = None, None
        if isinstance(self.mlp, SwiGLU):
            output = self.mlp(tokens)
        else:
            given = tokens if rows.real is None else tokens.index_select(0, rows.real)
            output, aux_loss, stats = self.mlp(given, place_keys, answering=cache is not None, dropless=rows.dropless)
            if rows.real is not None:
                output = torch.zeros_like(tokens, dtype=output.dtype).index_copy(0, rows.real, output)
        output = output.view_as(hidden)
        return hidden + (output if drop is None else drop.of_experts(output)), shared, aux_loss, stats


class Hunyuan(nn.Module):
    """A Hunyuan-style causal language model: input_ids (B, S) -> Output.

    `generator` draws the initial weights (torch's default one where none is given).
    """

    def __init__(self, config: HunyuanConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.attention_dropout = self.hidden_dropout = 0.0  # shares that training drops (model/layers/dropout.py)
        self.dropout_stream = 0  # tells apart what processes drop that are given the same routing key
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers: Any = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head: Linear | None = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of initializer_range; those that add to the residual stream shrink with 1/sqrt(2L) (GPT-2)."""
        for name, parameter in self.named_parameters():
            self.draw_(name, parameter, generator)

    @torch.no_grad()
    def draw_(self, name: str, parameter: nn.Parameter, generator: torch.Generator | None) -> None:
        """The initial value of one parameter, by its name; those of norms stay."""
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() >= 2:
            into_residual = name.endswith(("o_proj.weight", "down_proj.weight", "experts.down"))
            shrink = (2 * self.config.num_hidden_layers) ** -0.5 if into_residual else 1.0
            parameter.normal_(0.0, self.config.initializer_range * shrink, generator=generator)

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        expert_cache_bytes: int | None = None,
    ) -> Self:
        """The model of a run folder, of one of its checkpoints, or of a Hugging Face folder, in evaluation mode.

        In the precision of its files or in `dtype`, routers excepted. With `expert_cache_bytes` the routed experts stay on
        disk, and at most so many bytes of them in memory (model/checkpoint/disk_experts.py).
        """
        from model.checkpoint.load import load_model

        return load_model(folder, cls, dtype=dtype, device=device, expert_cache_bytes=expert_cache_bytes)

    @property
    def head_weight(self) -> Tensor:
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        routing_key: Tensor | None = None,
        last_only: bool = False,
        document_ids: Tensor | None = None,
        token_mask: Tensor | None = None,
        dropless: bool = False,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Output:
        """labels (B, S) are the tokens that follow input_ids; a negative one, such as -100, is left out of the loss.

        `cache` continues a prefix and is moved on; with it there are no labels, documents, routing losses or statistics.

        `routing_key` () int64 decides what is random in training, the places of recycle routing and dropout:
        model.moe.place_keys.routing_key(seed, step, micro_batch). `last_only` computes the logits of the last position
        alone, (B, 1, V). `document_ids`, `token_mask` and `dropless` are those of `hidden_states`. The loss is the mean over
        labels, or with the reduction "none" that of each token, (B, S), 0 where it is left out.
        """
        if cache is not None:
            if labels is not None:
                raise ValueError("a cache is for generation, which has no loss: leave out the cache or the labels")
            if document_ids is not None or token_mask is not None:
                raise ValueError(
                    "a cache is for one document a row, without padding: leave out document_ids, token_mask"
                )
            logits = self.step(input_ids, cache.begin(input_ids.shape[1]), last_only=last_only)
            cache.advance(input_ids.shape[1])
            return Output(logits, None, None, None)
        hidden, aux, stats = self.hidden_states(
            input_ids,
            routing_key=routing_key,
            document_ids=document_ids,
            token_mask=token_mask,
            dropless=dropless,
        )
        if labels is None:
            return Output(self._logits(hidden[:, -1:] if last_only else hidden), None, aux, stats)
        rows = hidden.view(-1, hidden.shape[-1])
        if reduction == "none":
            losses = linear_cross_entropies(rows, self.head_weight, labels.flatten())
            return Output(None, losses.view(labels.shape), aux, stats)
        return Output(None, linear_cross_entropy(rows, self.head_weight, labels.flatten()), aux, stats)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        routing_key: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_mask: Tensor | None = None,
        dropless: bool = False,
        part: Part | None = None,
    ) -> tuple[Tensor, Tensor, MoEStats | None]:
        """input_ids (B, S) -> what the head reads (B, S, D), aux_loss () and stats, as in Output.

        `document_ids` (B, S): tokens see those of their own id in their row, and each document's positions count from 0.
        `token_mask` (B, S): where it is False, as for padding, no expert is visited, and no place of one taken; nor do routing
        losses and statistics count the token. What it computes to is of no use. `dropless` lets the experts take every token
        that chose them, whatever the model's own policy in training is. A `part` is given where input_ids are that alone.
        """
        positions, mask, real = torch.arange(input_ids.shape[1], device=input_ids.device), None, None
        if part is not None:
            positions, mask = part.positions, part.document_ids
        elif document_ids is not None:
            positions, mask = positions_within(document_ids), visible_within(document_ids)
        if token_mask is not None:
            real = token_mask.flatten().nonzero()[:, 0]
            if len(real) in (0, input_ids.numel()):  # nothing is told apart
                real = None
        tokens = input_ids.numel() if real is None else len(real)
        keys = None if dropless else self._place_keys(tokens, routing_key)
        rows = [Rows(mask, real, dropless, dropout) for dropout in self._dropouts(routing_key)]
        hidden, losses, stats = self._blocks(input_ids, positions, keys, rows)
        aux = torch.stack(losses).sum() if losses else self.embed_tokens.weight.new_zeros(())
        stacked = MoEStats(*map(torch.stack, zip(*stats, strict=True))) if stats else None
        return self.norm(hidden), aux, stacked

    def step(
        self,
        input_ids: Tensor,
        cache: CachePass | BranchPass,
        *,
        last_only: bool = False,
        real: Tensor | None = None,
    ) -> Tensor:
        """input_ids (B, S) at the positions of a pass -> logits (B, S, V): tensors alone, which can be compiled as it is.

        `real` (N,) names those of the B * S tokens that are no padding: experts are given them alone, and the logits of all
        positions are theirs, (N, V).
        """
        rows = [Rows(real=real)] * len(self.layers)
        hidden, _, _ = self._blocks(input_ids, cache.positions, None, rows, cache)
        if real is not None and not last_only:
            return self._logits(self.norm(hidden.flatten(0, 1)[real]))
        return self._logits(self.norm(hidden[:, -1:] if last_only else hidden))

    def _blocks(
        self,
        input_ids: Tensor,
        positions: Tensor,
        keys_by_layer: list[Tensor] | None,
        rows_by_layer: list[Rows],
        cache: CachePass | BranchPass | None = None,
    ) -> tuple[Tensor, list[Tensor], list[MoEStats]]:
        """input_ids (B, S) -> hidden (B, S, D), and the routing losses and statistics of the mixture layers."""
        rope, losses, stats = rope_table(self.config, positions), [], []
        weight = self.embed_tokens.weight
        hidden, shared = embed(weight, input_ids, residual_dtype(weight)), None
        for index, layer in enumerate(self.layers):
            keys = None if keys_by_layer is None else keys_by_layer[index]
            hidden, shared, aux_loss, layer_stats = layer(hidden, rope, shared, keys, cache, rows_by_layer[index])
            if layer_stats is not None:
                losses.append(aux_loss)
                stats.append(layer_stats)
        return hidden, losses, stats

    def _logits(self, hidden: Tensor) -> Tensor:
        return project(hidden, self.head_weight)

    def _place_keys(self, tokens: int, routing_key: Tensor | None) -> list[Tensor] | None:
        """The keys of every layer's places, (E * C,) each: made before any layer runs, in a few operations for all.

        `tokens` are those of this process.
        """
        c = self.config
        if c.is_dense or c.moe_routing != "recycle" or not self.training:
            return None
        if routing_key is None:
            raise ValueError(
                "recycle routing is random in training: pass routing_key=routing_key(seed, step), of model.moe.place_keys"
            )
        if (scope := self.layers[0].mlp.capacity_scope) is not None:
            tokens *= scope.processes
        places = [c.num_experts * c.capacity(tokens, layer) for layer in range(c.num_hidden_layers)]
        keys = place_keys(routing_key, len(places), max(places))
        return [row[:count] for row, count in zip(keys, places, strict=True)]

    def _dropouts(self, routing_key: Tensor | None) -> Sequence[Dropout | None]:
        """What every layer drops."""
        count = len(self.layers)
        if not self.training or not (self.attention_dropout or self.hidden_dropout):
            return [None] * count
        if routing_key is None:
            raise ValueError("dropout is random: pass routing_key=routing_key(seed, step), of model.moe.place_keys")
        shares = self.attention_dropout, self.hidden_dropout
        return [Dropout(*shares, keys) for keys in dropout_keys(routing_key ^ self.dropout_stream << 48, count)]
