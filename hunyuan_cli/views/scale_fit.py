"""What a person sees of a scaling fit: tables of its document, and sentences under them."""

from typing import TYPE_CHECKING, Any

from hunyuan_cli.console import human_count

if TYPE_CHECKING:
    from analyses.scaling.laws import ScalingLaw

REFUSALS = ("too_few_budgets", "budgets_alike", "no_law", "no_surface")


def tables(document: dict[str, Any]) -> dict[str, Any]:
    """What a person reads first: budgets, laws, predictions, then what to run next."""
    result: dict[str, Any] = {"budgets": [_budget(row) for row in document["budgets"]]}
    laws = []
    for name, source in _sources(document):
        for of in ("n_opt", "d_opt"):
            one = source.get(of)
            if one is not None:
                laws.append(
                    {
                        "law": f"{of[0].upper()}_opt, {name}",
                        "coefficient": f"{one['coefficient']:.4g}",
                        "exponent": f"{one['exponent']:.4f}",
                        "interval": _interval(one.get("exponent_interval"), "{:.4f}"),
                    }
                )
    result |= {f"power laws, {document['confidence']:.0%} intervals ({document['interval']})": laws} if laws else {}
    rows = [
        _prediction(row, name, "C_min" if document["c_min"] else "flops")
        for name, source in _sources(document)
        for row in source["predictions"]
        if row.get("flops") is not None
    ]
    result |= {"predictions": rows} if rows else {}
    if document.get("rates"):
        result |= _rates(document["rates"])
    if document.get("constrained"):
        result[_limits(document["constrained"])] = [_constrained(row) for row in document["constrained"]["predictions"]]
    if document.get("sparsity"):
        result["what sparsity buys: a dense model needs so many times the activated parameters"] = [
            {"ratio": f"{row['ratio']:.4g}", "times": f"{row['params_factor']:.3g}",
             "interval": _interval(row["params_factor_interval"], "{:.3g}")}
            for row in document["sparsity"]["worth"]
        ]  # fmt: skip
    if document.get("next_runs"):
        result["what to run next, by how much narrower a FLOP makes the interval"] = [
            {
                "kind": row["kind"] if row["kind"] == "run" else f"budget of {row['runs']} runs",
                "flops": f"{row['flops']:.3g}",
                "params": human_count(row["params"]),
                "narrower": f"{row['narrower_fraction']:.1%}",
                "cost": f"{row['cost_flops']:.3g}",
            }
            for row in document["next_runs"][:4]
        ]
    return result


def tables_beside(document: dict[str, Any]) -> dict[str, Any]:
    """The laws and predictions of several tables, one row each."""
    laws = [
        {
            "table": row["table"],
            "law": f"{row['of'][0].upper()}_opt",
            "coefficient": f"{row['coefficient']:.4g}",
            "exponent": f"{row['exponent']:.4f}",
            "interval": _interval(row["exponent_interval"], "{:.4f}"),
        }
        for row in document["laws"]
    ]
    compute = {one["table"]: "C_min" if one["c_min"] else "flops" for one in document["tables"]}
    rows = [
        _prediction(row, row["table"], compute[row["table"]]) for row in document["predictions"] if row.get("flops")
    ]
    laws += [
        {"table": row["name"], "law": f"{of[0].upper()}_opt", "coefficient": f"{row[of]['coefficient']:.4g}",
         "exponent": f"{row[of]['exponent']:.4f}"}
        for row in document.get("other_laws", []) for of in ("n_opt", "d_opt")
    ]  # fmt: skip
    return {"laws side by side": laws} | ({"predictions": rows} if rows else {})


def _sources(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Whatever has laws and predictions, by name."""
    plain, shaped = document.get("parabola"), document["method"] != "parametric"
    name = "sparsity" if "sparsity" in document else "shared shape" if plain else "parabolas" if shaped else "surface"
    own = [(name, document)]
    own += [("parabolas", plain)] if plain else []
    if document["method"] == "both" and document.get("parametric"):
        own.append(("surface", document["parametric"]))
    return own + [(law["name"], law) for law in document.get("laws", [])]


def _budget(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "flops": f"{row['flops']:.4g}",
        "runs": row["n_runs"],
        "sizes": row.get("n_sizes"),
        "params_opt": _count(row["params_opt"]),
        "params interval": _interval(row.get("params_interval")),
        "tokens_opt": _count(row["tokens_opt"]),
        "loss": row["loss_opt"],
        "flat region": _interval(row.get("flat_region")),
        "used": row["used"],
    }


def _prediction(row: dict[str, Any], law: str, compute: str) -> dict[str, Any]:
    return {
        "law": law,
        compute: f"{row['flops']:.4g}",
        "flops interval": _interval(row.get("flops_interval"), "{:.3g}"),
        "params_opt": _count(row["params_opt"]),
        "params interval": _interval(row.get("params_interval")),
        **{name: _count(row[f"{name}_opt"]) for name in ("total_params", "experts") if f"{name}_opt" in row},
        "tokens_opt": _count(row["tokens_opt"]),
        "tokens interval": _interval(row.get("tokens_interval")),
        "flat region": _interval(row.get("flat_region")),
        "loss": row.get("loss_opt"),
        "bound": (row.get("bound") or "").replace("_", " ") or None,
    } | ({"loss interval": _interval(row["loss_interval"], "{:.4f}")} if row.get("loss_interval") else {})


def _rates(part: dict[str, Any]) -> dict[str, Any]:
    """The laws of the best rate and batch, and the best values behind them."""
    laws, tables = [], {}
    for name in ("learning_rate", "batch_tokens"):
        law = part[name]
        if law is None:
            continue
        powers = {
            f"of {variable}": f"{power:+.3f} ({_interval(law['exponent_intervals'].get(variable), '{:+.3f}')})"
            for variable, power in law["exponents"].items()
            if variable in law["exponent_intervals"]
        }
        laws.append({"law": name, "coefficient": f"{law['coefficient']:.4g}"} | powers)
        tables[f"best {name.replace('_', ' ')}"] = [
            {key: f"{value:.3g}" for key, value in row.items() if isinstance(value, float) and key != "loss"}
            | {"interval": _interval(row[f"{name}_interval"], "{:.3g}"), "loss": row["loss"]}
            for row in law["groups"]
        ]
    return {"laws of rate and batch: exponents with intervals": laws} | tables


def _limits(part: dict[str, Any]) -> str:
    """The title of what the surface says under limits."""
    served = [f"{human_count(part['served_tokens'])} served tokens"] if part["served_tokens"] else []
    unique = [f"{human_count(part['unique_tokens'])} unique tokens"] if part["unique_tokens"] else []
    return f"the surface with {' and '.join(served + unique)}"


def _constrained(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "flops": f"{row['flops']:.4g}",
        "flops interval": _interval(row.get("flops_interval"), "{:.3g}"),
        "params_opt": _count(row["params_opt"]),
        "params interval": _interval(row["params_interval"]),
        "without limits": _count(row["params_unconstrained"]),
        "tokens_opt": _count(row["tokens_opt"]),
        "epochs": f"{row['epochs']:.3g}" if "epochs" in row else None,
        "worth": _count(row.get("effective_tokens")),
        "loss": row["loss_opt"],
        "loss without": row["loss_unconstrained"],
        "serving": f"{row['serving_flops'] / row['flops']:.0%}" if row["serving_flops"] else None,
    }


def _count(value: float | None) -> str | None:
    return None if value is None else human_count(value)


def _interval(ends: list[float] | None, form: str = "") -> str | None:
    if ends is None:
        return None
    low, high = (form.format(end) if form else human_count(end) for end in ends)
    return f"{low} to {high}"


def notes(document: dict[str, Any]) -> str:
    """Sentences under the tables."""
    lines = []
    lines.append(f"cost: {_cost(document['cost'])}")
    units = document["units"]
    columns = [f"{name} = '{column}'" + (f" x {units[name]:.6g}" if units.get(name, 1) != 1 else "")
               for name, column in document["columns"].items() if column != name or units.get(name, 1) != 1]  # fmt: skip
    lines += [f"columns: {', '.join(columns)}"] if columns else []
    if document["c_min"]:
        lines.append(f"C_min: {document['c_min']['means']}")
    errors = document.get("leave_one_budget_out")
    if errors:
        worst = max(errors, key=lambda row: abs(row["error"]))
        lines.append(
            f"left out, the budget {worst['flops']:.3g} is predicted {worst['error']:+.1%} off in N_opt, the worst of all"
        )
    shape = document.get("shape")
    if shape:
        terms = " ".join(f"{shape[name]:+.4f} u^{power}" for name, power in (("k3", 3), ("k4", 4)))
        lines.append(f"shared shape: least loss + c (u^2 {terms}), u = log N - log N_opt; it misfits with p = "
                     f"{shape['misfit_p']:.2g}")  # fmt: skip
    if document.get("sparsity"):
        lines += _sparsity(document)
    if document.get("parametric"):
        lines += _surface(document["parametric"])
    influence = [row for row in document.get("influence", []) if row["change"] is not None]
    if influence:
        run = influence[0]
        lines.append(
            f"the most influential run ({run['flops']:.3g} FLOPs, {human_count(run['params'])} parameters) moves the "
            f"exponent by {-run['change']:+.4f}"
        )
    return "\n".join(lines)


def _cost(cost: dict[str, Any]) -> str:
    """What a run costs, and where that is from."""
    rule = f"C = {cost['k1']:.4g} N D" + (f" + {cost['k2']:.4g} D" if cost["k2"] else "")
    if cost["rule"] != "table":
        return rule
    if cost["agrees_with"] is None:
        off = f"{cost['worst_fraction']:.1%}"
        return f"the table's own, at most {off} off {rule}, by which predictions spend their budget"
    of = {"6nd": "the usual rule", "paper": "the report's rule"}.get(cost["agrees_with"], "fitted to its columns")
    return f"the table's own, {rule} ({of})"


def _surface(part: dict[str, Any]) -> list[str]:
    powers = (
        f"{part[term]:.4g} / {of}^{part[power]:.4f}" for term, of, power in (("A", "N", "alpha"), ("B", "D", "beta"))
    )
    lines = [
        f"surface: loss = {part['E']:.4g} + {' + '.join(powers)}; "
        f"{part['starts_agreeing_fraction']:.0%} of {part['starts']} starts agree"
    ]
    bias = part["parabolas_on_surface"]
    if bias:
        exponent = f"{bias['exponent']:.4f}, a bias of {bias['bias']:+.4f}"
        lines.append(f"on that surface, without noise, parabolas at these sizes give an exponent of {exponent}")
    return lines


def _sparsity(document: dict[str, Any]) -> list[str]:
    """The law of sparsity, and the limits of its predictions."""
    part = document["sparsity"]
    powers = {"alpha": "N", "gamma": "R", "beta": "D", "kappa": "granularity", "sigma": "1 + shared experts"}
    terms = [
        f"{name} {part[name]:.4f} ({_interval(part['intervals'][name], '{:.4f}')}) of {of}"
        for name, of in powers.items()
        if name in part
    ]
    lines = [
        f"law: loss = {part['form']}, R = {part['R']} ({part['ratios'][0]:.4g} to {part['ratios'][1]:.4g}); E "
        f"{part['E']:.4g}, A {part['A']:.4g}, B {part['B']:.4g}; exponents {', '.join(terms)}"
    ]
    if part["misfit_p"] is not None:
        lines.append(f"it misfits with p = {part['misfit_p']:.2g}, by terms in which sparsity meets size and tokens")
    if document["predictions"]:
        limits = (
            [f"a memory of {human_count(document['memory_params'])} parameters"] if document["memory_params"] else []
        )
        served = document["served_tokens"]
        limits += [f"{human_count(served)} served tokens, at a third of training's FLOPs each"] if served else []
        lines.append(f"predictions: {' and '.join(limits) or 'no memory limit, nothing served'}")
    return lines


def warned(document: dict[str, Any], refused: bool) -> list[str]:
    """The lines of standard error: one a warning."""
    return [f"{'error' if refused and warning['code'] in REFUSALS else 'warning'} [{warning['code']}]: {warning['reason']}"
            for warning in document["warnings"]]  # fmt: skip


def law_row(law: "ScalingLaw", flops: tuple[float, ...]) -> dict[str, Any]:
    """Another law beside the fitted one, with what it says of the budgets asked for."""
    predictions = [{"flops": c, "params_opt": law.n_opt(c), "tokens_opt": law.d_opt(c)} for c in flops]
    laws = {
        name: {"coefficient": one.coefficient, "exponent": one.exponent}
        for name, one in (("n_opt", law.n_opt), ("d_opt", law.d_opt))
    }
    return {"name": law.name, "source": law.source} | laws | {"predictions": predictions}
