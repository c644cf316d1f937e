"""How the tests of `hunyuan scale-fit` run it."""

import json

from hunyuan_cli.main import run

FAST = ("--resamples", "100")


def fit(capsys, path, *arguments, status=0):
    """The document, and the lines on standard error."""
    assert run(["scale-fit", str(path), "--format", "json", *FAST, *arguments]) == status
    out, err = capsys.readouterr()
    return json.loads(out), err.splitlines()
