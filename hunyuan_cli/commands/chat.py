"""`hunyuan chat`: a conversation with a model, in turns."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hunyuan_cli.console import stderr
from hunyuan_cli.options.common import Device, Seed
from hunyuan_cli.views.chat import Talk
from hunyuan_cli.views.generation import (
    DEFAULT_EXPERT_CACHE,
    Checkpoint,
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
)

Load = Annotated[
    Path | None, typer.Option("--load", exists=True, dir_okay=False, help="Go on with a saved conversation.")
]
Save = Annotated[
    Path | None, typer.Option("--save", dir_okay=False, help="Keep the conversation here after every turn.")
]


def chat(
    *,
    checkpoint: Checkpoint,
    system: System = None,
    load: Load = None,
    save: Save = None,
    max_new_tokens: NewTokens = 512,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = 0,
    stop: Stop = None,
    dtype: DType = None,
    device: Device = "auto",
    experts: ExpertsAt = "memory",
    expert_cache: ExpertCache = DEFAULT_EXPERT_CACHE,  # type: ignore[assignment]
    stats: Stats = False,
) -> None:
    """Talk with a model: a line is a message, /help shows what else can be done.

    Example: hunyuan chat --checkpoint runs/first --temperature 0.7 --save talk.json
    """
    from model.generation.conversation import Conversation
    from model.generation.defaults import GenerationDefaults, merge
    from model.generation.stopping import StopStrings

    choices: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    choices |= {"repetition_penalty": repetition_penalty}
    merge(GenerationDefaults(), **choices)  # a wrong value is told before the weights are read
    StopStrings(stop or [])
    conversation = Conversation.load(load) if load else Conversation()
    if system is not None:
        conversation.set_system(system)
    engine = open_engine(checkpoint, dtype=dtype, device=device, experts=experts, expert_cache=expert_cache)
    if not engine.has_template:
        stderr("this folder brings no chat template: a plain transcript of User: and Assistant: stands in")
    talk = Talk(engine, conversation, merge(engine.defaults, **choices))
    talk.max_new_tokens, talk.seed, talk.stop, talk.save_to, talk.stats = max_new_tokens, seed, stop or [], save, stats
    talk.run()
