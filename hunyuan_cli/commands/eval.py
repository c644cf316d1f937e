"""`hunyuan eval`: what a model can do, on lm-eval's tasks and on long texts."""

from hunyuan_cli.console import stderr
from hunyuan_cli.options import evaluation as options
from hunyuan_cli.options.common import Device, Format, Output, Plot
from hunyuan_cli.options.generation import DType


def eval(
    model: options.EvaluatedModel,
    *,
    tasks: options.Tasks,
    task_data: options.TaskData = None,
    lengths: options.Lengths = None,
    samples: options.Samples = 20,
    limit: options.Limit = None,
    shots: options.Shots = None,
    seed: options.EvaluationSeed = 1234,
    chat: options.Chat = False,
    max_new_tokens: options.MostNewTokens = None,
    truncate: options.Truncate = "left",
    allow_weaker_confinement: options.WeakerConfinement = False,
    judge: options.Judge = None,
    judge_model: options.JudgeModel = None,
    judge_key_env: options.JudgeKey = "",
    judge_concurrency: options.JudgeConcurrency = 16,
    batch_size: options.BatchSize = 32,
    dtype: DType = None,
    device: Device = "auto",
    out: options.Out = None,
    against: options.Against = None,
    plot: Plot = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Score a model on benchmarks, each score with its interval, number of examples and template.

    Example: hunyuan eval runs/first --tasks ruler --lengths 256,512,1K --samples 10 --out runs/first/ruler --plot ruler.png

    Offline: hunyuan eval runs/first --tasks gsm8k,arc_challenge --task-data benchmarks/ --limit 200 --out scores/first

    Two models: hunyuan eval runs/second --tasks gsm8k --task-data benchmarks/ --limit 200 --against scores/first
    """
    from hunyuan_cli.views.evaluation import asked_model, draw, judge_client, show, stage
    from model.evaluation.evaluate import Evaluation, evaluate, results_of
    from model.evaluation.record import Record, read_results

    asked = Evaluation(
        tasks=tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip())),
        task_data=task_data,
        lengths=options.lengths_of(lengths),
        samples=samples,
        limit=limit,
        shots=shots,
        seed=seed,
        chat=chat,
        max_new_tokens=max_new_tokens,
        unconfined=allow_weaker_confinement,
    )
    if against is not None:
        read_results(against)  # a mistake is told before the work
    with (
        asked_model(model, out, dtype=dtype, device=device, truncate=truncate, batch_size=batch_size) as answering,
        judge_client(judge, judge_model, judge_key_env, judge_concurrency, out) as client,
    ):
        record = Record(out)
        rows = evaluate(answering, asked, record, stage, client)
        results = results_of(answering, str(model), asked, rows)
    record.finish(results)
    for note in answering.notes:
        stderr(note)
    show(results, record, out, against=against, format=format, output=output)
    if plot is not None:
        draw(str(model), record, against, plot)
