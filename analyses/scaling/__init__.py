"""Scaling laws: from a table of runs to power laws with intervals, predictions and figures.

In a notebook:

    from analyses.scaling import fit_laws

    laws = fit_laws(frame, predict=1e22)     # what hunyuan scale-fit --format json prints, as a dict
    laws["n_opt"]["exponent"], laws.budgets, laws.predictions, laws.figure()
    compare_laws({"old": old, "new": new}, predict=1e22).laws     # several tables, one row a law
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analyses.scaling.frames import ComparedLaws, FittedLaws

__all__ = ["compare_laws", "fit_laws"]


def fit_laws(frame: Any, **options: Any) -> "FittedLaws":
    """Fits scaling laws to a table of runs, as `hunyuan scale-fit` does.

    frame is a pandas DataFrame, a mapping of columns, or the path of a table. Its columns are flops (or budget), params (or
    activated_params, N), tokens (or D) and loss in nats per token, or names near these; one of the first three may be
    missing. method="sparsity" needs total_params or num_experts, too.

    options are the fields of analyses.scaling.options.Options; in short: cost="paper" or "9.59,2.3e8", c_min=True,
    shape="parabola" for the report's method alone, which else stands under "parabola" beside the shape that all budgets share,
    and predict, predict_params and predict_loss may be one number or several, also as "1e22,1e23".

    The result is the document of `hunyuan scale-fit --format json`, a dict, with budgets, laws, predictions and warnings
    also as DataFrames. What the data cannot support is in its warnings. HunyuanError says what is wrong with the table or
    an option. No torch is loaded.
    """
    from analyses.scaling.frames import fit_laws as fit

    return fit(frame, **options)


def compare_laws(frames: "Mapping[str, Any]", **options: Any) -> "ComparedLaws":
    """Fits several tables by the same options, as `hunyuan scale-fit A.csv B.csv` does.

    frames maps names to what fit_laws takes. The result maps the names to what fit_laws returns, and has their laws and
    predictions as one DataFrame each, and one figure.
    """
    from analyses.scaling.frames import compare_laws as compare

    return compare(frames, **options)
