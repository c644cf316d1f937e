"""A small text, the plan of a tiny sweep on it, and `hunyuan sweep` as a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from small_sweep import sections, write_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The folder of the text and of the cache."""
    folder = tmp_path_factory.mktemp("sweep")
    write_text(folder / "small.txt")
    return folder


@pytest.fixture
def plan_file(home, tmp_path):
    """plan_file(sweep={"seeds": [0, 1]}, ...) -> the file of the tiny plan with these keys of its sections changed."""

    def write(**changes: dict) -> Path:
        plan = sections(home)
        for section, values in changes.items():
            plan[section] |= values
        path = tmp_path / "plan.toml"
        path.write_text(tomli_w.dumps(plan))
        return path

    return write


@pytest.fixture(scope="session")
def process():
    """process("--out", DIR, ...) -> a started `hunyuan sweep` with pipes."""
    started = []

    def start(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "hunyuan_cli.main", "sweep", *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True))
        return started[-1]

    yield start
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.fixture(scope="session")
def reference(process, home, tmp_path_factory):
    """The tiny sweep in one go, two cells beside each other with one thread each."""
    folder = tmp_path_factory.mktemp("reference") / "sweep"
    path = home / "reference.toml"
    path.write_text(tomli_w.dumps(sections(home)))
    child = process(path, "--out", folder, "--workers", 2, "--threads", 1, "--no-estimate", "--format", "csv")
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return folder, out, err
