"""analyses/training/runs.py and plots.py on run folders written here, whose every number is known."""

import json
import math

import pandas as pd
import pytest

from analyses.training.plots import plot_expert_load, plot_runs, plot_training, smooth
from analyses.training.runs import config_differences, group_runs, groups_table, load_run, load_runs, runs_table
from model.errors import HunyuanError
from model.files import LOCK, hold

LAYERS = [[30, 10, 10, 10], [15, 15, 15, 15]]


def write_run(folder, *, seed=0, loss=3.0, lr=0.001, steps=20, experts=LAYERS, **model):
    """A run whose loss falls by 0.01 a step to `loss`, with an evaluation every five steps, 0.1 above it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 64, "num_experts": 4} | model))
    (folder / "run.toml").write_text(f"[data]\npath = 'corpus'\n[training]\nseed = {seed}\nlr = {lr}\n")
    rows = []
    for step in range(1, steps + 1):
        now = loss + 0.01 * (steps - step)
        rows.append({"step": step, "tokens": 100 * step, "flops": 6e5 * step, "seconds": 0.5 * step, "loss": now})
        rows[-1] |= {"lr": lr, "grad_norm": 1.0, "tokens_per_second": 200.0, "mfu": 0.25, "load_imbalance": 1.5}
        rows[-1] |= {"dropped_fraction": 0.02, "recycled_fraction": 0.04, "tokens_per_expert": experts}
        if step % 5 == 0:
            rows[-1] |= {"val_loss": now + 0.1, "val_bits_per_byte": 1.0}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"status": "finished", "total_params": 4000, "activated_params": 1000, "tokens_per_second": 190.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_table_has_the_numbers_of_the_folder(tmp_path):
    row = runs_table([load_run(write_run(tmp_path / "a"))]).iloc[0]
    assert (row["name"], row["status"]) == ("a", "finished")
    assert (row["tokens"], row["flops"], row["seconds"]) == (2000, 1.2e7, 10.0)
    assert (row["total_params"], row["activated_params"]) == (4000, 1000)
    assert row["loss"] == pytest.approx(3.0)
    assert (row["val_loss"], row["best_val_loss"]) == (pytest.approx(3.1), pytest.approx(3.1))
    assert row["tokens_per_second"] == 190.0  # the summary's, not the steps' 200
    assert row["mfu"] == 0.25  # the steps': the summary has none
    assert (row["load_imbalance"], row["dropped_fraction"], row["recycled_fraction"]) == (1.5, 0.02, 0.04)


def test_best_validation_loss_may_come_before_the_last(tmp_path):
    folder = write_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 21, "tokens": 2100, "loss": 3.0, "val_loss": 3.5}) + "\n")
    row = runs_table([load_run(folder)]).iloc[0]
    assert (row["val_loss"], row["best_val_loss"]) == (3.5, pytest.approx(3.1))


def test_a_last_line_cut_short_is_left_out_and_a_step_done_again_replaces_the_first(tmp_path):
    folder = write_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "tokens": 2000, "loss": 9.0}\n{"step": 21, "lo')
    metrics = load_run(folder).metrics
    assert list(metrics["step"]) == list(range(1, 21))
    assert metrics["loss"].iloc[-1] == 9.0


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"loss": 1.0}'])
def test_a_broken_line_before_the_last_names_its_number(tmp_path, line):
    folder = write_run(tmp_path / "a")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[6] = line
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(HunyuanError, match="line 7 of"):
        load_run(folder)


@pytest.mark.parametrize("name", ["config.json", "summary.json", "run.toml"])
def test_a_damaged_file_is_named(tmp_path, name):
    folder = write_run(tmp_path / "a")
    (folder / name).write_text("{ = ")
    with pytest.raises(HunyuanError, match=name):
        load_run(folder)


def test_a_run_without_a_summary_is_running_while_a_process_holds_it(tmp_path):
    run = load_run(write_run(tmp_path / "a"))
    (run.folder / "summary.json").unlink()
    run = load_run(run.folder)
    with hold(run.folder / LOCK):
        assert runs_table([run]).iloc[0]["status"] == "running"
    assert runs_table([run]).iloc[0]["status"] == "unfinished"


def test_a_run_that_has_logged_nothing_is_a_row_without_numbers(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text("")
    (folder / "summary.json").unlink()
    run = load_run(folder)
    row = runs_table([run]).iloc[0]
    assert row["status"] == "unfinished"
    assert pd.isna(row["loss"]) and pd.isna(row["tokens"])
    with pytest.raises(HunyuanError, match="nothing to draw"):
        plot_training(run)
    with pytest.raises(HunyuanError, match="nothing to draw"):
        plot_runs(group_runs([run]))


def test_folders_of_runs_are_searched_and_each_run_gets_a_name_of_its_own(tmp_path):
    write_run(tmp_path / "x" / "run")
    write_run(tmp_path / "y" / "run")
    (tmp_path / "x" / "run" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "x" / "run" / "checkpoints" / "5" / "run.toml").write_text("")  # part of the run, not one itself
    runs = load_runs([tmp_path, tmp_path / "x" / "run"])
    assert [run.name for run in runs] == ["x/run", "y/run"]


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(HunyuanError, match="no folder"):
        load_runs([tmp_path / "nothing"])
    with pytest.raises(HunyuanError, match="neither is a run nor holds one"):
        load_runs([tmp_path])


def test_seeds_are_put_together_with_mean_and_sample_standard_deviation(tmp_path):
    for seed, loss in enumerate((2.9, 3.0, 3.2)):
        write_run(tmp_path / f"wide-seed{seed}", seed=seed, loss=loss)
    write_run(tmp_path / "other", lr=0.002)
    write_run(tmp_path / "shorter", seed=7, steps=10)  # the same settings, but not as far
    groups = {group.name: len(group.runs) for group in group_runs(load_runs([tmp_path]))}
    assert groups == {"wide": 3, "other": 1, "shorter": 1}

    row = groups_table(group_runs(load_runs([tmp_path]))).set_index("name").loc["wide"]
    assert row["seeds"] == 3
    assert row["loss"] == pytest.approx(9.1 / 3)
    assert row["loss_sd"] == pytest.approx(
        math.sqrt(0.07 / 3)
    )  # by hand: squared deviations sum to 0.14 / 3, n - 1 = 2
    assert "tokens_sd" not in row  # the same in each


def test_differences_are_the_settings_that_differ_and_no_others(tmp_path):
    write_run(tmp_path / "a", lr=0.001, hidden_size=64)
    write_run(tmp_path / "b", lr=0.002, hidden_size=64, cla_share_factor=2)
    frame = config_differences(load_runs([tmp_path])).set_index("setting")
    assert sorted(frame.index) == ["model.cla_share_factor", "training.lr"]
    assert list(frame.loc["training.lr"]) == [0.001, 0.002]
    assert config_differences(load_runs([tmp_path / "a"])).empty


def test_stages_differ_by_their_own_settings_and_by_their_order(tmp_path):
    def stages(*names, theta):
        return "".join(f"[[stages]]\nname = '{name}'\nrope_theta = {theta}\n" for name in names)

    texts = {"a": stages("short", "long", theta=1e4), "b": stages("short", "long", theta=1e5)}
    for name, text in (texts | {"c": stages("long", "short", theta=1e4)}).items():
        path = write_run(tmp_path / name) / "run.toml"
        path.write_text(path.read_text() + text)
    frame = config_differences(load_runs([tmp_path / "a", tmp_path / "b"])).set_index("setting")
    assert frame.to_dict("index") == {f"stages.{name}.rope_theta": {"a": 1e4, "b": 1e5} for name in ("short", "long")}
    frame = config_differences(load_runs([tmp_path / "a", tmp_path / "c"])).set_index("setting")
    assert frame.to_dict("index") == {"stages": {"a": ["short", "long"], "c": ["long", "short"]}}
    assert len(group_runs(load_runs([tmp_path]))) == 3


def test_a_setting_that_came_later_is_no_difference_at_its_default(tmp_path):
    for name in ("before", "after", "other"):
        path = write_run(tmp_path / name) / "run.toml"
        path.write_text(path.read_text().replace("[data]\npath = 'corpus'\n", ""))
    for name, encoding in {"after": "utf-8", "other": "latin-1"}.items():
        with (tmp_path / name / "run.toml").open("a") as file:
            file.write(f'anneal_fraction = 0.05\n[data]\nsources = ["stdlib"]\nencoding = "{encoding}"\n')
    assert config_differences(load_runs([tmp_path / "before", tmp_path / "after"])).empty
    frame = config_differences(load_runs([tmp_path / "before", tmp_path / "other"])).set_index("setting")
    assert list(frame.loc["data.encoding"]) == ["utf-8", "latin-1"] and len(frame) == 1


@pytest.mark.parametrize(
    ("environment", "precision"),
    [
        ({"device": "cpu", "precision": "bfloat16"}, "bfloat16"),
        ({"device": "cpu"}, "float32"),  # an older version's auto
        ({"device": "cuda:0"}, "bfloat16"),
    ],
)
def test_the_precision_is_what_auto_came_to(tmp_path, environment, precision):
    """Runs of one precision are one group, however they came to it, and two that differ in nothing else differ in it."""
    auto, same, other = (write_run(tmp_path / name, seed=seed) for seed, name in enumerate(("auto", "same", "other")))
    (auto / "environment.json").write_text(json.dumps(environment))
    for folder, asked in ((same, precision), (other, "float32" if precision == "bfloat16" else "bfloat16")):
        with (folder / "run.toml").open("a") as file:
            file.write(f"precision = '{asked}'\n")
    runs = load_runs([auto, same, other])
    assert runs[0].flat_settings["training.precision"] == precision
    assert [len(group.runs) for group in group_runs(runs)] == [2, 1]
    differences = config_differences(runs).set_index("setting")
    assert list(differences.loc["training.precision"])[:2] == [precision, precision]


def test_a_global_scope_means_what_the_processes_make_of_it(tmp_path):
    """Without one, runs over other processes are one group; an older run that has no scope is one of micro-batches."""
    runs = {name: write_run(tmp_path / name) for name in ("one", "two", "both-one", "both-two")}
    for name, folder in runs.items():
        layout = {"layout": {"processes": 4, "expert_parallel": 2, "context_parallel": 2, "shard": 4}}
        (folder / "environment.json").write_text(json.dumps(layout if name.endswith("two") else {"device": "cpu"}))
        if name.startswith("both"):
            config = json.loads((folder / "config.json").read_text()) | {"balance_scope": "global"}
            (folder / "config.json").write_text(json.dumps(config))
    assert config_differences(load_runs([runs["one"], runs["two"]])).empty
    frame = config_differences(load_runs([runs["both-one"], runs["both-two"]])).set_index("setting")
    assert list(frame.loc["layout.data_parallel"]) == [1, 2] and len(frame) == 1
    frame = config_differences(load_runs([runs["one"], runs["both-one"]])).set_index("setting")
    assert list(frame.loc["model.balance_scope"]) == ["micro_batch", "global"]


def test_runs_are_drawn_by_tokens_flops_and_time_with_a_band_over_seeds(tmp_path):
    for seed, loss in enumerate((2.9, 3.1)):
        write_run(tmp_path / f"wide-seed{seed}", seed=seed, loss=loss)
    write_run(tmp_path / "other", lr=0.002)
    figure = plot_runs(group_runs(load_runs([tmp_path])))
    panels = figure.axes
    assert [axes.get_xlabel().split(" (")[0] for axes in panels] == ["tokens", "training FLOPs", "training time"]
    assert panels[0].get_ylabel() == "validation loss\n(nats per token)"
    lines = {line.get_label(): line for line in panels[0].get_lines()}
    assert set(lines) == {"other", "wide (mean ± sd, 2 seeds)"}
    mean = lines["wide (mean ± sd, 2 seeds)"]
    assert list(mean.get_xdata()) == [500, 1000, 1500, 2000]
    assert mean.get_ydata()[-1] == pytest.approx(3.1)  # (2.9 + 3.1) / 2 + 0.1
    assert len(panels[0].collections) == 1  # one band


@pytest.mark.parametrize(("steps", "name"), [(99, "training loss\n"), (100, "training loss, smoothed\n")])
def test_a_run_without_validation_puts_all_on_the_training_loss(tmp_path, steps, name):
    write_run(tmp_path / "a", steps=steps)
    write_run(tmp_path / "b", steps=4, lr=0.002)
    panel = plot_runs(group_runs(load_runs([tmp_path]))).axes[0]
    assert panel.get_ylabel().startswith(name)
    assert sorted(len(line.get_xdata()) for line in panel.get_lines()) == [4, steps]


def test_smoothing_keeps_a_constant_and_narrows_noise():
    assert smooth(pd.Series([2.0] * 300)).tolist() == pytest.approx([2.0] * 300)
    falling = pd.Series(range(300, 0, -1), dtype=float)
    assert smooth(falling)[100:200].tolist() == pytest.approx(falling[100:200].tolist())  # no lag
    assert smooth(falling)[[0, 299]].tolist() == [300.0, 1.0]
    assert smooth(pd.Series([1.0, math.nan, 3.0])).isna().tolist() == [False, True, False]
    noise = pd.Series([1.0, -1.0] * 150)
    assert smooth(noise)[50:250].abs().max() < 0.2


def test_training_figure_shows_loss_norm_rate_and_speed(tmp_path):
    figure = plot_training(load_run(write_run(tmp_path / "a", steps=120)))
    assert [axes.get_title("left").split(",")[0] for axes in figure.axes] == [
        "Loss",
        "Gradient norm",
        "Learning rate",
        "Speed",
    ]
    assert [line.get_label() for line in figure.axes[0].get_lines()] == [
        "training",
        "training, smoothed",
        "validation",
    ]


def test_a_short_run_has_one_training_line(tmp_path):
    """Under 100 points the smoothed line would be the same."""
    figure = plot_training(load_run(write_run(tmp_path / "a", steps=99)))
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["training", "validation"]


@pytest.mark.parametrize("above", [0.1, 2.0, -2.0])
@pytest.mark.parametrize("steps", [20, 200])
def test_every_validation_point_lies_inside_the_axis(tmp_path, steps, above):
    run = load_run(write_run(tmp_path / "a", steps=steps))
    run.metrics["val_loss"] += above
    axes = plot_training(run).axes[0]
    low, high = axes.get_ylim()
    assert low < run.metrics["val_loss"].min() and run.metrics["val_loss"].max() < high


def test_expert_load_is_relative_to_an_even_share(tmp_path):
    figure = plot_expert_load(load_run(write_run(tmp_path / "a")))
    first, second = (axes.collections[0].get_array() for axes in figure.axes[:2])
    assert first[:, 0].tolist() == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3])  # 30 of 60 choices, four experts
    assert second[:, 0].tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("experts", [[], None, [[]], [[0, 0]]])
def test_a_dense_run_has_no_expert_load(tmp_path, experts):
    with pytest.raises(HunyuanError, match="dense"):
        plot_expert_load(load_run(write_run(tmp_path / "a", experts=experts)))
