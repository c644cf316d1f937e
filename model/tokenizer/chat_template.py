"""Chat templates: the messages of a conversation as the one text, and the token ids, that a model was trained on.

    [{"role": "user", "content": "Hi"}]  ->  "<|startoftext|>Hi<|extra_0|>"  ->  [127958, ..., 127962]

The names of special tokens that the template writes become those tokens. The same characters in a message stay text. To tell
the two apart, a template whose messages hold such names is rendered twice: first with the messages as they are, then with
masked strings (masking.py). The template cannot tell them from the others, so both renderings are the same text, and the masks
show which names are the messages'. The text between two tokens of the template is encoded in one go. A template that puts a
name together around a content, such as `<|{{ content }}|>`, makes a token of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from model.errors import DataError
from model.tokenizer.interface import TextTokenizer, encode_around_special
from model.tokenizer.masking import Masking
from model.tokenizer.messages import (
    Message,
    checked_messages,
    checked_tools,
    checked_variables,
    text_of,
    with_reasoning,
)
from model.tokenizer.template_sandbox import BoundedTemplate

# A transcript for a model that brings no template. Its turns are told apart by ordinary words, which a user can write too.
PLAIN = """\
{% for message in messages %}
{{ message.role | capitalize }}: {{ message.content | trim }}
{% endfor %}
{% if add_generation_prompt %}
Assistant:{% endif %}"""
PLAIN_STOP_STRINGS = ("\nUser:",)  # where a model that goes on with the transcript has finished its own turn


class ChatTemplate:
    """A Jinja template, and the names of special tokens (`bos_token`, `eos_token`, ...) that it may use as variables.

    `stop_strings` end an answer beside the end-of-text token; `name` is how errors call the template. `tools` and further
    `variables`, such as enable_thinking, are what transformers' apply_chat_template takes under these names or as keywords.
    `with_tools` is another template, for conversations with tools.
    """

    def __init__(
        self,
        source: str,
        special: Mapping[str, str] | None = None,
        *,
        stop_strings: Sequence[str] = (),
        name: str = "the chat template",
        with_tools: str | None = None,
    ) -> None:
        self.source = source
        self.special = dict(special or {})
        self.stop_strings = tuple(stop_strings)
        self.name = name
        self._template = BoundedTemplate(source, name)
        self._with_tools = self._template if with_tools is None else BoundedTemplate(with_tools, name)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text; with the generation prompt, it ends where the assistant begins to speak."""
        return self._for(tools).render(self._all(messages, add_generation_prompt, tools, variables))

    def encode(
        self,
        messages: Sequence[Message],
        tokenizer: TextTokenizer,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        start: int = 0,
    ) -> list[int]:
        """The token ids of the conversation, special tokens where the template put them and nowhere else.

        Of the text from character `start` on, as `render` gives it.
        """
        given = self._all(messages, add_generation_prompt, tools, variables)
        now, special = datetime.now(), tokenizer.special_tokens
        template = self._for(tools)
        text = template.render(given, now=now)
        said = {name: value for name, value in given.items() if name not in self.special}
        strings = list(_strings(said))
        masking = Masking(special, [text, template.source, *strings])
        masked = text
        if any(masking.mask(string) is not string for string in strings):
            masked = template.render(given | masking.mask(said), now=now, each=masking.tell)
        if masking.unmask(masked) != text:
            raise DataError(
                f"{self.name} takes apart the name of a special token within the messages, in a way that cannot be followed "
                "here: take such names out of them"
            )
        text, masked = text[start:], masked[start:]
        places = [match.span() for match in masking.names.finditer(masked)]
        if places == [match.span() for match in masking.names.finditer(text)]:  # no content holds a name
            ids = tokenizer.encode_with_special(text)  # with whatever else the tokenizer does beside a special token
            found = frozenset(special.values()).intersection(ids)
            if [special[text[start:end]] for start, end in places] == [id for id in ids if id in found]:
                return ids
        return encode_around_special(masked, special, lambda piece: tokenizer.encode(masking.unmask(piece)))

    def unread(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """What is given and has no effect, for the template never asks for it."""
        given = [*(variables or {}), *(["tools"] if tools else [])]
        given += ["tool_calls"] if any(message.get("tool_calls") for message in messages) else []
        return [name for name in given if name not in self._for(tools).words]

    def _for(self, tools: Any) -> BoundedTemplate:
        return self._template if tools is None else self._with_tools

    def _all(self, messages: Any, add_generation_prompt: bool, tools: Any, variables: Any) -> dict[str, Any]:
        checked = [with_reasoning(message) for message in checked_messages(messages)]
        if not self._for(tools).reads_parts:
            checked = [
                message | {"content": text_of(message)} if "content" in message else message for message in checked
            ]
        return {
            "documents": None,
            **self.special,
            **checked_variables(variables),
            "tools": checked_tools(tools),
            "messages": checked,
            "add_generation_prompt": add_generation_prompt,
        }


# The same with an end that no text can write after every turn: what a model without a template is taught to speak in.
TURNS = """\
{% for message in messages %}
{{ message.role | capitalize }}:
{{ message.content }}END
{% endfor %}
{% if add_generation_prompt %}
Assistant:
{% endif %}"""


def plain_template() -> ChatTemplate:
    """The transcript for models without a template: "User: ...", "Assistant: ...", a line each."""
    return ChatTemplate(PLAIN, stop_strings=PLAIN_STOP_STRINGS)


def turns_template(tokenizer: TextTokenizer) -> ChatTemplate:
    """Turns that each end with the token that ends the tokenizer's texts, for models that are to learn a template."""
    end = next((name for name, id in tokenizer.special_tokens.items() if id == tokenizer.eos_id), None)
    if end is None:
        raise DataError(
            "the tokenizer's end of text is no special token, so no turn can end with it: give a chat template"
        )
    return ChatTemplate(TURNS.replace("END", "{{ " + repr(end) + " }}"), name="the template of turns")


def _strings(value: Any) -> Iterator[str]:
    """Every string in JSON data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
