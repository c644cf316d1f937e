"""One step of preferences on the same weights in transformers' class and in ours: log-probabilities, loss and gradients."""

import os

import pytest
import torch

from model import Hunyuan
from model.posttraining.batch import collate_preference
from model.posttraining.dpo import dpo_loss
from model.posttraining.logps import token_logps
from tests.oracles.released import A13B, random_tensors, write_folder

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", minversion="5.0")


def answers():
    """Three pairs of several lengths, so that rows are padded."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda count: torch.randint(3, 61, (count,), generator=generator).tolist()  # noqa: E731
    sizes = ((5, 4, 7), (3, 6, 2), (8, 1, 3))
    return [{"prompt_ids": draw(p), "chosen_ids": draw(c), "rejected_ids": draw(r)} for p, c, r in sizes]


def test_a_step_is_that_of_transformers_class(tmp_path):
    write_folder(tmp_path, A13B, random_tensors(A13B, seed=0))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = Hunyuan.from_checkpoint(tmp_path).float()
    batch = collate_preference(answers(), pad_id=0)
    mask = batch.completion_mask.bool()

    logits = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits[:, :-1].float()
    gathered = logits.log_softmax(-1).gather(2, batch.input_ids[:, 1:, None]).squeeze(2)
    expected = torch.where(mask[:, 1:], gathered, 0.0)
    found = token_logps(ours, batch.input_ids, mask).logps
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    losses = []
    for logps in (expected, found):
        chosen, rejected = logps.sum(1).chunk(2)
        reference_chosen, reference_rejected = chosen.detach() + 1.0, rejected.detach() - 2.0  # a policy that moved
        loss = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.3).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    wanted, got = dict(theirs.named_parameters()), dict(ours.named_parameters())
    pairs = {"model.embed_tokens.weight": "embed_tokens.weight", "model.norm.weight": "norm.weight"}
    for theirs_name, ours_name in pairs.items():
        assert wanted[theirs_name].grad.abs().max() > 1e-3
        torch.testing.assert_close(got[ours_name].grad, wanted[theirs_name].grad, atol=5e-5, rtol=0)
