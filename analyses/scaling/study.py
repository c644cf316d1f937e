"""A table and options as a fitted study, whatever the method: the one door of the command and of notebooks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analyses.scaling.fit import ScaleFit, scale_fit
from analyses.scaling.laws import ScalingLaw
from analyses.scaling.options import Options
from analyses.scaling.sparsity.study import SparsityStudy, sparsity_study
from analyses.scaling.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Study = ScaleFit | SparsityStudy


def fit_study(table: Table, options: Options) -> Study:
    """Fits the table by the method of the options. HunyuanError says what is wrong with either."""
    return sparsity_study(table, options) if options.method == "sparsity" else scale_fit(table, options)


def plot_study(study: Study, laws: Sequence[ScalingLaw] = ()) -> "Figure":
    """The picture of `hunyuan scale-fit --plot`, with other laws laid over it."""
    if isinstance(study, SparsityStudy):
        from analyses.scaling.sparsity.plots import plot_sparsity

        return plot_sparsity(study, laws)
    from analyses.scaling.plots import plot_scaling

    return plot_scaling(study, laws)
