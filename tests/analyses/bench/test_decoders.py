"""analyses/bench/decoders.py: contenders that really run, what they time, and what they count."""

import dataclasses
import multiprocessing
import sys

import pytest
import torch

from analyses.bench import decoders
from analyses.bench import decoding as decode_benchmark
from analyses.bench.decoders import LIMIT, TOUCHED, DecodeWork
from analyses.bench.decoding import decode_table
from model.config import HunyuanConfig
from model.errors import HunyuanError
from model.transformer import Hunyuan

CONFIG = HunyuanConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, num_experts=4, use_qk_norm=False,
)  # fmt: skip
TINY = DecodeWork("small", CONFIG, batch=1, prompt_tokens=3, new_tokens=4, threads=1)
EIGHT = DecodeWork("large", CONFIG, batch=8, prompt_tokens=3, new_tokens=4, threads=1)
CPU = torch.device("cpu")
OURS = ["hunyuan float32", "hunyuan bfloat16"]


@pytest.mark.slow
def test_a_tiny_workload_really_runs(monkeypatch):
    monkeypatch.setattr(decode_benchmark, "contenders", lambda work, **_: [LIMIT, OURS[1]])
    row = decode_table([TINY], rounds=1).set_index("contender").loc[OURS[1]]
    assert row["least"] == row["tokens_per_second"] == row["most"] > 0
    assert 0 < row["of_bandwidth"] < 1
    assert 50e6 < row["peak_memory_bytes"] < 50e9
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("work", [TINY, EIGHT])
@pytest.mark.parametrize(
    ("name", "dtype", "compiled"),
    [
        (OURS[0], torch.float32, False),
        (OURS[1], torch.bfloat16, False),
        ("hunyuan int8", torch.bfloat16, False),
        ("hunyuan compiled bfloat16", torch.bfloat16, True),
    ],
)
def test_a_contender_generates_in_the_way_of_its_name(monkeypatch, work, name, dtype, compiled):
    from model.generation import generate

    seen, original = [], generate.generate_batch

    def generate_batch(net, requests, **options):
        seen.append((net, requests, options))
        return original(net, requests, **options | {"compiled": False})

    monkeypatch.setattr(generate, "generate_batch", generate_batch)
    turn = decoders.build(name, work, CPU)
    assert 0 < turn() < 1e5 and 0 < turn() < 1e5
    (net, requests, options), (_, again, _) = seen
    assert (net.embed_tokens.weight.dtype, net.training) == (dtype, False)
    assert net.layers[0].self_attn.q_proj.weight.dtype == (torch.int8 if name.endswith("int8") else dtype)
    assert (options["slots"], options["compiled"], options["sampling"].temperature) == (work.batch, compiled, 0)
    assert [(len(r.prompt), r.new_tokens, r.stop_reason) for r in requests] == [(3, 4, "length")] * work.batch
    assert [r.token_ids for r in requests] == [r.token_ids for r in again]  # each turn the same work


def test_the_time_is_that_after_the_first_tokens(monkeypatch):
    """A clock that a step of the batch moves by a second, and a prompt by a hundred."""
    from model.generation import generate

    clock = [0.0]

    def generate_batch(net, requests, **options):
        clock[0] += 100
        for step in range(4):
            clock[0] += step > 0
            yield from ((request, "") for request in requests)

    monkeypatch.setattr(generate, "generate_batch", generate_batch)
    monkeypatch.setattr(decoders.time, "perf_counter", lambda: clock[0])
    assert decoders.build(OURS[0], EIGHT, CPU)() == 1.0


def test_experts_touched_are_those_that_the_steps_of_the_batch_choose(monkeypatch):
    """Against the routing of the whole texts read at once, without a cache."""
    work = dataclasses.replace(EIGHT, config=CONFIG.replace(num_hidden_layers=2, num_experts=16, moe_topk=2))
    found = decoders.build(TOUCHED, work, CPU)()
    net = Hunyuan(work.config, torch.Generator().manual_seed(0)).eval()
    prompts = torch.randint(64, (8, 3), generator=torch.Generator().manual_seed(0))
    texts = prompts
    with torch.inference_mode():
        for _ in range(4):
            texts = torch.cat([texts, net(texts).logits[:, -1:].argmax(-1)], dim=1)
        seen = []
        for layer in net.layers:
            layer.mlp.router.register_forward_hook(lambda _, given, logits: seen.append(logits.view(8, -1, 16)))
        net(texts[:, :-1])
    chosen = [logits[:, place].topk(2).indices for logits in seen for place in (3, 4, 5)]
    assert found == pytest.approx(sum(len(set(index.flatten().tolist())) for index in chosen) / 6)
    assert 2 <= found < 16


def test_the_limit_answers_with_its_rate(monkeypatch):
    monkeypatch.setattr(decoders, "READ_BYTES", 1 << 22)
    assert 1e8 < decoders.build(LIMIT, TINY, CPU)() < 1e13


class Peer(torch.nn.Module):
    """transformers is an extra, so a stand-in takes its place here: a prompt takes it 100 seconds, a token two."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.asked = clock, []

    def forward(self, seconds):
        self.clock[0] += seconds

    def generate(self, *given, **options):
        self.asked.append((*given, options))
        self(100)
        for _ in range(options["max_new_tokens"] - 1):
            self(2)


def test_the_peer_generates_as_many_tokens_from_the_same_prompts(monkeypatch):
    clock = [0.0]
    peer, made = Peer(clock), []

    def peer_model(config, experts, device, dtype):
        made.append((experts, torch.get_default_dtype()))
        return peer

    monkeypatch.setattr(decoders, "peer_model", peer_model)
    monkeypatch.setattr(decoders.time, "perf_counter", lambda: clock[0])
    turn = decoders.build("transformers eager bfloat16", EIGHT, CPU)
    assert turn() == turn() == pytest.approx(1 / 2)
    assert made == [("eager", torch.bfloat16)] and torch.get_default_dtype() == torch.float32
    for prompts, options in peer.asked:
        assert prompts.shape == (8, 3)
        assert (options["max_new_tokens"], options["min_new_tokens"], options["do_sample"]) == (4, 4, False)
        assert options["attention_mask"].equal(torch.ones(8, 3, dtype=torch.int64))


def test_a_peer_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(HunyuanError, match=r"pip install 'hunyuan\[hf\]'"):
        decoders.build("transformers eager float32", TINY, CPU)


# --- a filled cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hunyuan bfloat16", "hunyuan int8"])
def test_random_keys_and_values_stand_for_the_prompt(monkeypatch, name):
    """Every turn reads one token of the prompt, and its steps see all of the cache before them."""
    passes = []
    original = Hunyuan.step

    def step(net, ids, cache, **options):
        keys, values = cache.slots[0]
        passes.append((ids.shape[1], keys.shape[2], float(keys[:, :, :40].float().std()), float(values[0, 0, 5, 0])))
        return original(net, ids, cache, **options)

    monkeypatch.setattr(Hunyuan, "step", step)
    work = dataclasses.replace(TINY, prompt_tokens=44, filled=True)
    turn = decoders.build(name, work, CPU)
    assert turn() > 0 and turn() > 0
    assert [(tokens, places) for tokens, places, *_ in passes] == [(1, 44), (1, 45), (1, 46), (1, 47)] * 2
    assert all(0.8 < spread < 1.2 for *_, spread, _ in passes)
    assert len({value for *_, value in passes}) == 1  # the same in every turn
