"""A model that is ready to generate: weights, tokenizer, chat template and sampling defaults of one folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.load import home_of, load_located, locate
from model.errors import ConfigError
from model.generation.defaults import GenerationDefaults, read_generation_config
from model.generation.request import Request
from model.generation.session import Session
from model.generation.stopping import StopStrings
from model.int8_weights import check_int8, to_int8
from model.tokenizer.chat_template import ChatTemplate, plain_template
from model.tokenizer.folder import check_tokenizer_fits, load_chat_template, load_folder_tokenizer
from model.tokenizer.interface import TextTokenizer, whole_characters
from model.transformer import Hunyuan

ENVIRONMENT = "environment.json"  # training leaves it in a run folder
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Engine:
    """What `infer` and `chat` need of a folder."""

    net: Hunyuan
    tokenizer: TextTokenizer
    template: ChatTemplate
    has_template: bool  # False: the plain transcript stands in
    defaults: GenerationDefaults
    trained_here: bool = False  # on texts that no token of the tokenizer's begins: only ends are packed between them
    notes: tuple[str, ...] = ()  # what somebody who named the folder should know

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        dtype: str | None = None,
        device: torch.device | str = "cpu",
        expert_cache_bytes: int | None = None,
        weights: str | None = None,
    ) -> "Engine":
        """Opens a run folder, one of its checkpoints, or a Hugging Face folder. Small files are read before the weights.

        `weights` None keeps them in `dtype`; int8 stores those of linear maps and experts so (model/layers/int8.py).
        """
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError([f"dtype {dtype!r} is not known: choose one of {', '.join(DTYPES)}"])
        if weights not in (None, "int8"):
            raise ConfigError([f"weights {weights!r} are not known: choose int8, or leave it out"])
        if weights == "int8":
            check_int8(dtype, experts_on_disk=expert_cache_bytes is not None)
        home = home_of(folder)
        tokenizer, template = load_folder_tokenizer(home), load_chat_template(home)
        defaults = read_generation_config(home)
        found = locate(folder)
        net = load_located(
            found,
            Hunyuan,
            dtype=None if dtype is None else DTYPES[dtype],
            device=device if weights is None else "cpu",
            expert_cache_bytes=expert_cache_bytes,
        )
        net = net if weights is None else to_int8(net, device)
        check_tokenizer_fits(tokenizer, net.config.vocab_size)
        trained_here = (home / ENVIRONMENT).is_file()
        return cls(
            net,
            tokenizer,
            template or plain_template(),
            template is not None,
            defaults,
            trained_here,
            tuple(found.notes),
        )

    @cached_property
    def session(self) -> Session:
        """The cache and the recorded steps, for all that is generated with this engine."""
        return Session(self.net)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text: the tokenizer's, and those that generation_config.json names."""
        return frozenset({self.tokenizer.eos_id, *self.defaults.eos_ids})

    def request(
        self, prompt: str, *, max_new_tokens: int, fit: bool = False, seed: int = 0, stop: Sequence[str] = ()
    ) -> Request:
        """A request to continue a text, or with an empty one to begin one. `fit` asks for no more tokens than have room."""
        encode = self.tokenizer.encode if self.trained_here else self.tokenizer.encode_prompt
        ids = encode(whole_characters(prompt))
        ids = ids or [self.tokenizer.eos_id]  # the end of one text begins the next
        return self._request(ids, max_new_tokens, fit, seed, stop)

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        max_new_tokens: int,
        fit: bool = False,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Request:
        """A request for the assistant's next message; `tools` and `variables` are for the chat template."""
        ids = self.template.encode(messages, self.tokenizer, tools=tools, variables=variables)
        return self._request(ids, max_new_tokens, fit, seed, [*stop, *self.template.stop_strings])

    def _request(self, ids: list[int], max_new_tokens: int, fit: bool, seed: int, stop: Sequence[str]) -> Request:
        room = self.net.config.max_position_embeddings - len(ids)
        return Request(
            ids,
            max(1, min(max_new_tokens, room)) if fit else max_new_tokens,
            end_ids=self.end_ids,
            stops=StopStrings(stop),
            stream=self.tokenizer.stream(),
            generator=torch.Generator(self.net.embed_tokens.weight.device).manual_seed(seed),
        )
