"""The options of `hunyuan eval`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hunyuan_cli.options.sizes import parse_context, parse_list


def lengths_of(text: str | None) -> tuple[int, ...]:
    """Lengths with commas between them, such as 64,4K,256K."""
    return () if text is None else tuple(parse_list(text, parse_context))


EvaluatedModel = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run folder, one of its checkpoints, or a Hugging Face folder.", show_default=False
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        "--tasks", metavar="NAME,...",
        help="ruler or one of its 13 tasks, lveval or one of its sets, penguinscrolls, c3, cmath, alignbench, mt_bench, "
        "arena_hard, alpaca_eval; any other name is a task or group of lm-eval (extra: eval), such as mmlu,gsm8k.",
    ),
]  # fmt: skip
TaskData = Annotated[
    Path | None,
    typer.Option(
        "--task-data", metavar="DIR", file_okay=False,
        help="Read the tasks' documents from files here and fetch nothing: gsm8k/test.jsonl, ai2_arc/ARC-Challenge/*.parquet, "
        "hellaswag.jsonl. YAML files of lm-eval's kind that lie here are tasks as well.",
    ),
]  # fmt: skip
Lengths = Annotated[
    str | None,
    typer.Option(
        "--lengths", metavar="TOKENS,...",
        help="Lengths of long-context tasks, such as 64,4K,256K. By default a quarter, half and all of the model's context.",
    ),
]  # fmt: skip
Samples = Annotated[int, typer.Option("--samples", min=1, help="Samples of each generated task and length.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first documents of each task from files.")]
Shots = Annotated[
    int | None, typer.Option("--shots", min=0, help="Worked examples before each document; by default each task's own number.")
]  # fmt: skip
EvaluationSeed = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**63 - 1, help="Of worked examples and generated samples; 1234 is lm-eval's."),
]
Chat = Annotated[
    bool, typer.Option("--chat/--complete", help="Put each prompt through the model's chat template, as a user's message.")
]  # fmt: skip
MostNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer; by default each task's own number.")
]  # fmt: skip
Truncate = Annotated[
    Literal["left", "refuse"],
    typer.Option(
        "--truncate",
        help="left: a prompt that is too long loses its beginning, which is counted. refuse: the run stops.",
    ),
]
WeakerConfinement = Annotated[
    bool,
    typer.Option(
        "--allow-weaker-confinement",
        help="Run programs that the model wrote (humaneval, mbpp) also where this machine cannot confine them fully.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Texts that are generated together.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", file_okay=False,
        help="Keep results.json, samples.jsonl and figures here. Answers that are there already are not asked for again.",
    ),
]  # fmt: skip
Against = Annotated[
    Path | None,
    typer.Option(
        "--against", metavar="OTHER", exists=True, file_okay=False,
        help="Compare with another evaluation's --out folder, document by document: paired intervals.",
    ),
]  # fmt: skip
Judge = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="URL",
        help="An endpoint that speaks OpenAI's chat completions, which marks the answers of penguinscrolls, alignbench, "
        "mt_bench, arena_hard and alpaca_eval.",
    ),
]  # fmt: skip
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="What the endpoint calls the judge.")]
JudgeKey = Annotated[
    str,
    typer.Option("--judge-key-env", metavar="VARIABLE", help="The environment variable that holds the judge's key."),
]
JudgeConcurrency = Annotated[int, typer.Option("--judge-concurrency", min=1, help="Questions under way at a time.")]
