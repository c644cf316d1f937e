"""Scaling laws for notebooks: a DataFrame of runs in, the document and DataFrames out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.scaling.cost import CostRule, parse_cost
from analyses.scaling.laws import ScalingLaw
from analyses.scaling.options import Options
from analyses.scaling.parabola import CMin
from analyses.scaling.several import side_by_side
from analyses.scaling.study import Study, fit_study, plot_study
from analyses.scaling.tables import Table, read_table
from model.errors import HunyuanError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ASKED = ("predict", "predict_params", "predict_loss")


class FittedLaws(dict[str, Any]):
    """The document of a fit, whose parts are also tables. `fit` is what figures are drawn from."""

    def __init__(self, fit: Study) -> None:
        super().__init__(fit.document)
        self.fit = fit

    @property
    def document(self) -> dict[str, Any]:
        """A plain dict, for json.dumps and read_law."""
        return dict(self)

    @cached_property
    def budgets(self) -> "pd.DataFrame":
        """One row a budget: flops, params_opt, tokens_opt, loss_opt, whether it was used, and more."""
        return _frame(self["budgets"])

    @cached_property
    def laws(self) -> "pd.DataFrame":
        """One row a law: method (shared shape, parabolas, surface), of (n_opt or d_opt), coefficient, exponent, intervals."""
        surface = self.get("parametric") or {}
        plain = self.get("parabola")
        names = {"parametric": "surface", "sparsity": "sparsity"}
        own = names.get(self["method"], "shared shape" if plain else "parabolas")
        parts: list[tuple[str, dict[str, Any]]] = [(own, self)]
        parts += [("parabolas", plain)] if plain else []
        parts += [("surface", surface)] if self["method"] == "both" else []
        rows = [
            {"method": method, "of": of} | part[of]
            for method, part in parts
            for of in ("n_opt", "d_opt")
            if part.get(of)
        ]
        return _frame([{key: value for key, value in row.items() if key != "intervals"} for row in rows])

    @cached_property
    def predictions(self) -> "pd.DataFrame":
        """One row a question: flops, params_opt, tokens_opt, loss_opt and the ends of their intervals."""
        return _frame(self["predictions"])

    @cached_property
    def warnings(self) -> "pd.DataFrame":
        """One row a finding: its code, its reason, and the budget or row that it is about."""
        return _frame(self["warnings"])

    def figure(self, laws: Sequence[ScalingLaw] = ()) -> "Figure":
        """The picture of `hunyuan scale-fit --plot`, with other laws laid over it."""
        return plot_study(self.fit, laws)


def fit_laws(frame: Any, **options: Any) -> FittedLaws:
    """See analyses.scaling.fit_laws."""
    known = [field.name for field in fields(Options)]
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise HunyuanError(f"fit_laws has no option {unknown!r}: it has {', '.join(known)}")
    cost = options.get("cost")
    if cost is not None and not isinstance(cost, CostRule):
        options["cost"] = parse_cost(str(cost))
    if isinstance(options.get("c_min"), bool):
        options["c_min"] = CMin() if options["c_min"] else None
    for name in ASKED:
        if name in options:
            options[name] = _numbers(name, options[name])
    return FittedLaws(fit_study(_table(frame), Options(**options)))


class ComparedLaws(dict[str, FittedLaws]):
    """Fits of several tables by name, with their laws and predictions as tables."""

    @cached_property
    def laws(self) -> "pd.DataFrame":
        """One row a table and law: coefficient, exponent and the ends of its interval."""
        return _frame(side_by_side(self.documents)["laws"])

    @cached_property
    def predictions(self) -> "pd.DataFrame":
        """One row a table and question."""
        return _frame(side_by_side(self.documents)["predictions"])

    @property
    def documents(self) -> dict[str, dict[str, Any]]:
        return {name: fitted.document for name, fitted in self.items()}

    def figure(self, laws: Sequence[ScalingLaw] = ()) -> "Figure":
        """The picture of `hunyuan scale-fit A.csv B.csv --plot`."""
        from analyses.scaling.several_plots import plot_side_by_side

        return plot_side_by_side(self.documents, laws)


def compare_laws(frames: Mapping[str, Any], **options: Any) -> ComparedLaws:
    """See analyses.scaling.compare_laws."""
    return ComparedLaws({str(name): fit_laws(frame, **options) for name, frame in frames.items()})


def _table(frame: Any) -> Table:
    if isinstance(frame, Table):
        return frame
    if isinstance(frame, str | Path):
        return read_table(Path(frame))
    if not (isinstance(frame, Mapping) or hasattr(frame, "columns")):
        raise HunyuanError(f"fit_laws takes a DataFrame, a mapping of columns or a path, not {type(frame).__name__}")
    columns = {str(name): _cells(frame[name]) for name in frame}
    longest = max(map(len, columns.values()), default=0)
    if not longest or any(len(cells) != longest for cells in columns.values()):
        raise HunyuanError("the table of runs must have columns of one length, with one row a run")
    return Table("the frame", columns)


def _cells(column: Any) -> list[Any]:
    return list(column.tolist() if hasattr(column, "tolist") else column)


def _numbers(name: str, asked: Any) -> tuple[float, ...]:
    try:
        several = asked.split(",") if isinstance(asked, str) else asked
        numbers = (float(several),) if isinstance(several, int | float) else tuple(map(float, several))
    except (TypeError, ValueError) as error:
        raise HunyuanError(f"{name} is {asked!r}: give a number such as 1e22, or several") from error
    if not all(0 < number < math.inf for number in numbers):
        raise HunyuanError(f"{name} is {asked!r}: give numbers above 0")
    return numbers


def _frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows as a table; pairs such as params_interval become two columns, params_low and params_high."""
    import pandas as pd

    return pd.DataFrame([dict(cell for item in row.items() for cell in _flat(*item)) for row in rows])


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    if name.endswith(("_interval", "_region")) and (value is None or len(value) == 2):
        stem = name.removesuffix("_interval").removesuffix("_region")
        low, high = value or (math.nan, math.nan)
        return [(f"{stem}_low", low), (f"{stem}_high", high)]
    return [(name, value)]
