"""One rank dies, raises, hangs or finds the disk full: all end, one failure is told, and the run goes on to the same end."""

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import failing
import pytest
from pool import Pool
from runs import run_on_ranks, settings_of

from model.checkpoint.run import find_damage, newest_intact, steps_saved
from model.parallel.layout import Layout
from model.training.settings import RunSettings

LAYOUT = Layout(processes=2, expert_parallel=2)
DRAW = random.Random(13)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """Those of a run of the tiny model, 8 steps, saved at 4 and 8."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(" ".join(f"{number * number % 97} foxes jump" for number in range(3000)))
    return settings_of(folder / "text.txt", folder / "cache")


@pytest.fixture(scope="module")
def uninterrupted(
    ranks: Callable[[int], Pool], settings: RunSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Any], dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    ranks(2).run(run_on_ranks, folder, settings, LAYOUT)
    return what_it_came_to(folder)


def what_it_came_to(folder: Path) -> tuple[list[Any], dict[str, bytes]]:
    """The lines of the log without times, and the files with the weights and moments of the last checkpoint."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"tokens_per_second", "seconds", "mfu"}
    files = newest_intact(folder)[0].glob("*.safetensors")
    rows = [{key: value for key, value in row.items() if key not in timed} for row in rows]
    return rows, {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("rank", "fails", "step", "kind", "what"),
    [
        (DRAW.randrange(2), failing.die, DRAW.randrange(8), "died", "died"),
        (DRAW.randrange(2), failing.die_while_saving, DRAW.randrange(4, 8), "died", "died"),
        (1, failing.bug, 5, "raised", "ValueError: a bug"),
        (0, failing.sleep, 5, "hung", "hung for 3 s (at model/training/"),
        (1, failing.stop, 5, "hung", "gave no sign of life for"),
        (1, failing.fill_the_disk, 5, "mistake", "free some space and resume; the checkpoint of step 4"),
    ],
    ids=["dies", "dies while saving", "raises", "hangs", "stopped", "full disk"],
)  # fmt: skip
def test_all_end_with_one_failure_and_the_run_goes_on_to_the_same_end(
    ranks: Callable[[int], Pool], settings: RunSettings, uninterrupted: tuple[list[Any], dict[str, bytes]],
    tmp_path: Path, rank: int, fails: Callable[[], None], step: int, kind: str, what: str,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    told, statuses = failing.run_until_one_fails(folder, settings, LAYOUT, rank, step, fails, False)
    assert [(failure.rank, failure.kind) for failure in told] == [(rank, kind)]
    assert what in told[0].what
    assert 0 not in statuses
    assert (statuses[rank] == -signal.SIGKILL) == (kind == "died" or fails is failing.stop)
    assert steps_saved(folder) == ([4] if step >= 4 else [])
    assert not [path for path in (folder / "checkpoints").glob("step-*") if find_damage(path)]
    ranks(2).run(run_on_ranks, folder, settings, LAYOUT, True)
    assert what_it_came_to(folder) == uninterrupted
