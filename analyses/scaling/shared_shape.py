"""One shape for all budgets of an isoFLOP study: loss = l + c (u^2 + k3 u^3 + k4 u^4), u = log N - m.

Each budget has its own least loss l, minimum m and curvature c; k3 and k4 are shared. On E + A/N^a + B/D^b at C = k N D all
budgets have exactly one shape but for its height, whatever a and b, so that minima are not biased where a parabola's are.

    fit_shared_shape(budgets) -> SharedShape | str    or why there is none
    shaped_laws(shape)        -> the power laws of N_opt and D_opt, with intervals by the delta method
    shaped(fit)               -> the fit with those laws, the shape, and what to tell; the fit as it was where there is none

The fit is by Gauss and Newton's method from the parabolas. A budget's three parameters are eliminated (QR), so that the
shared ones are a problem of two unknowns (variable projection, Golub and Pereyra 1973).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyses.scaling.findings import Finding
from analyses.scaling.isoflop import MISFIT_LEVEL, SCATTER_LEVEL, IsoflopFit, PowerFit, slope_and_level
from analyses.scaling.parabola import BudgetFit, distinct_sizes
from analyses.scaling.predictions import LossLaw, fit_loss_laws
from analyses.scaling.refusals import refuse_laws

MIN_DEGREES = 4  # of freedom of the noise: with fewer, Student's t makes the intervals useless
COLLINEAR = 1e-6  # 1 - r^2 of the shared terms, below which they are one: four sizes at the same places in every budget
STEPS, HALVINGS = 100, 30


@dataclass(frozen=True)
class SharedShape:
    """A fitted shape. Of P whitened errors, which are independent with the variance of the noise, `errors` has the effects."""

    budgets: tuple[BudgetFit, ...]
    least: np.ndarray  # (B,) losses at the minima
    minima: np.ndarray  # (B,) log N
    curvature: np.ndarray  # (B,)
    k3: float
    k4: float
    errors: np.ndarray  # (B, 3, P) of least, minimum and curvature
    shared_errors: np.ndarray  # (2, P) of k3 and k4
    noise_variance: float
    degrees: int
    misfit_p: float  # of the test that the shape fits but for noise

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The logs of compute (C, or C_min), N_opt and D_opt: (B,) each."""
        x = np.array([math.log(budget.flops) for budget in self.budgets])
        for i, budget in enumerate(self.budgets):
            if budget.c_min is not None:
                x[i] += budget.c_min.log_factor(budget.batch_tokens, self.least[i])
        z = [budget.log_tokens_at(at, y) for budget, at, y in zip(self.budgets, x, self.minima, strict=True)]
        return x, self.minima, np.array(z)

    def effects(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The effects of the whitened errors on `places`: (B, P) each."""
        dx = np.zeros_like(self.errors[:, 0])
        for i, budget in enumerate(self.budgets):
            if budget.c_min is not None:
                dx[i] = budget.c_min.slope(budget.batch_tokens, float(self.least[i])) * self.errors[i, 0]
        dy = self.errors[:, 1]
        slopes = [budget.tokens_slope(float(y)) for budget, y in zip(self.budgets, self.minima, strict=True)]
        return dx, dy, dx + np.array(slopes)[:, None] * dy

    def interval(self, center: float, effects: np.ndarray, confidence: float) -> tuple[float, float]:
        """The interval by Student's t of a quantity that the whitened errors have these effects (P,) on."""
        from scipy import special

        half = float(special.stdtrit(self.degrees, (1 + confidence) / 2))
        half *= math.sqrt(self.noise_variance * float((effects * effects).sum()))
        return center - half, center + half

    def loss_law(self) -> LossLaw | None:
        return fit_loss_laws(self.places()[0][None], self.least[None])[0]

    def loss_interval(self, law: LossLaw, x: float, confidence: float) -> tuple[float, float]:
        """The interval of the least loss at exp(x) FLOPs, by the law through the least losses of the budgets."""
        at, mean = self.places()[0], float(self.places()[0].mean())

        def derivatives(where: np.ndarray) -> np.ndarray:  # by E, K / exp(gamma mean) and gamma
            fall = np.exp(-law.gamma * (where - mean))
            height = law.K * math.exp(-law.gamma * mean)
            return np.stack([np.ones_like(fall), fall, -height * (where - mean) * fall], axis=-1)

        slope = -law.gamma * law.K * np.exp(-law.gamma * at)
        own = self.errors[:, 0] - slope[:, None] * self.effects()[0]
        weights = derivatives(np.array([x])) @ np.linalg.pinv(derivatives(at))
        return self.interval(law.at(x), (weights @ own)[0], confidence)


def fit_shared_shape(budgets: Sequence[BudgetFit]) -> SharedShape | str:
    """The least-squares shape of budgets with minima, or a sentence that says why they have none."""
    runs = sum(len(budget.runs) for budget in budgets)
    degrees = runs - 3 * len(budgets) - 2
    if degrees < MIN_DEGREES:
        need = 3 * len(budgets) + 2 + MIN_DEGREES
        return f"the {len(budgets)} usable budgets have {runs} runs, and a shared shape needs {need}"
    log_params = [np.log(budget.runs.params) for budget in budgets]
    level = [float(budget.runs.loss.mean()) for budget in budgets]
    loss = [budget.runs.loss - mean for budget, mean in zip(budgets, level, strict=True)]
    own = np.array(
        [[budget.loss - mean, budget.y, budget.curvature] for budget, mean in zip(budgets, level, strict=True)]
    )
    shape = np.zeros(2)
    residuals = _residuals(log_params, loss, own, shape)
    total = _sum(residuals)
    size = math.sqrt(sum(float((values * values).sum()) for values in loss))
    for _ in range(STEPS):
        solved = _linear(log_params, own, shape)
        if solved is None:
            return "the sizes of the budgets lie so alike that they do not tell k3 from k4"
        own_step, shape_step = solved.steps(residuals)
        for halving in range(HALVINGS):
            new = own + own_step * 0.5**halving, shape + shape_step * 0.5**halving
            found = _residuals(log_params, loss, *new)
            if _sum(found) <= total * (1 + 1e-14):
                break
        else:
            break
        gain, total = total - _sum(found), _sum(found)
        (own, shape), residuals = new, found
        if gain <= 1e-13 * total or math.sqrt(total) < 1e-13 * size:
            break
    else:
        return "its fit does not converge: the losses do not determine k3 and k4"
    reason = _unsound(budgets, log_params, own, shape)
    solved = _linear(log_params, own, shape)
    if reason is not None or solved is None:
        return reason or "the sizes of the budgets do not determine k3 and k4"
    errors, shared_errors = solved.effects()
    misfit = _misfit(budgets, log_params, own[:, 1], residuals, solved, degrees)
    return SharedShape(
        tuple(budgets), own[:, 0] + level, own[:, 1], own[:, 2], float(shape[0]), float(shape[1]), errors, shared_errors,
        total / degrees, degrees, misfit,
    )  # fmt: skip


def shaped_laws(shape: SharedShape) -> tuple[PowerFit, PowerFit]:
    """The power laws of N_opt and D_opt through the minima of a shape."""
    (x, y, z), (dx, dy, dz) = shape.places(), shape.effects()
    return _law(shape, x, y, dx, dy), _law(shape, x, z, dx, dz)


def shaped(fit: IsoflopFit) -> tuple[IsoflopFit, SharedShape | None, list[Finding]]:
    """The parabolas' fit with the laws of the shared shape. It stays as it is, and a finding says why, where there is none."""
    if fit.params_law is None:
        return fit, None, []
    shape = fit_shared_shape(fit.usable)
    if not isinstance(shape, str):
        laws = shaped_laws(shape)
        refusal = refuse_laws([(law.exponent, law.log_coefficient) for law in laws])
        if refusal is None:
            left = tuple(one for one in fit.findings if one.code not in ("lack_of_fit", "power_law_misfit"))
            findings = []
            if shape.misfit_p < MISFIT_LEVEL:
                reason = (
                    f"the shared shape misfits the losses beyond their noise (p = {shape.misfit_p:.1g}): drop the sizes "
                    "farthest from the minimum, or read --method parametric beside it"
                )
                findings.append(Finding("shape_misfit", reason))
            if laws[0].scatter_p < SCATTER_LEVEL:
                reason = (
                    f"the minima scatter about the power law beyond the noise of the losses (p = {laws[0].scatter_p:.1g}): "
                    "the intervals are those of the scatter where it gives wider ones"
                )
                findings.append(Finding("power_law_misfit", reason))
            return replace(fit, params_law=laws[0], tokens_law=laws[1], findings=left), shape, findings
        shape = refusal.reason
    return fit, None, [Finding("shape_fallback", f"no shared shape, parabolas instead: {shape}")]


def _law(shape: SharedShape, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> PowerFit:
    from scipy import special

    exponent, level, x_mean = (float(value) for value in slope_and_level(x, y))
    u, v = x - x_mean, y - level
    spread = float((u * u).sum())
    by_level = (dy - exponent * dx).mean(axis=0)
    by_exponent = (u @ dy + (v - 2 * exponent * u) @ dx) / spread
    # The scatter of the minima against what the noise explains: an F test with Satterthwaite's degrees of freedom.
    projection = np.eye(len(u)) - 1 / len(u) - u[:, None] * u / spread
    effects = projection @ (dy - exponent * dx)
    covariance = effects @ effects.T
    mean, square = float(np.trace(covariance)), float((covariance * covariance).sum())
    scatter, p = float(((v - exponent * u) ** 2).sum()), 1.0
    if shape.noise_variance * mean > 1e-24 * len(u):
        p = float(special.fdtrc(mean**2 / square, shape.degrees, scatter / (shape.noise_variance * mean)))
    gradients = np.stack([by_level, by_exponent])[:, None, :]
    return PowerFit(exponent, level, x_mean, x, y, gradients, np.zeros(2), shape.noise_variance, shape.degrees, p)


def _residuals(
    log_params: Sequence[np.ndarray], loss: Sequence[np.ndarray], own: np.ndarray, shape: np.ndarray
) -> list[np.ndarray]:
    found = []
    for at, values, (least, minimum, curvature) in zip(log_params, loss, own, strict=True):
        u = at - minimum
        found.append(values - least - curvature * u * u * (1 + u * (shape[0] + u * shape[1])))
    return found


def _sum(residuals: Sequence[np.ndarray]) -> float:
    with np.errstate(all="ignore"):
        total = math.fsum(float((values * values).sum()) for values in residuals)
    return total if math.isfinite(total) else math.inf


@dataclass(frozen=True)
class _Linear:
    """The model linearised: by budget Q (n, 3), R (3, 3) and the shared derivatives (n, 2); what is left of those."""

    q: list[np.ndarray]
    r: list[np.ndarray]
    shared: list[np.ndarray]
    left: list[np.ndarray]  # (n, 2), orthogonal to Q
    factor: np.ndarray  # (2, 2) upper triangular: factor^T factor = sum of left^T left

    def steps(self, residuals: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        target = sum(left.T @ values for left, values in zip(self.left, residuals, strict=True))
        shape = np.linalg.solve(self.factor, np.linalg.solve(self.factor.T, target))
        own = [np.linalg.solve(r, q.T @ (values - shared @ shape))
               for q, r, shared, values in zip(self.q, self.r, self.shared, residuals, strict=True)]  # fmt: skip
        return np.array(own), shape

    def effects(self) -> tuple[np.ndarray, np.ndarray]:
        """How 3 B + 2 independent errors move the budgets' parameters (B, 3, P) and the shared ones (2, P)."""
        budgets = len(self.q)
        own, shape = np.zeros((budgets, 3, 3 * budgets + 2)), np.zeros((2, 3 * budgets + 2))
        shape[:, -2:] = np.linalg.inv(self.factor)
        for i, (q, r, shared) in enumerate(zip(self.q, self.r, self.shared, strict=True)):
            own[i, :, 3 * i : 3 * i + 3] = np.linalg.inv(r)
            own[i, :, -2:] = -np.linalg.solve(r, q.T @ shared) @ shape[:, -2:]
        return own, shape


def _linear(log_params: Sequence[np.ndarray], own: np.ndarray, shape: np.ndarray) -> _Linear | None:
    """None where the derivatives are not independent."""
    parts: tuple[list[np.ndarray], ...] = ([], [], [], [])
    for at, (_, minimum, curvature) in zip(log_params, own, strict=True):
        u = at - minimum
        slope = -curvature * u * (2 + u * (3 * shape[0] + 4 * shape[1] * u))
        q, r = np.linalg.qr(np.stack([np.ones_like(u), slope, u * u * (1 + u * (shape[0] + u * shape[1]))], axis=1))
        if not np.isfinite(r).all() or np.abs(np.diag(r)).min() < 1e-10 * np.abs(r).max():
            return None
        shared = curvature * np.stack([u**3, u**4], axis=1)
        for part, value in zip(parts, (q, r, shared, shared - q @ (q.T @ shared)), strict=True):
            part.append(value)
    gram = sum(left.T @ left for left in parts[3])
    if not np.isfinite(gram).all() or gram[0, 0] * gram[1, 1] - gram[0, 1] ** 2 <= COLLINEAR * gram[0, 0] * gram[1, 1]:
        return None
    return _Linear(parts[0], parts[1], parts[2], parts[3], np.linalg.cholesky(gram).T)


def _unsound(
    budgets: Sequence[BudgetFit], log_params: Sequence[np.ndarray], own: np.ndarray, shape: np.ndarray
) -> str | None:
    """Why a shape is none: a minimum outside of the sizes, or a second one within them."""
    for budget, at, (_, minimum, curvature) in zip(budgets, log_params, own, strict=True):
        if not (curvature > 0 and at.min() < minimum < at.max()):
            return f"budget {budget.flops:.4g} has no minimum of that shape inside its sizes"
        u = np.linspace(at.min(), at.max(), 50) - minimum
        if not (2 + u * (3 * shape[0] + 4 * shape[1] * u) > 0).all():
            return f"it would have a second minimum inside the sizes of budget {budget.flops:.4g}"
    return None


def _misfit(
    budgets: Sequence[BudgetFit],
    log_params: Sequence[np.ndarray],
    minima: np.ndarray,
    residuals: Sequence[np.ndarray],
    solved: _Linear,
    degrees: int,
) -> float:
    """The p-value of more terms, u^5, u^6 and a change of k3 and k4 with log C, and, with seeds, of the means of sizes.

    The smaller p-value of two tests counts double.
    """
    from scipy import special

    x = np.array([math.log(budget.flops) for budget in budgets])
    total, scale = _sum(residuals), max(budget.loss for budget in budgets)
    runs = sum(map(len, residuals))
    if total <= runs * (1e-12 * scale) ** 2:
        return 1.0
    more = []
    for at, minimum, q, shift, curvature in zip(
        log_params, minima, solved.q, x - x.mean(), (b.curvature for b in budgets), strict=True
    ):
        u = at - minimum
        terms = curvature * np.stack([u**5, u**6, shift * u**3, shift * u**4], axis=1)
        more.append(terms - q @ (q.T @ terms))
    terms, left, values = (np.concatenate(part) for part in (more, solved.left, residuals))
    terms = terms - left @ np.linalg.lstsq(left, terms, rcond=None)[0]
    p = []
    terms = terms[:, : min(4, degrees - 2)]
    size = np.sqrt((terms * terms).sum(axis=0))
    terms = terms[:, size > 1e-12 * size.max()] / size[size > 1e-12 * size.max()]
    if terms.size:
        fitted, _, rank, _ = np.linalg.lstsq(terms, values, rcond=1e-6)
        rest = max(float(((values - terms @ fitted) ** 2).sum()), 1e-18 * total)
        p.append(float(special.fdtrc(rank, degrees - rank, (total - rest) / rank / (rest / (degrees - rank)))))
    pure, cells = 0.0, 0
    for budget, one in zip(budgets, residuals, strict=True):
        _, size_of = np.unique(budget.runs.params, return_inverse=True)
        means = np.bincount(size_of, one) / np.bincount(size_of)
        pure, cells = pure + float(((one - means[size_of]) ** 2).sum()), cells + distinct_sizes(budget.runs.params)
    free = cells - (runs - degrees)
    if free > 0 and runs > cells and pure > 1e-18 * total:
        p.append(float(special.fdtrc(free, runs - cells, (total - pure) / free / (pure / (runs - cells)))))
    return min(1.0, len(p) * min(p)) if p else 1.0
