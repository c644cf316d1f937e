"""What the tests of folders share: a tokenizer, released folders, and run folders of random weights."""

import json

import pytest
import torch

from model import Hunyuan, HunyuanConfig
from model.checkpoint.run import save_weights
from model.tokenizer.bpe import train_tokenizer
from tests.oracles.released import CASES, random_tensors, write_folder

TEXT = "the router sends each token to one expert"


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([TEXT] * 9, 290)


@pytest.fixture
def released_folder(tmp_path):
    """released_folder("large", ...) -> a folder as it is downloaded, in three shards."""

    def write(case, seed=3, shards=3, files=None, dtype=torch.float32, **changes):
        config = CASES[case] | changes
        folder = tmp_path / f"downloaded-{case}-{seed}"
        return write_folder(folder, config, random_tensors(config, seed, dtype), shards, files)

    return write


@pytest.fixture
def run_folder(tmp_path, tokenizer):
    """run_folder(moe_topk=2, ...) -> a run of a tiny toy with its tokenizer, and its model."""

    def write(with_tokenizer=True, **changes):
        sizes = {"vocab_size": 290, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "head_dim": 4,
                 "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4,
                 "cla_share_factor": 1, "initializer_range": 0.3}  # fmt: skip
        net = Hunyuan(HunyuanConfig.from_name("toy", **(sizes | changes)), torch.Generator().manual_seed(0)).eval()
        run = tmp_path / "run"
        save_weights(run, net)
        (run / "config.json").write_text(json.dumps(net.config.to_dict()))
        (run / "run.toml").touch()
        if with_tokenizer:
            tokenizer.save(run / "tokenizer.json")
        return run, net

    return write
