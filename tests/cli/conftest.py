"""What several files of command-line tests share."""

import pytest

from hunyuan_cli import main
from tests.analyses.scaling.isoflop_data import study, write_csv
from tests.cli.speaking import write_released, write_run


@pytest.fixture
def clean(tmp_path):
    """The file of a scaling study with nothing wrong in it."""
    return write_csv(tmp_path / "clean.csv", study(noise=1e-3))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run folder that can speak, to be read alone."""
    return write_run(tmp_path_factory.mktemp("speaking") / "run")


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A Hugging Face folder that can speak, to be read alone."""
    return write_released(tmp_path_factory.mktemp("speaking") / "released")


@pytest.fixture
def infer(capfd):
    """infer(...) -> (status, stdout, stderr)."""

    def call(*arguments):
        capfd.readouterr()
        status = main.run(["infer", *map(str, arguments)])
        return status, *capfd.readouterr()

    return call
