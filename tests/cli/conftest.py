"""What several files of command-line tests share."""

import pytest

from tests.analyses.isoflop_data import study, write_csv


@pytest.fixture
def clean(tmp_path):
    """The file of a scaling study with nothing wrong in it."""
    return write_csv(tmp_path / "clean.csv", study(noise=1e-3))
