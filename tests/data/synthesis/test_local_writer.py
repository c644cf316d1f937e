"""The writer that asks a model of this machine: answers by seed, id and sample, whatever else is asked."""

import pytest

from model.data.synthesis.local import LocalWriter, fingerprint, own_seed
from model.data.synthesis.local_config import LocalConfig
from model.data.synthesis.writer import Request
from model.errors import HunyuanError
from model.generation.engine import Engine
from model.generation.generate import generate_batch
from model.generation.sampling import Sampling
from tests.cli.speaking import write_released, write_run

SETTINGS = {"max_tokens": 8, "temperature": 0.9, "batch_size": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("speaking")
    return {"run": write_run(place / "run"), "released": write_released(place / "released")}


def wanted(count, sample=0, content="say {}"):
    return [Request(f"r{n}", ({"role": "user", "content": content.format(n)},), sample) for n in range(count)]


def texts(writer, requests):
    return {(reply.id, reply.finish): reply.text for reply in writer.write(requests)}


@pytest.mark.parametrize("kind", ["run", "released"])
def test_every_request_is_answered_as_it_would_be_alone(folders, kind):
    writer = LocalWriter("small", LocalConfig(folder=folders[kind], seed=4, **SETTINGS))
    requests = wanted(17)  # more than are read at once
    together = texts(writer, requests)
    assert len(together) == 17 and len(set(together.values())) > 10
    engine = Engine.from_folder(folders[kind])
    for request in requests[::5]:
        alone = engine.reply(request.messages, max_new_tokens=8, seed=own_seed(4, request.id, 0))
        for _ in generate_batch(
            engine.net, [alone], sampling=Sampling(temperature=0.9, top_k=engine.defaults.top_k or 0)
        ):
            pass
        finish = "length" if alone.stop_reason == "length" else "stop"
        assert together[request.id, finish] == alone.text.strip()


def test_an_answer_depends_on_seed_id_and_sample_alone(folders):
    def answers(requests, **changes):
        config = LocalConfig(folder=folders["run"], **(SETTINGS | {"seed": 1} | changes))
        return [text for _, text in sorted(texts(LocalWriter("small", config), requests).items())]

    base = answers(wanted(6))
    assert answers(wanted(6)[::-1], batch_size=2) == base
    assert answers(wanted(6, sample=1)) != base and answers(wanted(6), seed=2) != base
    other = [Request(f"other {request.id}", request.messages) for request in wanted(6)]
    assert answers(other) != base


def test_usage_is_counted_and_an_answer_that_is_cut_off_says_so(folders):
    writer = LocalWriter("small", LocalConfig(folder=folders["run"], **(SETTINGS | {"max_tokens": 2})))
    replies = list(writer.write(wanted(4)))
    assert all(reply.usage["prompt_tokens"] > 3 and 1 <= reply.usage["completion_tokens"] <= 2 for reply in replies)
    assert all((reply.finish == "length") == bool(reply.error) for reply in replies)
    assert any(reply.finish == "length" for reply in replies)


def test_a_prompt_that_is_too_long_or_cannot_be_said_fails_alone(folders):
    writer = LocalWriter("small", LocalConfig(folder=folders["released"], **SETTINGS))
    odd = Request("odd", ({"role": "assistant", "content": "I begin"},))
    long = Request("long", ({"role": "user", "content": "q" * 300},))
    found = {reply.id: reply for reply in writer.write([odd, *wanted(1), long])}
    assert {id: reply.finish == "error" for id, reply in found.items()} == {"odd": True, "r0": False, "long": True}
    assert "speak in turns" in found["odd"].error and "the model's context is 64" in found["long"].error


def test_a_folder_without_a_model_is_said_before_anything_is_asked(tmp_path):
    with pytest.raises(HunyuanError, match=str(tmp_path)):
        LocalWriter("small", LocalConfig(folder=tmp_path))


def test_a_model_is_known_by_its_weights_wherever_it_lies(tmp_path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one) != fingerprint(write_run(tmp_path / "three", initializer_range=0.31))
    first, second = (LocalWriter("a", LocalConfig(folder=one, batch_size=size)) for size in (2, 9))
    assert first.identity == second.identity and str(one) not in repr(first.identity)
