"""training.measure_noise_scale: the estimates beside brute force, wherever gradients are summed, and over a resume."""

import math

import pytest
import torch
from test_graph import GRAPH, RECYCLE, on_device  # noqa: F401
from test_step import Masked
from tiny import assert_same_run, rows_of

from model.errors import ConfigError
from model.kernels.adamw import Rates
from model.training import noise_scale
from model.training.noise_scale import GradientSquares, NoiseScale, signal_and_noise
from model.training.pretraining import Pretraining
from model.training.split_adamw import SplitAdamW
from model.transformer import Hunyuan

MEASURED = "training.measure_noise_scale=true"
DENSE = ("model.num_experts=1", "model.num_shared_expert=0")
FROZEN = ("training.learning_rate=1e-12", "training.weight_decay=0")  # gradients of the same weights at every step
KEYS = {"noise_scale", "noise_scale_shared", "noise_scale_routed", "gradient_signal_shared", "gradient_signal_routed"}
KEYS |= {"gradient_noise_shared", "gradient_noise_routed"}


class Kept(Pretraining):
    """Keeps its model and every micro-batch that it gave."""

    kept: list = []  # noqa: RUF012

    def forward(self, net, data, routing_key):
        Kept.kept.append((net, data, routing_key))
        return super().forward(net, data, routing_key)


def gradients_of(net: Hunyuan, data, key) -> dict[str, torch.Tensor]:
    """One micro-batch alone, (P,) by role, by autograd."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    output = net(data[:, :-1], data[:, 1:], routing_key=key)
    found = dict(zip(names, torch.autograd.grad(output.loss + output.aux_loss, parameters), strict=True))
    routed = torch.cat([g.flatten() for name, g in found.items() if ".experts." in name]).double()
    return {
        "routed": routed,
        "shared": torch.cat([g.flatten() for n, g in found.items() if ".experts." not in n]).double(),
    }


def test_a_step_measures_the_variance_of_its_micro_batches(pretrain):
    """S is b times the sample variance, |G|^2 the squared mean less what of it is noise: computed from every gradient."""
    Kept.kept = []
    (row,) = pretrain("training.steps=1", "training.micro_batch_size=2", *FROZEN, MEASURED, task=Kept).rows
    net = Kept.kept[0][0].train()
    parts = [gradients_of(net, data, key) for _, data, key in Kept.kept]
    assert len(parts) == 4
    signal, noise = 0.0, 0.0
    for role in ("shared", "routed"):
        g = torch.stack([part[role] for part in parts])  # (M, P)
        variance = float(g.var(dim=0, correction=1).sum())
        assert row[f"gradient_noise_{role}"] == pytest.approx(64 * variance, rel=1e-4)  # 2 sequences of 32 tokens
        square = float(g.mean(dim=0).square().sum())
        assert row[f"gradient_signal_{role}"] == pytest.approx(square - variance / 4, rel=1e-4)
        signal, noise = signal + square - variance / 4, noise + 64 * variance
    assert row["noise_scale"] == pytest.approx(noise / signal, rel=1e-4)


def test_the_noise_scale_is_that_of_the_whole_text_whatever_the_micro_batches(pretrain, tmp_path, monkeypatch):
    """24 steps at fixed weights, against the variance of single sequences: brute force over all that were read."""
    monkeypatch.setattr(noise_scale, "DECAY", 1 - 1e-9)  # a plain mean over the steps
    steps = ("training.steps=24", "training.checkpoint_every=0", *FROZEN, *DENSE)
    Kept.kept = []
    rows = {
        size: pretrain(
            *steps, MEASURED, f"training.micro_batch_size={size}", folder=tmp_path / str(size), task=Kept
        ).rows[-1]
        for size in (1, 4)
    }
    net, singles = Kept.kept[0][0].train(), [data for _, data, _ in Kept.kept if len(data) == 1]
    parameters = list(net.parameters())
    sums, squares = None, 0.0
    for data in singles:
        g = torch.cat(
            [p.flatten() for p in torch.autograd.grad(net(data[:, :-1], data[:, 1:]).loss, parameters)]
        ).double()
        sums, squares = g if sums is None else sums + g, squares + float(g.square().sum())
    count = len(singles)
    assert count == 24 * 8
    mean = float((sums / count).square().sum())
    variance = (squares / count - mean) * count / (count - 1)
    expected = 32 * variance / (mean - variance / count)
    for size, row in rows.items():
        assert row["noise_scale"] == pytest.approx(expected, rel={1: 0.02, 4: 0.12}[size])
        assert row["noise_scale"] == row["noise_scale_shared"]


def test_estimates_are_unbiased_for_uneven_micro_batches():
    """|G|^2 = 2 and S = 600 of drawn gradients; parts of 10, 20 and 30 tokens, and one without a label."""
    torch.manual_seed(0)
    sizes, found = torch.tensor([10, 20, 30, 0]), []
    shares = sizes / 60
    for _ in range(4000):
        g = 0.1 + torch.randn(4, 200).double() * torch.sqrt(3 / sizes.clamp(min=1))[:, None]
        weighed = g * shares[:, None]
        parts = [part.square().sum()[None] for part in weighed]
        found.append(signal_and_noise(parts, shares.tolist(), weighed.sum(dim=0).square().sum()[None], 60).flatten())
    signal, noise = torch.stack(found).mean(dim=0).tolist()
    errors = (torch.stack(found).std(dim=0) / math.sqrt(4000)).tolist()
    assert abs(signal - 2) < 3 * errors[0] < 0.2
    assert abs(noise - 600) < 3 * errors[1] < 10


def test_a_step_with_one_part_to_learn_from_is_left_out_of_the_averages(pretrain, monkeypatch):
    class Half(Masked):
        PARTS = (1, 1, 6)

        def micro_batches(self, step):
            parts = list(super().micro_batches(step))  # the second has no label
            yield from parts[:2] if step == 1 else parts

    rows = pretrain("training.steps=2", MEASURED, task=Half).rows
    figures = [{key: row[key] for key in KEYS if key in row} for row in rows]
    assert figures[0] and figures[0] == figures[1]


@pytest.mark.parametrize(
    "changes",
    [(), RECYCLE, DENSE, ("training.max_grad_norm=0.01",), ("training.recompute=true",)],
    ids=["dropless", "recycle", "dense", "clipped", "recomputed"],
)
def test_measuring_moves_no_weight(pretrain, tmp_path, changes):
    pretrain(*changes, folder=tmp_path / "plain")
    measured = pretrain(*changes, MEASURED, folder=tmp_path / "measured").rows
    keys = KEYS if changes != DENSE else {key for key in KEYS if "routed" not in key}
    assert set(measured[-1]) - set(rows_of(tmp_path / "plain")[-1]) - {"tokens_per_second", "seconds", "mfu"} <= keys
    rows = [{k: v for k, v in row.items() if k not in KEYS} for row in rows_of(tmp_path / "measured")]
    assert rows == rows_of(tmp_path / "plain")
    for name in ("model", "optimizer"):
        files = [
            tmp_path / run / "checkpoints" / "step-00000012" / f"{name}.safetensors" for run in ("plain", "measured")
        ]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_clipping_changes_no_measurement(pretrain, tmp_path):
    first = [
        pretrain("training.steps=1", MEASURED, f"training.max_grad_norm={norm}", folder=tmp_path / norm).rows[0]
        for norm in ("0.01", "1000.0")
    ]
    assert first[0]["gradient_noise_routed"] == first[1]["gradient_noise_routed"] > 0


def test_the_optimizer_of_a_gpu_measures_the_same_recorded_or_not(pretrain, on_device, tmp_path, monkeypatch):  # noqa: F811
    plain = pretrain(MEASURED, "training.graph=false", folder=tmp_path / "plain").rows
    recorded = pretrain(MEASURED, GRAPH, folder=tmp_path / "recorded").rows
    assert on_device == [10]
    assert_same_run(tmp_path / "recorded", tmp_path / "plain", 12)
    monkeypatch.undo()
    monkeypatch.setattr("model.training.loop.measure_peak_flops", lambda device, dtype: 1e11)
    own = pretrain(MEASURED, folder=tmp_path / "processor").rows
    assert [row["gradient_noise_routed"] for row in plain] == pytest.approx(
        [row["gradient_noise_routed"] for row in own], rel=1e-3
    )
    assert recorded[-1]["gradient_noise_shared"] > 0


def test_weights_in_two_halves_are_measured_as_their_float32_sums():
    """bfloat16 gradients of three micro-batches, which SplitAdamW takes from the parameter and adds up in float32."""
    weight = torch.nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    group = {
        "name": "routed_experts",
        "names": ["experts.weight"],
        "params": [weight],
        "lr_scale": 1.0,
        "weight_decay": 0.0,
    }
    optimizer = SplitAdamW([group], rates=Rates(0.9, 0.95, 1e-8), max_grad_norm=1.0, split_weights=True)
    optimizer.begin()
    assert weight.dtype == torch.bfloat16
    squares, total = GradientSquares(optimizer), torch.zeros(8, 8)
    for part in torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16():
        squares.begin()
        (weight * part).sum().backward()
        assert squares.of_parts()[0].tolist() == pytest.approx([0.0, float(part.float().square().sum())], rel=1e-5)
        optimizer.collect()
        total += part.float()
    assert squares.of_step().tolist() == pytest.approx([0.0, float(total.square().sum())], rel=1e-5)


def test_a_resumed_run_goes_on_with_its_averages(pretrain, tmp_path):
    pretrain(MEASURED, folder=tmp_path / "whole")
    pretrain(MEASURED, folder=tmp_path / "parts", stop_after=6)
    pretrain(MEASURED, folder=tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole", 12)
    assert rows_of(tmp_path / "whole")[-1]["gradient_noise_shared"] > 0


def test_averages_weigh_steps_by_their_age():
    scale = NoiseScale(["shared"])
    assert scale.figures() == {}
    for noise in (100.0, 300.0):
        scale.add([2.0, noise])
    expected = (0.99 * 100 + 300) / 1.99
    assert scale.figures() == pytest.approx(
        {"noise_scale": expected / 2, "noise_scale_shared": expected / 2, "gradient_signal_shared": 2.0,
         "gradient_noise_shared": expected}
    )  # fmt: skip
    scale.add([-1000.0, 1.0])
    assert set(scale.figures()) == {"gradient_signal_shared", "gradient_noise_shared"}  # no scale of a negative square


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("training.micro_batch_size=8",), "lower training.micro_batch_size to 4"),
        (("training.micro_batch_size=1", "training.global_batch_tokens=32"), "raise training.global_batch_tokens"),
    ],
)
def test_one_micro_batch_is_refused_in_a_sentence(settings, changes, says):
    with pytest.raises(ConfigError) as error:
        settings(MEASURED, *changes)
    assert error.value.problems == [
        f"training.measure_noise_scale needs two micro-batches a step or more, and there is one: {says}"
    ]
