"""What `hunyuan infer` takes from the folder of a model beside its weights, and what it says about it."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from tests.checkpoint.folders import tensors_in
from tests.cli.speaking import write_released

PROMPT = "the router"


def test_weights_that_are_there_twice_are_told_of(infer, tmp_path):
    folder = write_released(tmp_path / "twice")
    save_file(tensors_in(folder), folder / "model.safetensors", metadata={"format": "pt"})
    status, out, err = infer(PROMPT, "--checkpoint", folder, "--tokens", 3)
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith(f"{folder} holds both model.safetensors and model.safetensors.index.json: model.safetensors")
    for path in folder.glob("model-*"):
        path.unlink()
    assert infer(PROMPT, "--checkpoint", folder, "--tokens", 3)[1] == out


# --- how many new tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder_says", "asked", "expected", "source"),
    [
        (None, (), 62, "the default"),  # 128, but the context ends
        ({"max_new_tokens": 7}, (), 7, "generation_config.json"),
        ({"max_new_tokens": 7}, ("--tokens", 5), 5, "--max-new-tokens"),
        ({"max_new_tokens": 7}, ("--tokens", 9), 9, "--max-new-tokens"),
        ({"max_new_tokens": 5000}, (), 62, "generation_config.json"),
        ({"max_new_tokens": None}, ("--tokens", 3), 3, "--max-new-tokens"),
    ],
)
def test_the_folder_says_how_many_tokens_and_the_command_goes_before_it(
    infer, run, tmp_path, folder_says, asked, expected, source
):
    folder = shutil.copytree(run, tmp_path / "own")
    if folder_says is not None:
        (folder / "generation_config.json").write_text(json.dumps(folder_says))
    status, out, err = infer(PROMPT, "--checkpoint", folder, "--format", "json", "--stats", *asked)
    document = json.loads(out)
    assert (status, document["new_tokens"], document["stop_reason"]) == (0, expected, "length")
    limit = {"the default": 128, "--max-new-tokens": expected}.get(source) or folder_says["max_new_tokens"]
    assert (document["max_new_tokens"], document["max_new_tokens_source"]) == (limit, source)
    assert err.splitlines()[-1] == f"at most {limit:,} new tokens, by {source}"


def test_a_number_of_ones_own_that_the_context_has_no_room_for_is_refused(infer, run):
    status, out, err = infer(PROMPT, "--checkpoint", run, "--tokens", 63)
    assert (status, out) == (1, "") and "lower --max-new-tokens to 62" in err
