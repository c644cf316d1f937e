"""`hunyuan infer`: continue a text with a trained model."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hunyuan_cli.console import emit, stderr
from hunyuan_cli.options import Device, Output, Seed

Prompt = Annotated[str, typer.Argument(help="The text to continue; '-' reads standard input.", show_default=False)]
Checkpoint = Annotated[Path, typer.Option("--checkpoint", help="A run folder, or one of its checkpoints.")]
NewTokens = Annotated[int, typer.Option("--tokens", min=1, help="Most new tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy; about 0.8 is lively.")]
TopK = Annotated[int, typer.Option("--top-k", min=0, help="Sample from the k likeliest tokens; 0 is all.")]
TopP = Annotated[
    float, typer.Option("--top-p", help="Sample from the likeliest tokens that hold this probability; 1 is all.")
]
Stats = Annotated[bool, typer.Option("--stats", help="Tokens, seconds and speed on standard error.")]
TextOrJson = Annotated[
    Literal["text", "json"], typer.Option("--format", help="Text as it comes, or one JSON document.")
]


def infer(
    prompt: Prompt,
    checkpoint: Checkpoint,
    tokens: NewTokens = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    format: TextOrJson = "text",
    output: Output = None,
    stats: Stats = False,
) -> None:
    """Continue a prompt with a trained model, token by token, until the end of the text or --tokens.

    Example: hunyuan infer 'def main(' --checkpoint runs/first --tokens 64 --temperature 0.8 --top-p 0.95 --seed 1
    """
    import torch

    from model import Hunyuan
    from model.checkpoint.native import newest_intact, run_of
    from model.generation.generate import GenerationStats, generate
    from model.generation.sampling import Sampling
    from model.tokenizer.bpe import load_tokenizer
    from model.training.transforms import pick_device

    if output is not None and format != "json":
        raise typer.BadParameter("--output keeps the JSON document: add --format json")
    sampling = Sampling(temperature, top_k, top_p)
    place = pick_device(device)
    run = run_of(checkpoint)
    if checkpoint == run:
        checkpoint, passed_over = newest_intact(run)
        for sentence in passed_over:
            stderr(sentence)
    tokenizer = load_tokenizer(run / "tokenizer.json")
    net = Hunyuan.from_checkpoint(checkpoint).to(place)
    text = sys.stdin.read() if prompt == "-" else prompt
    text = text.encode("utf-8", errors="replace").decode("utf-8")  # an argument that is not UTF-8 holds half characters
    prompt_ids = tokenizer.encode(text) or [tokenizer.eos_id]  # the end of one text is the start of the next
    generator = torch.Generator(place).manual_seed(seed)
    measured = GenerationStats()
    stream, pieces, ids = tokenizer.stream(), [], []

    def show(piece: str) -> None:
        pieces.append(piece)
        if format == "text" and piece:
            typer.echo(piece, nl=False)
            sys.stdout.flush()

    if format == "text":
        typer.echo(text, nl=False)
    try:
        for token in generate(
            net,
            prompt_ids,
            max_new_tokens=tokens,
            sampling=sampling,
            generator=generator,
            end_id=tokenizer.eos_id,
            stats=measured,
        ):
            ids.append(token)
            show(stream.step(token))
        show(stream.finish())
    finally:
        if format == "text":
            typer.echo()
    facts = measured.to_dict()
    if format == "json":
        document: dict[str, Any] = {"prompt": text, "text": "".join(pieces), "token_ids": ids}
        emit(document | facts, format="json", output=output)
    if stats:
        speed = facts["decode_tokens_per_second"]
        per_second = f"{speed:,.0f} tokens/s" if isinstance(speed, float) else "no decode step"
        stderr(
            f"{measured.prompt_tokens} prompt tokens in {measured.prefill_seconds:.3f} s, {measured.new_tokens} new in "
            f"{measured.decode_seconds:.3f} s ({per_second}), cache "
            f"{measured.cache_bytes:,} bytes, stop: {measured.stop_reason}"
        )
