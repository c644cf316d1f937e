"""analyses/scaling/columns.py: columns by the names that people give them, and what is said where two may be meant."""

import pytest
from isoflop_data import runs_of, table
from test_scaling_runs import SMALL, same

from analyses.scaling.runs import clean_runs
from model.errors import DataError


@pytest.mark.parametrize(
    ("quantity", "name"),
    [
        *(("flops", name) for name in ("flops", "budget", "compute", "compute_budget", "C", "flop", "FLOPs", "Compute Budget",
                                       "training-flops", "Training FLOP", "total_flops", "train_flops", "total_flos")),
        *(("params", name) for name in ("activated_params", "active_params", "params", "parameters", "N", "Activated Params",
                                        "n_params", "num_params", "Model Size", "model_size", "nparams", "Na", "N_active",
                                        "total_params", "param_count", "non-embedding params")),
        *(("tokens", name) for name in ("tokens", "D", "Tokens", "train_tokens", "total_tokens", "n_tokens", "num_tokens",
                                        "Training Tokens", "tokens_seen", "train/tokens")),
        *(("loss", name) for name in ("loss", "final_loss", "Final Loss", "val_loss", "eval/loss", "validation loss", "L",
                                      "eval_loss", "test_loss", "val/loss", "loss_val", "train_loss", "final_val_loss")),
    ],
)  # fmt: skip
def test_columns_are_known_by_several_names(quantity, name):
    renamed = {(name if key == quantity else key): values for key, values in SMALL.items()}
    assert same(runs_of(renamed), runs_of(SMALL))


def test_the_activated_size_is_preferred_whatever_the_order():
    other = [1e12] * 3
    activated = {"flops": SMALL["flops"], "tokens": SMALL["tokens"], "loss": SMALL["loss"]}
    for columns in (
        {"total_params": other, **activated, "activated_params": SMALL["params"]},
        {"activated_params": SMALL["params"], "params": other, **activated},
        {"params": other, "active_params": SMALL["params"], **activated},
        {"params": SMALL["params"], "total_params": other, **activated},
    ):
        assert runs_of(columns).params.tolist() == SMALL["params"]


@pytest.mark.parametrize(
    ("quantity", "name", "unit"),
    [
        ("params", "params (M)", 1e6), ("params", "params_m", 1e6), ("params", "N (billions)", 1e9),
        ("params", "params_in_millions", 1e6), ("params", "model size [B]", 1e9), ("tokens", "tokens_b", 1e9),
        ("tokens", "billion_tokens", 1e9), ("tokens", "Training Tokens (T)", 1e12), ("flops", "total_gflops", 1e9),
        ("flops", "Training EFLOPs", 1e18), ("flops", "eflops", 1e18), ("flops", "train_tflop", 1e12),
        ("flops", "compute (PF-days)", 8.64e19), ("flops", "pf_days", 8.64e19), ("flops", "budget_gflops", 1e9),
    ],
)  # fmt: skip
def test_a_unit_in_a_name_is_read(quantity, name, unit):
    renamed = {
        (name if key == quantity else key): [v / unit for v in values] if key == quantity else values
        for key, values in SMALL.items()
    }
    runs, findings = clean_runs(table(renamed))
    assert getattr(runs, quantity) == pytest.approx(getattr(runs_of(SMALL), quantity), rel=1e-12)
    assert (runs.columns[quantity].name, runs.columns[quantity].unit, findings) == (name, unit, [])


@pytest.mark.parametrize(
    "name", ["tflops", "gflops", "tflops_per_s", "mfu", "d_model", "n_layers", "n_heads", "lr", "c4"]
)
def test_speeds_and_shapes_are_no_sizes(name):
    columns = {name: [7.0, 8.0, 9.0], **{key: SMALL[key] for key in ("params", "tokens", "loss")}}
    runs, findings = clean_runs(table(columns))
    assert (
        findings == []
        and runs.flops.tolist() == runs_of({k: columns[k] for k in ("params", "tokens", "loss")}).flops.tolist()
    )


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ("Na", "N"), ("active_params", "params"), ("params", "N"), ("activated_params", "n_params"), ("N", "total_params"),
        ("n_active_params", "model_size"),
    ],
)  # fmt: skip
def test_which_of_two_sizes_was_taken_is_said(taken, left):
    for order in ((taken, left), (left, taken)):
        sizes = {taken: SMALL["params"], left: [20 * size for size in SMALL["params"]]}
        columns = {name: sizes[name] for name in order} | {key: SMALL[key] for key in ("flops", "tokens", "loss")}
        runs, findings = clean_runs(table(columns))
        assert runs.params.tolist() == SMALL["params"]
        assert [one.code for one in findings] == ["columns"]
        assert f"params are read from '{taken}', not from '{left}': --params-column" in findings[0].reason
    assert clean_runs(table(columns), columns={"params": taken})[1] == []
    same_cells = {**columns, left: SMALL["params"]}
    assert clean_runs(table(same_cells))[1] == []


def test_which_of_several_losses_was_taken_is_said():
    columns = {**SMALL, "val_loss": [3.1, 3.0, 2.8], "train_loss": [2.9, 2.8, 2.6]}
    (finding,) = clean_runs(table(columns))[1]
    assert finding.reason.startswith("loss is read from 'loss', not from 'val_loss': --loss-column")
    del columns["loss"]
    runs, findings = clean_runs(table(columns))  # nobody fits the training loss where there is another
    assert runs.loss.tolist() == [3.1, 3.0, 2.8] and findings == []


def test_total_and_activated_parameters_by_their_full_names_need_no_word():
    columns = {**SMALL, "activated_params": SMALL["params"], "total_params": [20 * size for size in SMALL["params"]]}
    del columns["params"]
    assert clean_runs(table(columns))[1] == []


def test_columns_can_be_named():
    strange = {"a": SMALL["flops"], "b": SMALL["params"], "c": SMALL["tokens"], "d": SMALL["loss"], "loss": [9.0] * 3}
    names = {"flops": "a", "params": "b", "tokens": "c", "loss": "d"}
    assert same(runs_of(strange, columns=names), runs_of(SMALL))
    with pytest.raises(DataError, match="no column 'e': it has a, b, c, d, loss"):
        runs_of(strange, columns={**names, "loss": "e"})
