"""What a conversation may hold, checked before a chat template sees it.

    {"role": "user", "content": "Hi"}                                     or parts: [{"type": "text", "text": "Hi"}]
    {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    {"role": "tool", "tool_call_id": "1", "content": "3"}

As in transformers, a key whose value is null counts as missing, and a template finds a model's reasoning by its usual names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import DataError
from model.tokenizer.interface import whole_characters

ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING = ("reasoning_content", "thinking", "reasoning")
SET_ELSEWHERE = ("messages", "tools", "add_generation_prompt")  # variables of a template that no option may set

Message = Mapping[str, Any]


def checked_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as plain JSON data whose strings UTF-8 can hold."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise DataError('a conversation is a list of messages: give [{"role": "user", "content": "..."}]')
    if not messages:
        raise DataError('the conversation has no message: give at least {"role": "user", "content": "..."}')
    return [_checked_message(message, f"message {number}") for number, message in enumerate(messages, 1)]


def checked_tools(tools: Any) -> list[dict[str, Any]] | None:
    """The descriptions of tools, as objects; None where there are none."""
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError('tools is not a list of objects: give [{"type": "function", "function": {"name": "..."}}]')
    return [_plain(tool, "tools") for tool in tools]


def checked_variables(variables: Any) -> dict[str, Any]:
    """Further variables for a template, such as {"enable_thinking": false}."""
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise DataError('chat_template_kwargs is not an object: give {"enable_thinking": false}, or leave it out')
    for name in variables:
        if name in SET_ELSEWHERE:
            raise DataError(f"chat_template_kwargs cannot set {name}: leave it out there")
    found: dict[str, Any] = _plain(variables, "chat_template_kwargs")
    return found


def with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its reasoning, where it has any, under the names that templates use."""
    reasoning = next((message[key] for key in REASONING if key in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def text_of(message: Message) -> str:
    """What a message says, of parts one a line."""
    content = message.get("content")
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content or [])


def _checked_message(message: Any, name: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise DataError(f'{name} is {type(message).__name__}: give {{"role": "user", "content": "..."}}')
    found = {key: value for key, value in message.items() if value is not None}
    role, content = found.get("role"), found.get("content")
    if role is None:
        raise DataError(f"{name} has no 'role': give each message a role and a content")
    if role not in ROLES:
        raise DataError(f"{name}: the role {role!r} is not known: use {', '.join(ROLES)}")
    calls = found.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise DataError(f'{name}: tool_calls is not a list of objects: give [{{"function": {{"name": "..."}}}}]')
    if content is None and not (role == "assistant" and (calls or any(key in found for key in REASONING))):
        raise DataError(f"{name} has no 'content': give each message a role and a content")
    if isinstance(content, list):
        _check_parts(content, name)
    elif content is not None and not isinstance(content, str):
        raise DataError(f"{name}: 'content' is {type(content).__name__}, not a string: write it as text")
    checked: dict[str, Any] = _plain(found, name)
    return checked


def _check_parts(parts: list[Any], name: str) -> None:
    for number, part in enumerate(parts, 1):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if not isinstance(part, Mapping) or (kind in (None, "text") and not isinstance(part.get("text"), str)):
            raise DataError(f'{name}: part {number} of its content is no text: give {{"type": "text", "text": "..."}}')
        if kind not in (None, "text"):
            raise DataError(f"{name}: part {number} of its content is of the type {kind!r}: only text is read here")


def _plain(value: Any, name: str) -> Any:
    """JSON data anew, so that a template sees no other objects; halves of characters become "?"."""
    try:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return whole_characters(value)
        if isinstance(value, list | tuple):
            return [_plain(item, name) for item in value]
        if isinstance(value, Mapping):
            return {_key(key, name): _plain(item, name) for key, item in value.items()}
    except RecursionError as error:
        raise DataError(f"{name} is nested too deep: make it flatter") from error
    raise DataError(f"{name} holds {type(value).__name__}, which is no JSON: write it as text, or leave it out")


def _key(key: Any, name: str) -> str:
    if not isinstance(key, str):
        raise DataError(f"{name} has a key that is {type(key).__name__}, not a string: write it as text")
    return whole_characters(key)
