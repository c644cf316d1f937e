"""The options of `hunyuan infer` and `hunyuan chat`: those that both have, then those of infer, then those of chat."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hunyuan_cli.options.sizes import parse_bytes

Checkpoint = Annotated[
    Path, typer.Option("--checkpoint", help="A run folder, one of its checkpoints, or a Hugging Face folder.")
]
NewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", "--tokens", min=1,
        help="Most new tokens. By default what the folder says, or else 128 of a text and 512 of an answer in a chat.",
    ),
]  # fmt: skip
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0.0, help="0 is greedy; about 0.8 is lively. By default what the folder says."),
]
TopK = Annotated[int | None, typer.Option("--top-k", min=0, help="Sample from the k likeliest tokens; 0 is all.")]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", help="Sample from the likeliest tokens that hold this probability; 1 is all."),
]
MinP = Annotated[
    float | None,
    typer.Option(
        "--min-p", help="Sample from tokens of at least this share of the likeliest one's probability; 0 is all."
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", help="Above 1 lowers tokens that are in the text already; 1 is off."),
]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text appears; repeatable.")
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message for the chat template.")]
Thinking = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking", help="Set enable_thinking for the chat template. By default the template decides."
    ),
]
DType = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Precision of weights and cache; by default that of the files."),
]
Weights = Annotated[
    Literal["int8"] | None,
    typer.Option(
        "--weights",
        help="int8 stores attention and experts in half the bytes of bfloat16, with a scale a channel. On a processor it is "
        "faster with --dtype bfloat16, and slower without.",
    ),
]
ExpertsAt = Annotated[
    Literal["memory", "disk"],
    typer.Option("--experts", help="disk reads routed experts from the files as tokens choose them."),
]
ExpertCache = Annotated[
    int,
    typer.Option(
        "--expert-cache", parser=parse_bytes, metavar="BYTES", help="Memory for experts on disk, such as 2GB."
    ),
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="On a processor, compile the step of one sequence: half a minute, then several times faster. "
        "On a GPU steps are recorded without it.",
    ),
]
Stats = Annotated[bool, typer.Option("--stats", help="Speed, cache and first token on standard error.")]
DEFAULT_EXPERT_CACHE = "1GB"


def sampling_choices(stop: list[str] | None, **choices: float | None) -> dict[str, Any]:
    """What the command line says about sampling, after a look at it: a wrong value is told before weights are read."""
    from model.generation.defaults import GenerationDefaults, merge
    from model.generation.stopping import StopStrings

    merge(GenerationDefaults(), **choices)  # type: ignore[arg-type]
    StopStrings(stop or [])
    return choices


# --- infer -----------------------------------------------------------------------------------------------------------

Texts = Annotated[
    list[str] | None, typer.Argument(help="Texts to continue; '-' reads one from standard input.", show_default=False)
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts", exists=True, dir_okay=False,
        help="A txt file, a prompt a line, or jsonl: objects with a prompt, or with messages and what goes with them "
        "(tools, chat_template_kwargs).",
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

# --- chat ------------------------------------------------------------------------------------------------------------

Load = Annotated[
    Path | None, typer.Option("--load", exists=True, dir_okay=False, help="Go on with a saved conversation.")
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save", dir_okay=False,
        help="Keep the conversation here after every turn: in a new file, or in the one of --load.",
    ),
]  # fmt: skip
