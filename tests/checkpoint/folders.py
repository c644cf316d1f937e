"""Looks into folders: what they hold, what the model in them computes, or the sentence with which they are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from model import Hunyuan
from model.errors import HunyuanError

INPUT_IDS = torch.randint(61, (2, 13), generator=torch.Generator().manual_seed(0))


def tensors_in(folder):
    """Every tensor of a folder; each name is in one file only."""
    parts = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    tensors = {name: tensor for part in parts for name, tensor in part.items()}
    assert len(tensors) == sum(map(len, parts))
    return tensors


def config_in(folder):
    return json.loads((folder / "config.json").read_text())


@torch.no_grad()
def logits(folder, input_ids=INPUT_IDS):
    return Hunyuan.from_checkpoint(folder)(input_ids).logits


def refusal(folder):
    """The kind of error and the one sentence with which a folder is refused."""
    with pytest.raises(HunyuanError) as caught:
        Hunyuan.from_checkpoint(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return caught.type, sentence
