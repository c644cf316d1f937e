"""The figures that a command leaves in a run folder."""

from pathlib import Path

from hunyuan_cli.console import stderr
from hunyuan_cli.files import save_figure


def draw_run(out: Path, *, dense: bool, quiet: bool) -> None:
    """Leaves the loss and expert-load figures in the run folder; a run is not lost for want of a figure."""
    from analyses.posttraining import preferences
    from analyses.training import plots, runs
    from model.errors import HunyuanError

    try:
        run = runs.load_run(out)
        save_figure(plots.plot_training(run), out / "loss.png", quiet=quiet)
        if not dense:
            save_figure(plots.plot_expert_load(run), out / "expert_load.png", quiet=quiet)
        if preferences.learnt_preferences([run]):
            save_figure(preferences.plot_preferences(runs.group_runs([run])), out / "preferences.png", quiet=quiet)
    except (HunyuanError, OSError) as error:
        stderr(f"no figures were drawn: {error}")
