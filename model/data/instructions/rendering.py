"""Conversations as the token ids that a model reads, and which of them it learns.

What a model is given when it is asked for an answer is the template's text before it, with the generation prompt. The answer is
what the template writes after exactly that, up to the token that ends it: these tokens are learnt, and that token always.

Templates may write an earlier turn otherwise once another follows, such as without its reasoning. An answer that does not stand
in the whole conversation as it stands at its end becomes an example of its own, so that every answer is learnt after the very
tokens that the model is given before it.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

from model.data.instructions.conversations import Chat
from model.data.instructions.preferences import Pair, Question
from model.errors import DataError
from model.tokenizer.chat_template import ChatTemplate, turns_template
from model.tokenizer.folder import end_ids, load_chat_template, load_folder_tokenizer
from model.tokenizer.interface import TextTokenizer
from model.tokenizer.messages import Message, text_of

TrainOn = Literal["answers", "last", "all"]


class Rendered(NamedTuple):
    """One example: what is read, and which of it is learnt. The first token never is: nothing comes before it."""

    ids: list[int]
    learnt: list[bool]


class RenderedPair(NamedTuple):
    """A pair as model.posttraining.batch.collate_preference takes it; both answers end with the token that ends them."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class UnmaskableError(DataError):
    """An answer of which the template's text does not tell where it begins."""


class Renderer:
    """A tokenizer and a template. `template` None renders one question and one answer as plain text, one after the other."""

    def __init__(self, tokenizer: TextTokenizer, template: ChatTemplate | None, ends: Collection[int] = ()) -> None:
        """`ends` are tokens that end an answer, beside the tokenizer's own."""
        self.tokenizer, self.template = tokenizer, template
        self.ends = frozenset({tokenizer.eos_id, *ends})

    @classmethod
    def from_folder(cls, home: Path) -> Self:
        """That of a run folder or a Hugging Face folder; where it has no template, the turns of `turns_template`."""
        tokenizer = load_folder_tokenizer(home)
        return cls(tokenizer, load_chat_template(home) or turns_template(tokenizer), end_ids(home))

    def chat(self, chat: Chat, train_on: TrainOn = "answers") -> list[Rendered]:
        """The conversation as one example, or more where the template changes earlier turns. DataError names the row."""
        assert train_on in get_args(TrainOn)
        self._check_read(chat)
        if train_on == "all" and self.template is not None:
            return [self._all(chat)]
        examples: list[Rendered] = []
        for index in reversed(chat.answers if train_on == "answers" else chat.answers[-1:]):
            prompt, answer = self._turn(chat, chat.messages[:index], chat.messages[index], f"message {index + 1}")
            end = len(prompt) + len(answer)
            home = next((each for each in examples if each.ids[:end] == prompt + answer), None)
            if home is None:
                home = Rendered(prompt + answer, [False] * end)
                examples.append(home)
            home.learnt[len(prompt) : end] = [True] * len(answer)
        if train_on == "all":
            return [Rendered(ids, [False, *[True] * (len(ids) - 1)]) for ids, _ in examples]
        return examples

    def pair(self, pair: Pair) -> RenderedPair:
        """Both answers after the same prompt; DataError names the row."""
        self._check_read(pair, [pair.chosen, pair.rejected])
        prompt, chosen = self._turn(pair, pair.prompt, pair.chosen, "chosen")
        other, rejected = self._turn(pair, pair.prompt, pair.rejected, "rejected")
        assert prompt == other, "a prompt does not depend on its answer"
        if chosen == rejected:
            raise DataError(f"{pair.where}: chosen and rejected are the same tokens by the template; leave the row out")
        return RenderedPair(prompt, chosen, rejected)

    def question(self, question: Question) -> list[int]:
        """What the model is given to answer it."""
        return self._prompt(question, question.messages)

    def answer(self, question: Question, text: str) -> tuple[list[int], list[int]]:
        """prompt ids and answer ids of a question and what somebody answered, its end included."""
        message = {"role": "assistant", "content": text}
        return self._turn(question, question.messages, message, "the answer")

    def drops_tools(self, source: Chat | Pair) -> bool:
        """Whether tools are given and no model will read of them."""
        return bool(source.tools) and (self.template is None or "tools" in self.template.unread([], source.tools))

    def _all(self, chat: Chat) -> Rendered:
        """Every token, up to the one that ends the last answer."""
        messages = chat.messages[: chat.answers[-1] + 1]
        ids = self._whole(chat, messages)
        end = next((place for place in reversed(range(len(ids))) if ids[place] in self.ends), None)
        if end is None:
            raise DataError(self._without_end(chat.where, f"message {len(messages)}", ids))
        return Rendered(ids[: end + 1], [False, *[True] * end])

    def _prompt(self, source: Chat | Pair | Question, messages: Sequence[Message]) -> list[int]:
        if self.template is None:
            return self.tokenizer.encode(_only_text(messages, source.where)) or [self.tokenizer.eos_id]
        return self._named(source, lambda template, context: template.encode(messages, self.tokenizer, **context))

    def _turn(
        self, source: Chat | Pair | Question, before: Sequence[Message], answer: Message, name: str
    ) -> tuple[list[int], list[int]]:
        """The tokens that the model is given, and those of its answer to the end."""
        prompt = self._prompt(source, before)
        if self.template is None:
            return prompt, [*self.tokenizer.encode(text_of(answer)), self.tokenizer.eos_id]
        messages = [*before, answer]
        whole = self._named(
            source,
            lambda template, context: template.encode(messages, self.tokenizer, add_generation_prompt=False, **context),
        )
        rest = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._rest(source, messages, name)
        end = next((place for place, token in enumerate(rest) if token in self.ends), None)
        if end is None:
            raise DataError(self._without_end(source.where, name, rest))
        return prompt, rest[: end + 1]

    def _rest(self, source: Chat | Pair | Question, messages: Sequence[Message], name: str) -> list[int]:
        """The answer's tokens where those of the whole text run over its beginning: encoded from there on."""
        begins = self._named(source, lambda template, context: template.render(messages[:-1], **context))
        text = self._named(
            source, lambda template, context: template.render(messages, add_generation_prompt=False, **context)
        )
        if not text.startswith(begins):
            place = next(place for place, letter in enumerate(begins) if text[place : place + 1] != letter)
            raise UnmaskableError(
                f"{source.where}: {name} does not stand after {begins[place:]!r}, with which the template begins an answer, so "
                "that it cannot be told from its prompt; write it so that it does, train on all, or take another template"
            )
        return self._whole(source, messages, len(begins))

    def _whole(self, source: Chat | Pair | Question, messages: Sequence[Message], start: int = 0) -> list[int]:
        context: dict[str, Any] = {"add_generation_prompt": False, "start": start}
        return self._named(
            source, lambda template, given: template.encode(messages, self.tokenizer, **context, **given)
        )

    def _named(self, source: Chat | Pair | Question, render: Any) -> Any:
        assert self.template is not None
        context: Mapping[str, Any] = {"tools": source.tools, "variables": source.variables}
        try:
            return render(self.template, context)
        except DataError as error:
            raise DataError(f"{source.where}: {error}") from error

    def _check_read(self, source: Chat | Pair, answers: Sequence[Message] = ()) -> None:
        """Refuses calls of tools that the template leaves out: they would be answers without words."""
        messages = [*(source.messages if isinstance(source, Chat) else source.prompt), *answers]
        if self.template is None:
            _only_text([message for message in messages if message["role"] != "assistant"], source.where)
            if sum(message["role"] == "assistant" for message in messages) != max(1, len(answers)):
                raise DataError(f"{source.where}: plain text has one question and one answer; take a chat template")
        elif "tool_calls" in self.template.unread(messages, source.tools):
            raise DataError(f"{source.where}: the chat template does not write tool_calls; take one that does")

    def _without_end(self, where: str, name: str, rest: list[int]) -> str:
        special = {id: token for token, id in self.tokenizer.special_tokens.items()}
        ends = " and ".join(sorted(special.get(id, str(id)) for id in self.ends))
        found = [special[id] for id in rest if id in special]
        advice = f"name {found[-1]!r} with --end-token" if found else "take a template that writes one"
        return f"{where}: no token ends {name}, so the model would not learn to stop (known ends: {ends}); {advice}"


def _only_text(messages: Sequence[Message], where: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise DataError(
            f"{where}: plain text has one question and one answer; take a chat template for whole conversations"
        )
    return text_of(messages[0])
