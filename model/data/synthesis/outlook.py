"""What a synthesis would ask of its endpoints, before anything is sent: requests, tokens, and the price.

A stage whose input is there is counted as it is, but for the length of its replies. A later one is made of what is not written
yet: its requests are counted about, each as long as a typical one.
"""

from collections.abc import Iterable
from typing import Any

from model.data.synthesis.endpoint import EndpointWriter
from model.data.synthesis.pipeline import Synthesis
from model.data.synthesis.prompted import PromptedWriter, request_of
from model.data.synthesis.record import STAGES
from model.data.synthesis.writer import Request
from model.endpoint.client import Estimate

TYPICAL = Request("", ({"role": "user", "content": "x" * 800},))  # stands for a prompt that is not written yet


def outlook(synthesis: Synthesis, stages: Iterable[int]) -> list[dict[str, Any]]:
    """A row for each of stages 1 to 3 and each endpoint that it asks: requests, cached, tokens and costs."""
    rows = []
    endpoints = {name: author.writer for name, author in synthesis.authors.items() if isinstance(author, PromptedWriter)
                 and isinstance(author.writer, EndpointWriter)}  # fmt: skip
    for stage in (stage for stage in stages if stage < len(STAGES)):
        exact = synthesis.has_input(stage)
        for name in sorted(endpoints.keys() & synthesis.asked(stage)):
            if exact:
                units = (unit for unit in synthesis.units(stage) if synthesis.author_of(unit) == name)
                estimate, times = endpoints[name].estimate(request_of(unit) for unit in units), 1
            else:
                estimate, times = endpoints[name].estimate([TYPICAL]), synthesis.expected(stage)
            rows.append({"stage": STAGES[stage - 1], "writer": name, "exact": exact, **_row(estimate, times)})
    return rows


def _row(estimate: Estimate, times: int) -> dict[str, Any]:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value * times

    return {
        "requests": estimate.requests * times, "cached": estimate.cached * times,
        "prompt_tokens": estimate.prompt_tokens * times, "most_completion_tokens": estimate.most_completion_tokens * times,
        "prompt_cost": scaled(estimate.prompt_cost), "most_cost": scaled(estimate.most_cost), "spent": estimate.spent,
    }  # fmt: skip
