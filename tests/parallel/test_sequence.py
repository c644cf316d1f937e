"""Context parallelism against the model that has the whole sequence: losses, gradients, routing, on 2 and 4 processes."""

import pytest
import torch
import torch.distributed as dist

from model.config import HunyuanConfig
from model.moe.place_keys import routing_key
from model.parallel.places import route_together
from model.parallel.sequence import in_order, part_of, parts_of, split_sequences
from model.training.config import TrainingConfig
from model.training.prepare import prepare
from model.transformer import Hunyuan

SMALL = HunyuanConfig.from_dict(
    {
        "vocab_size": 61, "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 12, "num_experts": 4, "num_shared_expert": 1, "moe_topk": 1,
        "cla_share_factor": 1, "initializer_range": 0.1, "router_aux_loss_coef": 0.1,
    }
)  # fmt: skip
VARIANTS = {
    "MHA": {"num_key_value_heads": 4},
    "GQA": {},
    "MQA": {"num_key_value_heads": 1},
    "GQA and CLA 2": {"cla_share_factor": 2},
    "CLA 3, dense, untied": {"cla_share_factor": 3, "num_experts": 1, "num_shared_expert": 0, "tie_word_embeddings": False},
    "plain queries and keys": {"use_qk_norm": False, "router_z_loss_coef": 0.1},
    "drop, top-2": {"moe_routing": "drop", "capacity_factor": 1.0, "moe_topk": 2, "cla_share_factor": 2},
    "recycle": {"moe_routing": "recycle", "capacity_factor": 1.0, "cla_share_factor": 2},
}  # fmt: skip
BATCH, TOKENS = 2, 32


def step(config, group, *, recompute, documents):
    """Of one forward and backward pass: loss, routing loss, choices that found no place or another, every gradient."""
    generator = torch.Generator().manual_seed(0)
    net = Hunyuan(config, generator).train()
    prepare(net, TrainingConfig(recompute=recompute, precision="float32"), torch.device("cpu"))
    if group is not None:
        route_together(net, group, split_sequences(net, group, recompute=recompute))
    ids, labels = (torch.randint(config.vocab_size, (BATCH, TOKENS), generator=generator) for _ in range(2))
    labels[0, : TOKENS // 3] = -100
    document_ids = (ids < 6).cumsum(dim=1) if documents else None
    out = net(ids, labels, routing_key=routing_key(0), document_ids=document_ids)
    (out.loss + out.aux_loss).backward()
    moved = torch.zeros(2) if out.stats is None else torch.stack([out.stats.dropped.sum(), out.stats.recycled.sum()])
    return [out.loss.detach(), out.aux_loss.detach(), moved.float(), *(p.grad for p in net.parameters())]


def summed_steps(rank, configs, cases):
    """On a rank: what its steps come to, added up over all ranks."""
    found = []
    for config in configs:
        for recompute, documents in cases:
            values = step(config, dist.group.WORLD, recompute=recompute, documents=documents)
            total = torch.cat([value.flatten() for value in values])
            dist.all_reduce(total)
            parts = total.split([value.numel() for value in values])
            found.append([part.view_as(value) for part, value in zip(parts, values, strict=True)])
    return found if rank == 0 else None


CASES = [(False, False), (True, False), (False, True), (True, True)]  # recomputed, documents kept apart


@pytest.mark.parametrize(
    ("processes", "variants"),
    [(2, list(VARIANTS)), (4, ["MHA", "GQA and CLA 2", "drop, top-2", "recycle"])],
    ids=["2", "4"],
)
def test_the_parts_sum_to_the_whole(ranks, processes, variants):
    """To 1e-6 of the norm of all gradients, and each gradient to 1e-5 of its own: some are sums of what nearly cancels."""
    configs = [SMALL.replace(**VARIANTS[variant]) for variant in variants]
    found = iter(ranks(processes).run(summed_steps, configs, CASES)[0])
    for variant, config in zip(variants, configs, strict=True):
        for recompute, documents in CASES:
            parts, whole = next(found), step(config, None, recompute=recompute, documents=documents)
            assert torch.equal(parts[2], whole[2]), variant
            if config.moe_routing != "dropless":
                assert whole[2].sum() > 0
            for one, other in zip(parts, whole, strict=True):
                assert (one - other).norm() <= 1e-5 * other.norm(), variant
            all_parts, all_whole = (torch.cat([value.flatten() for value in values]) for values in (parts, whole))
            assert (all_parts - all_whole).norm() <= 1e-6 * all_whole.norm(), variant


def evaluated(rank, config, tokens):
    del rank
    net = Hunyuan(config, torch.Generator().manual_seed(0)).eval()
    ids = torch.arange(BATCH * tokens).view(BATCH, tokens) * 7 % config.vocab_size
    with torch.no_grad():
        whole = net(ids, ids).loss
        split_sequences(net, dist.group.WORLD, recompute=False)
        part = net(ids, ids).loss
    dist.all_reduce(part)
    return float(whole), float(part)


def test_an_evaluated_row_may_have_any_length(ranks):
    for tokens in (32, 13, 3):
        for whole, part in ranks(4).run(evaluated, SMALL, tokens):
            assert part == pytest.approx(whole, rel=1e-6)


def refused(rank, config):
    del rank
    net = Hunyuan(config).train()
    split_sequences(net, dist.group.WORLD, recompute=False)
    ids = torch.zeros(1, 6, dtype=torch.int64)
    messages = []
    for given in ({"labels": ids}, {}, {"labels": ids[:, :4], "reduction": "none"}):
        with pytest.raises(ValueError) as caught:
            net(ids if len(given) < 2 else ids[:, :4], **given)
        messages.append(str(caught.value))
    net.attention_dropout = 0.1
    with pytest.raises(ValueError, match="attention dropout"):
        net(ids[:, :4], ids[:, :4], routing_key=routing_key(0))
    return messages


def test_what_cannot_be_shared_out_is_said(ranks):
    uneven, *others = ranks(2).run(refused, SMALL)[0]
    assert uneven == "6 tokens cannot be shared out: take a multiple of 4"
    assert all("with context parallelism the model gives the mean loss of whole rows" in other for other in others)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_process_has_an_early_and_a_late_chunk(processes):
    """Taken apart and put together, and as many scores for each."""
    whole = torch.arange(2 * 48).view(2, 48)
    parts = parts_of(whole, processes)
    assert torch.equal(in_order(parts), whole)
    chunk = 48 // processes // 2
    assert parts[0, 0, :chunk].tolist() == list(range(chunk))
    assert parts[0, 0, chunk:].tolist() == list(range(48 - chunk, 48))
    scores = {int((part_of(whole[:1], process, processes) + 1).sum()) for process in range(processes)}
    assert scores == {48 * 49 // 2 // processes}
