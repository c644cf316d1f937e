"""`hunyuan infer`: continue one text as it comes, or many in batches."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.options import generation as options
from hunyuan_cli.options.common import Device, Output, Seed
from hunyuan_cli.views.generation import open_engine, show_stats, stats_of
from hunyuan_cli.views.infer import given_prompts, show, without_effect

if TYPE_CHECKING:
    from model.generation.engine import Engine
    from model.generation.prompts import Prompt
    from model.generation.request import Request

TOKENS = 128  # new ones, where neither the command line nor the folder says how many


def infer(
    prompts: options.Texts = None,
    *,
    checkpoint: options.Checkpoint,
    prompt_file: options.PromptFile = None,
    chat: options.AsChat = False,
    system: options.System = None,
    thinking: options.Thinking = None,
    max_new_tokens: options.NewTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: Seed = 0,
    stop: options.Stop = None,
    logprobs: options.Logprobs = None,
    batch_size: options.BatchSize = 8,
    prefill_chunk: options.Chunk = 512,
    dtype: options.DType = None,
    weights: options.Weights = None,
    device: Device = "auto",
    experts: options.ExpertsAt = "memory",
    expert_cache: options.ExpertCache = options.DEFAULT_EXPERT_CACHE,  # type: ignore[assignment]
    compiled: options.Compiled = False,
    format: options.TextOrJson = None,
    output: Output = None,
    stats: options.Stats = False,
) -> None:
    """Continue texts with a trained model, until the end of the text, a --stop text, or --max-new-tokens.

    Example: hunyuan infer 'def main(' --checkpoint runs/first --max-new-tokens 64 --temperature 0.8 --seed 1

    Many: hunyuan infer --prompts prompts.jsonl --checkpoint runs/first --batch-size 16 --output answers.jsonl
    """
    from model.generation.defaults import merge
    from model.generation.generate import GenerationStats, generate_batch
    from model.generation.request import check_requests

    given = given_prompts(prompts, prompt_file)
    form = format or ("text" if len(given) == 1 else "jsonl")
    for_template = {"--system": system, "--thinking": thinking}
    _check(form, given, output=output, logprobs=logprobs, for_template={} if chat else for_template)
    if compiled and experts == "disk":
        raise typer.BadParameter("--compile needs its experts in memory: leave out --compile, or --experts disk")
    choices = options.sampling_choices(
        stop, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    engine = open_engine(
        checkpoint, dtype=dtype, weights=weights, device=device, experts=experts, expert_cache=expert_cache
    )
    variables = {} if thinking is None else {"enable_thinking": thinking}
    for note in without_effect(engine, given, variables, chat=chat):
        stderr(note)
    if compiled and engine.session.records:
        stderr("--compile has no effect on a GPU: steps are recorded as CUDA graphs without it")
    limit = engine.defaults.token_limit(max_new_tokens, TOKENS)
    texts: dict[str, Any] = {"max_new_tokens": limit.tokens, "fit": max_new_tokens is None, "stop": stop or []}
    requests = [
        _request(engine, prompt, variables, chat=chat, system=system, seed=(seed + index) % 2**63, **texts)
        for index, prompt in enumerate(given)
    ]
    check_requests(requests, engine.net.config.max_position_embeddings, engine.net.config.vocab_size)
    measured = GenerationStats()
    events = generate_batch(
        engine.net, requests, sampling=merge(engine.defaults, **choices), slots=batch_size,
        prefill_chunk=prefill_chunk, logprobs=logprobs, compiled=compiled, session=engine.session,
        stats=measured,
    )  # fmt: skip
    show(form, events, requests, given, output, chat=chat, facts=lambda: stats_of(engine, measured, limit))
    if stats:
        show_stats(stats_of(engine, measured, limit))


def _check(
    form: str, given: "list[Prompt]", *, output: Path | None, logprobs: int | None, for_template: dict[str, Any]
) -> None:
    if form == "text" and output is not None:
        raise typer.BadParameter("--output keeps JSON: add --format json or jsonl")
    if form == "text" and len(given) > 1:
        raise typer.BadParameter(
            f"--format text shows one prompt, not {len(given)}: leave it out, or take json or jsonl"
        )
    if form == "text" and logprobs is not None:
        raise typer.BadParameter("--logprobs has no place in text: add --format json or jsonl")
    unused = next((name for name, value in for_template.items() if value is not None), None)
    if unused and all(prompt.messages is None for prompt in given):
        raise typer.BadParameter(f"{unused} is for the chat template: add --chat")


def _request(
    engine: "Engine", prompt: "Prompt", variables: dict[str, Any], *, chat: bool, system: str | None, **texts: Any
) -> "Request":
    if prompt.messages is None and not chat:
        return engine.request(prompt.text, **texts)
    messages = list(prompt.messages or [{"role": "user", "content": prompt.text}])
    if system is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system})
    return engine.reply(messages, tools=prompt.tools, variables=variables | prompt.variables, **texts)
