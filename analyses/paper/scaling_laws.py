"""Figure 3 and its text: the laws, the budget by three routes, and the cost of a token against our own ladder."""

from collections.abc import Iterator, Sequence

from analyses.paper.row import Row
from analyses.scaling.laws import LAWS
from model.config.load import load_shape
from model.config.presets import LADDER
from model.counts import activated_params, training_flops_per_token

BUDGET = 3.1e24  # C_min; the report prints N_opt, D_opt and both laws, which give it
PARAMS, TOKENS = 58.1e9, 5.6e12
CHOSEN_PARAMS, CHOSEN_TOKENS = 52e9, 7e12
STUDY = (10e6, 1e9)  # activated parameters of the report's sweep
CONTEXT = 8192
WHERE = "scaling laws, figure 3"


def rows() -> Iterator[Row]:
    yield from law_rows()
    yield from cost_rows()


def law_rows() -> Iterator[Row]:
    law = LAWS["paper"]
    per_param, fixed = law.cost or (0.0, 0.0)
    params_law = f"N_opt = {law.n_opt.coefficient:g} C^{law.n_opt.exponent:g}"
    tokens_law = f"D_opt = {law.d_opt.coefficient:g} C^{law.d_opt.exponent:g}"

    def cost(params: float, tokens: float) -> float:
        return (per_param * params + fixed) * tokens

    routes = {
        "params": (law.n_opt.inverse(PARAMS), f"{params_law} = 58.1B, for C"),
        "tokens": (law.d_opt.inverse(TOKENS), f"{tokens_law} = 5.6T, for C"),
        "cost": (cost(PARAMS, TOKENS), "(9.59 N + 2.3e8) D at 58.1B and 5.6T"),
    }
    for name, (value, formula) in routes.items():
        yield Row(
            key=f"scaling.c_min.{name}", quantity=f"C_min by its {name}", unit="flops", published="3.1e24", value=value,
            where=WHERE, formula=formula,
        )  # fmt: skip
    yield Row(
        key="scaling.n_opt", quantity="N_opt", unit="params", published="58.1e9", value=law.n_opt(BUDGET), where=WHERE,
        formula=f"{params_law} at 3.1e24",
    )  # fmt: skip
    yield Row(
        key="scaling.d_opt", quantity="D_opt", unit="tokens", published="5.6e12", value=law.d_opt(BUDGET), where=WHERE,
        formula=f"{tokens_law} at 3.1e24",
    )  # fmt: skip
    both = law.n_opt.exponent + law.d_opt.exponent
    yield Row(
        key="scaling.exponents", quantity="exponent of N_opt from that of D_opt", published=f"{law.n_opt.exponent:g}",
        value=1 - law.d_opt.exponent, where=WHERE,
        formula=f"1 - {law.d_opt.exponent:.2f}, as C = 9.59 N D asks; the printed two sum to {both:.4f}",
    )  # fmt: skip
    chosen = cost(CHOSEN_PARAMS, CHOSEN_TOKENS)
    yield Row(
        key="scaling.chosen", quantity="C of 52B and 7T", unit="flops", published="3.1e24", value=chosen, where=WHERE,
        formula="(9.59 N + 2.3e8) D",
        underivable=f"the batch is not printed; B / B_crit of {chosen / BUDGET - 1:.3f} would make it C_min",
    )  # fmt: skip


def cost_rows() -> Iterator[Row]:
    """9.59 N + 2.3e8: FLOPs of a token over the sizes of our ladder that lie in the report's range, by two regressions."""
    sizes = ladder_costs()
    why = "the report's sizes are not printed"
    sources = f"exact FLOPs against N over {len(sizes)} sizes of our ladder at 8K"
    for way, fit in (("plain", plain_fit(sizes)), ("relative", relative_fit(sizes))):
        for index, (name, published) in enumerate((("per_param", "9.59"), ("fixed", "2.3e8"))):
            yield Row(
                key=f"scaling.cost.{name}.{way}", quantity=f"FLOPs of a token: {'per parameter' if not index else 'fixed'}",
                published=published, value=fit[index], where=WHERE, underivable=why,
                formula=f"{sources}, squares of {way} errors",
            )  # fmt: skip


def ladder_costs() -> list[tuple[int, int]]:
    """(activated parameters, training FLOPs of a token at 8K) of the ladder's sizes in the report's range."""
    shapes = [load_shape(f"ladder-{width}") for width in LADDER]
    sizes = [(activated_params(shape), training_flops_per_token(shape, CONTEXT)) for shape in shapes]
    return [size for size in sizes if STUDY[0] <= size[0] <= STUDY[1]]


def plain_fit(sizes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """k1, k2 of FLOPs = k1 N + k2 with the least sum of squared errors."""
    mean_n, mean_f = (sum(column) / len(sizes) for column in zip(*sizes, strict=True))
    slope = sum((n - mean_n) * (f - mean_f) for n, f in sizes) / sum((n - mean_n) ** 2 for n, _ in sizes)
    return slope, mean_f - slope * mean_n


def relative_fit(sizes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The same of squared relative errors, which weigh small models as much as large ones."""
    rows = [(n / f, 1 / f) for n, f in sizes]  # k1 a + k2 b = 1
    aa, ab, bb = (
        sum(x * y for x, y in pairs) for pairs in (_pairs(rows, 0, 0), _pairs(rows, 0, 1), _pairs(rows, 1, 1))
    )
    a, b = (sum(column) for column in zip(*rows, strict=True))
    determinant = aa * bb - ab * ab
    return (a * bb - b * ab) / determinant, (b * aa - a * ab) / determinant


def _pairs(rows: Sequence[tuple[float, float]], i: int, j: int) -> list[tuple[float, float]]:
    return [(row[i], row[j]) for row in rows]
