"""What `hunyuan infer` reads and shows: prompts, one answer as it comes, answers as JSON, and a word on what has no effect."""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hunyuan_cli.console import printable, progress
from hunyuan_cli.files import line_writer
from hunyuan_cli.results import emit, json_text
from hunyuan_cli.views.generation import standard_input

if TYPE_CHECKING:
    from model.generation.engine import Engine
    from model.generation.prompts import Prompt
    from model.generation.request import Request

    Events = Iterator[tuple[Request, str]]


def given_prompts(texts: list[str] | None, file: Path | None) -> "list[Prompt]":
    """The prompts of the command line, then those of the file."""
    from model.generation.prompts import Prompt, read_prompts
    from model.tokenizer.interface import whole_characters

    # An argument that is not UTF-8 holds half characters.
    given = [Prompt(whole_characters(standard_input().read() if text == "-" else text)) for text in texts or []]
    given += read_prompts(file) if file else []
    if not given:
        raise typer.BadParameter("there is nothing to continue: give a PROMPT, or a file of them with --prompts")
    return given


def without_effect(engine: "Engine", given: "list[Prompt]", variables: dict[str, Any], *, chat: bool) -> list[str]:
    """A sentence on everything in the prompts that nothing is made of."""
    unknown = {key: None for prompt in given for key in prompt.unknown}
    unread: dict[str, None] = {}
    alone: dict[str, None] = {}
    for prompt in given:
        own = [*(["tools"] if prompt.tools else []), *(["chat_template_kwargs"] if prompt.variables else [])]
        if prompt.messages is None and not chat:
            alone |= dict.fromkeys(own)
        else:
            every = variables | prompt.variables
            unread |= dict.fromkeys(engine.template.unread(prompt.messages or [], prompt.tools, every))
    notes = {
        "these keys of the prompts are not used": unknown,
        "a prompt that is continued has no use for these, without --chat": alone,
        "the chat template does not ask for these, which have no effect": unread,
    }
    return [f"{note}: {', '.join(names)}" for note, names in notes.items() if names]


def show(
    form: str,
    events: "Events",
    requests: "list[Request]",
    given: "list[Prompt]",
    output: Path | None,
    *,
    chat: bool,
    facts: Callable[[], dict[str, Any]],
) -> None:
    """The answers in their form; `facts` go into the one JSON document beside them."""
    if form == "text":
        _stream(events, "" if chat or given[0].messages else given[0].text)
    elif form == "jsonl":
        with line_writer(output) as write:
            for result in _results(events, requests, given):
                write(json_text(result))
    else:
        results = list(_results(events, requests, given))
        emit((results[0] if len(results) == 1 else {"results": results}) | facts(), format="json", output=output)


def _stream(events: "Events", prompt: str) -> None:
    """One answer as it comes, behind its prompt."""
    sys.stdout.write(printable(prompt))
    sys.stdout.flush()
    try:
        for _, piece in events:
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def _results(events: "Events", requests: "list[Request]", given: "list[Prompt]") -> Iterator[dict[str, Any]]:
    """The answer to each prompt, in the order of the prompts, as soon as those before it are there."""
    done = 0
    with progress("generating", total=len(requests)) if len(requests) > 1 else nullcontext(lambda _: None) as advance:
        for _ in events:
            while done < len(requests) and requests[done].stop_reason is not None:
                yield _result(requests[done], given[done])
                advance(1)
                done += 1


def _result(request: "Request", prompt: "Prompt") -> dict[str, Any]:
    answer = {
        "text": request.text,
        "token_ids": request.token_ids,
        "prompt_tokens": len(request.prompt),
        "new_tokens": request.new_tokens,
        "stop_reason": request.stop_reason,
    }
    if request.logprobs:
        answer["logprobs"] = [entry.to_dict() for entry in request.logprobs]
    return prompt.to_dict() | answer
