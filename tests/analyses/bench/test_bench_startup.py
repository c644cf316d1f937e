"""analyses/bench/startup.py: the ratios of known times, and processes that really run."""

import sys

import pytest

from analyses.bench.startup import Run, _table, startup_table
from model.errors import HunyuanError


def test_ratios_are_medians_of_the_rounds_ratios():
    runs = {
        "python": [Run(1.0, 1.0), Run(2.0, 1.0), Run(4.0, 2.0)],
        "hunyuan": [Run(10.0, 8.0), Run(22.0, 9.0), Run(36.0, 12.0)],
    }
    first, ours = _table(runs).to_dict("records")
    assert (first["command"], first["of_python"], first["cpu_of_python"]) == ("python", 1.0, 1.0)
    assert ours == {
        "command": "hunyuan",
        "least_seconds": 10.0,
        "seconds": 22.0,
        "least_cpu_seconds": 8.0,
        "cpu_seconds": 9.0,
        "of_python": 10.0,  # of 10/1, 22/2, 36/4; of the medians it were 11
        "cpu_of_python": 8.0,  # of 8/1, 9/1, 12/2; of the medians it were 9
    }


def test_processor_seconds_are_those_of_the_process_that_ran(tmp_path):
    """A process that sleeps uses the clock; one that computes, the processor."""
    sleeps, computes = "import time; time.sleep(0.5)", "import time\nwhile time.process_time() < 0.5: pass"
    log = tmp_path / "turns"
    note = f"; open({str(log)!r}, 'a').write"
    lines = {
        "sleeps": [sys.executable, "-c", f"{sleeps}{note}('s')"],
        "computes": [sys.executable, "-c", f"{computes}\nopen({str(log)!r}, 'a').write('c')"],
    }
    done = []
    sleeping, computing = startup_table(lines, rounds=2, progress=done.append).to_dict("records")
    assert (log.read_text(), done) == ("scsc", [1, 1, 1, 1])  # in turns
    assert sleeping["least_seconds"] >= 0.5 > sleeping["least_cpu_seconds"]
    assert computing["least_cpu_seconds"] >= 0.5


def test_a_command_that_fails_is_no_time():
    with pytest.raises(HunyuanError, match="'broken' ends with status 3"):
        startup_table({"broken": [sys.executable, "-c", "raise SystemExit(3)"]}, rounds=1)
