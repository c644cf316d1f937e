"""The likelihood ratio of a response, against the model asked by hand."""

import pytest
import torch

from model.data.synthesis.critique import LikelihoodRatio
from model.generation.engine import Engine
from tests.cli.speaking import CONTEXT, write_released, write_run


@pytest.fixture(scope="module", params=[write_run, write_released], ids=["run", "released"])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("critic") / "model")


def test_it_is_the_mean_difference_of_log_probabilities(folder):
    engine = Engine.from_folder(folder)
    answer = engine.tokenizer.encode("every expert")
    sums = []
    for question in ("the router", ""):
        prompt = engine.reply([{"role": "user", "content": question}], max_new_tokens=1).prompt
        with torch.inference_mode():
            logits = engine.net.eval()(torch.tensor([[*prompt, *answer]])).logits[0]
        logps = logits.float().log_softmax(-1)
        sums.append(sum(float(logps[len(prompt) + place - 1, token]) for place, token in enumerate(answer)))
    found = LikelihoodRatio(folder, "cpu").score("the router", "every expert")
    assert found == pytest.approx((sums[0] - sums[1]) / len(answer), abs=1e-4) and abs(found) > 1e-3


def test_an_empty_question_explains_nothing_and_what_has_no_room_is_not_scored(folder):
    ratio = LikelihoodRatio(folder, "cpu").score
    assert ratio("", "each token") == pytest.approx(0, abs=1e-6)
    assert ratio("the router", "") == 0 and ratio("the router " * CONTEXT, "x") == 0
    assert ratio("the router", "every expert " * CONTEXT) != 0  # its beginning is read
