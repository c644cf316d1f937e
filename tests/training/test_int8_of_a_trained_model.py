"""What int8 weights change in a model that has learned something: bits per byte of held-back text, and logits."""

import torch

from model.checkpoint.load import load_model
from model.data.corpus import prepare_corpus
from model.int8_weights import to_int8
from model.training.pretraining import Pretraining
from model.transformer import Hunyuan


def test_bits_per_byte_and_logits_of_a_trained_model(pretrain, settings, tmp_path):
    changes = ("training.steps=120", "training.precision=float32", "training.evaluation_tokens=2048")
    before = pretrain(*changes).summary["val_bits_per_byte"]
    made = settings(*changes)
    task = Pretraining(made, prepare_corpus(made.data, made.model.vocab_size), 120, torch.device("cpu"))

    def trained(dtype):
        return load_model(tmp_path / "run", Hunyuan, dtype=dtype)

    exact, half = trained(torch.float32), to_int8(trained(torch.bfloat16), "cpu")
    assert abs(task.evaluate(exact)["val_bits_per_byte"] - before) < 1e-5
    found = {dtype: task.evaluate(net)["val_bits_per_byte"] for dtype, net in (
        ("int8 in float32", to_int8(trained(torch.float32), "cpu")), ("bfloat16", trained(torch.bfloat16)),
        ("int8 in bfloat16", half),
    )}  # fmt: skip
    assert before < 1.5  # of more than 6 that an untrained model has
    assert abs(found["int8 in float32"] - before) < 1e-3, found
    assert abs(found["int8 in bfloat16"] - found["bfloat16"]) < 1e-3, found

    ids = torch.from_numpy(task.sampler.batch(0, 8))[:, :-1]
    with torch.inference_mode():
        logits = exact(ids).logits
        distance = (half(ids).logits.float() - logits).square().mean().sqrt()
    assert 0 < distance < 0.01 * logits.std()
