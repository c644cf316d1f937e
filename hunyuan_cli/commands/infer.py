"""`hunyuan infer`: continue one text as it comes, or many in batches."""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hunyuan_cli.console import progress
from hunyuan_cli.files import line_writer
from hunyuan_cli.options.common import Device, Output, Seed
from hunyuan_cli.results import emit
from hunyuan_cli.views.generation import (
    DEFAULT_EXPERT_CACHE,
    Checkpoint,
    Compiled,
    DType,
    ExpertCache,
    ExpertsAt,
    MinP,
    NewTokens,
    RepetitionPenalty,
    Stats,
    Stop,
    System,
    Temperature,
    TopK,
    TopP,
    open_engine,
    show_stats,
    standard_input,
    stats_of,
)

if TYPE_CHECKING:
    from model.generation.engine import Engine
    from model.generation.prompts import Prompt
    from model.generation.request import Request

Texts = Annotated[
    list[str] | None, typer.Argument(help="Texts to continue; '-' reads one from standard input.", show_default=False)
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts", exists=True, dir_okay=False,
        help="A txt file, a prompt a line, or jsonl: objects with a prompt or with messages.",
    ),
]  # fmt: skip
AsChat = Annotated[
    bool, typer.Option("--chat/--complete", help="Put each prompt through the chat template, as a user's message.")
]
Logprobs = Annotated[
    int | None,
    typer.Option("--logprobs", min=0, help="With every token its log probability and those of the K likeliest."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Prompts that decode together.")]
Chunk = Annotated[int, typer.Option("--prefill-chunk", min=1, help="Tokens of a prompt that are read in one pass.")]
TextOrJson = Annotated[
    Literal["text", "json", "jsonl"] | None,
    typer.Option("--format", help="text as it comes (one prompt), one json document, or a line each (several)."),
]


def infer(
    prompts: Texts = None,
    *,
    checkpoint: Checkpoint,
    prompt_file: PromptFile = None,
    chat: AsChat = False,
    system: System = None,
    max_new_tokens: NewTokens = 128,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = 0,
    stop: Stop = None,
    logprobs: Logprobs = None,
    batch_size: BatchSize = 8,
    prefill_chunk: Chunk = 512,
    dtype: DType = None,
    device: Device = "auto",
    experts: ExpertsAt = "memory",
    expert_cache: ExpertCache = DEFAULT_EXPERT_CACHE,  # type: ignore[assignment]
    compiled: Compiled = False,
    format: TextOrJson = None,
    output: Output = None,
    stats: Stats = False,
) -> None:
    """Continue texts with a trained model, until the end of the text, a --stop text, or --max-new-tokens.

    Example: hunyuan infer 'def main(' --checkpoint runs/first --max-new-tokens 64 --temperature 0.8 --seed 1

    Many: hunyuan infer --prompts prompts.jsonl --checkpoint runs/first --batch-size 16 --output answers.jsonl
    """
    from model.generation.defaults import GenerationDefaults, merge
    from model.generation.generate import GenerationStats, generate_batch
    from model.generation.prompts import Prompt, read_prompts
    from model.generation.request import check_requests
    from model.generation.stopping import StopStrings

    given = [Prompt(_readable(standard_input().read() if text == "-" else text)) for text in prompts or []]
    given += read_prompts(prompt_file) if prompt_file else []
    if not given:
        raise typer.BadParameter("there is nothing to continue: give a PROMPT, or a file of them with --prompts")
    form = format or ("text" if len(given) == 1 else "jsonl")
    _check_options(form, given, output=output, logprobs=logprobs, chat=chat, system=system)
    if compiled and experts == "disk":
        raise typer.BadParameter("--compile needs its experts in memory: leave out --compile, or --experts disk")
    choices: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    choices |= {"repetition_penalty": repetition_penalty}
    merge(GenerationDefaults(), **choices)  # a wrong value is told before the weights are read
    StopStrings(stop or [])
    engine = open_engine(checkpoint, dtype=dtype, device=device, experts=experts, expert_cache=expert_cache)
    texts: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop or []}
    requests = [
        _request(engine, prompt, chat=chat, system=system, seed=(seed + index) % 2**63, **texts)
        for index, prompt in enumerate(given)
    ]
    check_requests(requests, engine.net.config.max_position_embeddings, engine.net.config.vocab_size)
    measured = GenerationStats()
    events = generate_batch(
        engine.net, requests, sampling=merge(engine.defaults, **choices), slots=batch_size,
        prefill_chunk=prefill_chunk, logprobs=logprobs, compiled=compiled, stats=measured,
    )  # fmt: skip
    if form == "text":
        _stream(events, "" if chat or given[0].messages else given[0].text)
    elif form == "jsonl":
        with line_writer(output) as write:
            for result in _results(events, requests, given):
                write(json.dumps(result, ensure_ascii=False))
    else:
        results = list(_results(events, requests, given))
        facts = stats_of(engine, measured)
        document = results[0] | facts if len(results) == 1 else {"results": results} | facts
        emit(document, format="json", output=output)
    if stats:
        show_stats(stats_of(engine, measured))


def _check_options(
    form: str, given: "list[Prompt]", *, output: Path | None, logprobs: int | None, chat: bool, system: str | None
) -> None:
    if output is not None and form == "text":
        raise typer.BadParameter("--output keeps JSON: add --format json or jsonl")
    if form == "text" and len(given) > 1:
        raise typer.BadParameter(
            f"--format text shows one prompt, not {len(given)}: leave it out, or take json or jsonl"
        )
    if form == "text" and logprobs is not None:
        raise typer.BadParameter("--logprobs has no place in text: add --format json or jsonl")
    if system is not None and not chat and all(prompt.messages is None for prompt in given):
        raise typer.BadParameter("--system is a message of the chat template: add --chat")


def _request(engine: "Engine", prompt: "Prompt", *, chat: bool, system: str | None, **options: Any) -> "Request":
    if prompt.messages is None and not chat:
        return engine.request(prompt.text, **options)
    messages = list(prompt.messages or [{"role": "user", "content": prompt.text}])
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": _readable(system)})
    return engine.reply(messages, **options)


def _stream(events: "Iterator[tuple[Request, str]]", prompt: str) -> None:
    """One answer as it comes, behind its prompt."""
    typer.echo(prompt, nl=False)
    try:
        for _, piece in events:
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    finally:
        typer.echo()


def _results(
    events: "Iterator[tuple[Request, str]]", requests: "list[Request]", given: "list[Prompt]"
) -> Iterator[dict[str, Any]]:
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


def _readable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")  # an argument that is not UTF-8 holds half characters
