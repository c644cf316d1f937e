"""The limits of a minute, by a clock that moves only when somebody sleeps or is late."""

import random

import pytest

from model.endpoint.pace import MINUTE, Pace


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


def paced(**limits: float) -> tuple[Pace, Clock]:
    clock = Clock()
    return Pace(**limits, now=clock.now, sleep=clock.sleep), clock


def busiest_minute(times: list[float]) -> int:
    return max(sum(start <= time < start + 60 for time in times) for start in times)


@pytest.mark.parametrize("limit", [1, 7, 60, 600])
@pytest.mark.parametrize("lateness", [0.0, 0.4])
def test_no_minute_has_more_requests_than_the_limit_and_few_less(limit, lateness):
    pace, clock = paced(requests_per_minute=limit)
    generator, times = random.Random(limit), []
    while len(times) < 3 * limit + 2:
        assert pace.take(0)
        times.append(clock.time)
        clock.time += generator.random() * lateness * 60 / limit  # the sender is busy for a part of the interval
    assert busiest_minute(times) <= limit
    rate = (len(times) - 1) / (times[-1] - times[0]) * 60
    assert 0.975 * limit < rate <= limit


def test_tokens_are_counted_as_they_turn_out():
    pace, clock = paced(tokens_per_minute=6000)
    begin, used = clock.time, 0
    for _ in range(100):
        pace.take(300)
        used += 100
        pace.settle(300, 100)
    assert 0.97 * 6000 < used / (clock.time - begin) * 60 < 6000 * 1.02


def test_more_tokens_than_expected_are_waited_for():
    pace, clock = paced(tokens_per_minute=6000)
    pace.take(10)
    pace.settle(10, 1010)
    begin = clock.time
    pace.take(10)
    assert clock.time - begin == pytest.approx(1010 * MINUTE / 6000)


def test_a_pause_holds_everybody():
    pace, clock = paced()
    assert pace.take(5) and clock.time == 100.0
    pace.pause(7.0)
    pace.pause(3.0)  # the longer one counts
    assert pace.take(5) and clock.time == pytest.approx(107.0)


def test_whoever_is_stopped_takes_nothing():
    pace, clock = paced(requests_per_minute=1)
    assert pace.take(0)
    assert not pace.take(0, stopped=lambda: clock.time > 105)
    assert clock.time < 105.2
    assert pace.take(0) and clock.time == pytest.approx(100 + MINUTE)
