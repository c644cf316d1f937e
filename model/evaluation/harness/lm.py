"""Our model as lm-eval's TemplateLM: its requests become questions and prompts, its answers ours.

The rules are lm-eval's own, so that scores can be compared: a context and its continuation are encoded together and split
after the context's tokens, spaces at the end of a context belong to the continuation, and a text is cut before the first of
its `until`. Each request carries its document, so that what was cut off a prompt is counted with it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from model.errors import DataError
from model.evaluation.asking import Model, Prompt
from model.evaluation.loglikelihood import Answer, Question

LENGTH_KEYS = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # the first that is there counts
DEFAULT_NEW_TOKENS = 256  # lm-eval's
DRAWN = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
KNOWN = (*LENGTH_KEYS, *DRAWN, "until", "do_sample")


class HarnessModel(TemplateLM):
    """`truncated` counts the requests of a (task, document) whose prompt lost its beginning."""

    def __init__(self, model: Model, *, max_new_tokens: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.model, self.max_new_tokens, self.seed = model, max_new_tokens, seed
        self.truncated: Counter[tuple[str, int]] = Counter()
        self.chat = False

    # --- what lm-eval asks of every model ----------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.eos_id

    @property
    def tokenizer_name(self) -> str:
        return self.model.tokenizer.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._encode([string])[0]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """In a conversation the names of special tokens are the template's; elsewhere they are text."""
        if self.chat:
            return [self.model.tokenizer.encode_with_special(text) or [self.eot_token_id] for text in texts]
        return self.model.encode(texts)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without a generation prompt its last message is one to go on with."""
        self.chat = True
        text = self.model.engine.template.render(chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        said = chat_history[-1]["content"].strip()
        return text[: text.rindex(said) + len(said)] if said and said in text else text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.model.engine.template.source if chat_template else None

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        scored = self.model.choose([Question(context, [continuation]) for _, context, continuation in requests])
        return [_pair(each.answers[0]) for each in scored]

    # --- its three kinds of requests ---------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each continuation; those of one context are asked together."""
        pairs = [_moved_spaces(*request.args[:2]) for request in requests]
        contexts = list(dict.fromkeys(context for context, _ in pairs))
        ids_of = dict(zip(contexts, self._encode(contexts), strict=True))
        wholes = self._encode([context + continuation for context, continuation in pairs])
        choices: dict[str, list[list[int]]] = {}
        places = []
        for (context, continuation), whole in zip(pairs, wholes, strict=True):
            ids = whole[len(ids_of[context]) :] if context else whole
            if not ids:
                raise DataError(f"an answer to choose from is empty ({continuation!r}): mend the task's data")
            row = choices.setdefault(context, [])
            places.append((context, len(row)))
            row.append(ids)
        scored = dict(
            zip(choices, self.model.choose([Question(ids_of[c], row) for c, row in choices.items()]), strict=True)
        )
        for request, (context, _) in zip(requests, places, strict=True):
            self._count(request, scored[context].cut)
        return [_pair(scored[context].answers[number]) for context, number in places]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text; long ones go through the model in windows, none is cut."""
        texts = self.model.tokenizer.encode_batch([request.args[0] for request in requests])
        return self.model.rolling(texts)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A text for each request, cut before its first `until`."""
        ids = self._encode([request.args[0] for request in requests])
        repeats: Counter[tuple[str | None, int | None]] = Counter()
        prompts = []
        for request, prompt in zip(requests, ids, strict=True):
            turn = repeats[request.task_name, request.doc_id]
            repeats[request.task_name, request.doc_id] += 1
            prompts.append(self._prompt(prompt, request.args[1], turn))
        replies = self.model.generate(prompts)
        for request, reply in zip(requests, replies, strict=True):
            self._count(request, reply.cut)
        return [reply.text for reply in replies]

    def _prompt(self, ids: list[int], asked: Mapping[str, Any], turn: int) -> Prompt:
        for name in asked:
            if name not in KNOWN:
                self.model.note(f"the task's generation setting {name} = {asked[name]!r} has no effect here")
        until = asked.get("until") or []
        until = [until] if isinstance(until, str) else until
        until = [*until, *(self.model.engine.template.stop_strings if self.chat else ())]
        lengths = (asked[name] for name in LENGTH_KEYS if asked.get(name) is not None)
        new = int(next(lengths, DEFAULT_NEW_TOKENS))
        drawn = {name: asked[name] for name in DRAWN if asked.get(name) is not None} if asked.get("do_sample") else {}
        if drawn:
            drawn.setdefault("temperature", 1.0)
        if drawn.get("temperature") == 0:
            drawn = {}
        return Prompt(
            ids,
            new if self.max_new_tokens is None else min(new, self.max_new_tokens),
            tuple(dict.fromkeys(text for text in until if text)),
            drawn,
            (self.seed + turn) % 2**63,
        )

    def _count(self, request: Instance, cut: int) -> None:
        if cut:
            self.truncated[str(request.task_name), int(request.doc_id or 0)] += 1


def _pair(answer: Answer) -> tuple[float, bool]:
    return answer.logprob, answer.is_greedy


def _moved_spaces(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
