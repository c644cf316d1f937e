"""What a judge thinks of responses: scores from 1 to 10 by any model of an OpenAI-compatible endpoint (model/endpoint)."""

from collections.abc import Callable, Iterable, Iterator

from model.data.synthesis.writer import WriterStopped
from model.endpoint.client import Client
from model.endpoint.judge import Question, score_prompt, scores
from model.errors import EndpointError


class EndpointCritique:
    """A critic (filter_run.py). A reply without a score gives None, by which the record is dropped and counted.

    Pairs that no attempt brought an answer to come last, and not at all where the run is stopped: the next one asks again.
    """

    def __init__(self, client: Client, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._client, self._should_stop = client, should_stop

    def __call__(self, pairs: Iterable[tuple[int, str, str]]) -> Iterator[tuple[int, float | None]]:
        questions = (Question(number, score_prompt(instruction, response)) for number, instruction, response in pairs)
        unanswered = []
        try:
            for judgement in scores(self._client, questions, self._should_stop):
                if judgement.unanswered:
                    unanswered.append(judgement.id)
                else:
                    yield judgement.id, judgement.value
        except EndpointError as error:
            raise WriterStopped(str(error)) from error
        if not self._should_stop():
            yield from ((number, None) for number in unanswered)

    def reason(self, score: float | None) -> str:
        return "the judge gave no score" if score is None else f"the judge gives it {score:g} of 10"
