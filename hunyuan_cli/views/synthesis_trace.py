"""The lineage of a record for reading: the span of text, then what each stage made of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from hunyuan_cli.console import printable
from hunyuan_cli.files import line_writer
from hunyuan_cli.results import emit, result_format

if TYPE_CHECKING:
    from model.data.synthesis.record import Record
    from model.data.synthesis.trace import Lineage

SPAN_CHARS = 600  # of the source that a person is shown


def emit_lineage(lineage: "Lineage", format: str, output: Path | None) -> None:
    """As text, one step after the other; json and csv have the records."""
    if (chosen := result_format(format, output)) != "table":
        steps = [dict(step) for step in lineage.steps]
        result = {"source": lineage.source, "steps": steps, "label": lineage.label}
        emit(steps if chosen == "csv" else result, format=chosen, output=output)
        return
    with line_writer(output) as write:
        for line in _source_lines(lineage):
            write(printable(line))
        for step in lineage.steps:
            for line in _step_lines(step):
                write(printable(line))
        if lineage.label:
            write(f"planted error: {lineage.label['error']} ({lineage.label['id']})")


def _source_lines(lineage: "Lineage") -> list[str]:
    source = lineage.source
    if source is None:
        return []
    head = (
        f"source  {source['name']}, characters {source['start']:,} to {source['end']:,}, sha256 {source['sha256'][:12]}"
    )
    text = source.get("text")
    shown = ["(the text is no longer there)"] if text is None else text[:SPAN_CHARS].strip("\n").splitlines()
    return [head, *(f"    {line}" for line in shown), *(["    ..."] if text and len(text) > SPAN_CHARS else []), ""]


def _step_lines(step: "Record") -> list[str]:
    from model.data.synthesis.record import STAGES

    fate = f"dropped by {step['reasons'][0]}" if step["reasons"] else "kept"
    lines = [
        f"{STAGES[step['stage'] - 1]}  {step['id']}: {step['operation']}, {step['domain']}, "
        f"difficulty {step['difficulty']:g}, by {step['writer']}; {fate}"
    ]
    lines += [f"    {line}" for line in step["instruction"].splitlines()]
    if step["response"]:
        lines += [f"  > {line}" for line in step["response"].splitlines()]
    return [*lines, ""]
