"""analyses/bench/worker.py: contenders in processes of their own, and what the asker is told when one fails."""

import multiprocessing
import sys

import pytest
import torch

from analyses.bench.training import Workload, _contender, _peer_step
from analyses.bench.worker import machine, worker
from model.config import HunyuanConfig
from model.errors import ConfigError, HunyuanError, MissingExtraError

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4,
}  # fmt: skip
TINY = Workload(HunyuanConfig(**SIZES), batch=2, sequence_length=16, threads=1)
NO_TRANSFORMERS = (
    "the peer in the benchmark needs the package 'transformers': install it with pip install 'hunyuan[hf]'"
)


def test_a_peer_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError) as caught:
        _peer_step(TINY, "transformers eager float32", torch.zeros(2, 17, dtype=torch.int64), torch.device("cpu"))
    assert str(caught.value) == NO_TRANSFORMERS


def refuse(name, work, build=_contender):
    """The error that the process of a contender hands over."""
    with pytest.raises(Exception) as caught, worker(name, work, build):
        raise AssertionError("the contender should not have become ready")
    assert multiprocessing.active_children() == []
    return caught.value


def without_onednn(name, work, device):
    from model.kernels import onednn

    onednn.ONEDNN = False
    return _contender(name, work, device)


def test_a_shape_that_cannot_be_trained_is_the_contenders_own_sentence():
    work = Workload(HunyuanConfig(**SIZES | {"hidden_size": 36}), threads=1)
    error = refuse("hunyuan bfloat16", work, without_onednn)
    assert type(error) is ConfigError
    assert str(error) == "model.hidden_size is 36: in bfloat16 the experts need a multiple of 8 on cpu"


@pytest.fixture
def transformers_module(tmp_path, monkeypatch):
    """Puts a module of this source in the place of transformers, in spawned processes too: they are given sys.path."""

    def write(source):
        (tmp_path / "transformers.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return write


def test_a_peer_that_is_not_installed_is_told_across_processes(transformers_module):
    transformers_module("raise ImportError('No module named transformers')")
    error = refuse("transformers eager float32", TINY)
    assert type(error) is MissingExtraError
    assert str(error) == NO_TRANSFORMERS


def test_a_contender_that_breaks_is_one_sentence_that_names_it(transformers_module):
    transformers_module("raise RuntimeError('no kernel\\n   for this')")
    error = refuse("transformers eager float32", TINY)
    assert type(error) is HunyuanError
    assert str(error) == "transformers eager float32 cannot run here (no kernel for this): leave it out"


def test_a_process_that_ends_is_named(transformers_module):
    transformers_module("import os; os._exit(3)")
    error = refuse("transformers eager float32", TINY)
    assert str(error) == "the process of 'transformers eager float32' ended early"


def _interrupts_itself(name, work, device):
    import os
    import signal

    return lambda: os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_does_not_reach_the_process_of_a_contender():
    """A terminal sends it to the whole group: this process is the one that answers."""
    with worker("any", TINY, _interrupts_itself) as ask:
        seconds, _ = ask(3)
    assert len(seconds) == 3


def test_a_gpu_is_named_and_its_precision(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"the card {device}")
    assert machine("cuda:1") == {
        "device": "cuda:1", "torch": torch.__version__, "card": "the card cuda:1", "precision": "bfloat16",
    }  # fmt: skip
    assert machine("cpu") == {"device": "cpu", "torch": torch.__version__}
