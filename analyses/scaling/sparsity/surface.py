"""The loss of mixtures as a joint law of activated parameters, sparsity and tokens.

    L = E + A / (N^alpha R^gamma) + B / D^beta

N activated parameters, D tokens, R the ratio of total to activated parameters (1 for a dense model), or the number of
experts where a table has no total. 1 / R is the share of active parameters that Abnar et al. 2025 write 1 - S
(arXiv:2501.12370). N R^(gamma / alpha) is the effective number of parameters of Clark et al. 2022 (arXiv:2202.01169).
Two more factors of the first power are fitted where runs differ in them: G^-kappa for granularity G, the width of the dense
layer by that of an expert (Krajewski et al. 2024, arXiv:2402.07871, whose law is g / G^gamma + a), and (1 + S)^-sigma for S
shared experts, for which there is no published form.

With `interaction` the exponents depend on sparsity, as in Ludziejewski et al. 2025 (arXiv:2502.05172), and the first as in
Clark's law (c log N log E):

    log of the first power  = a - alpha x - gamma r - chi x r        x, r, y: log N, log R, log D less their means
    log of the second power = b - beta y - omega r - zeta y r

Every power is exp of a sum that is linear in theta = (log E, a, b, alpha, beta, gamma, ...), so all forms share one solver.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analyses.scaling.robust import Array, Model, RobustFit, residual_draws, robust_fit

BASE = ("E", "A", "B", "alpha", "beta", "gamma")
INTERACTION = ("chi", "omega", "zeta")
STARTS = 40


@dataclass(frozen=True)
class Variables:
    """Logs of what the runs differ in, (n,) each; `more` are those of the covariates."""

    x: Array  # log N
    r: Array  # log R
    y: Array  # log D
    more: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Form:
    """Which powers a law has, about which centre."""

    centre: tuple[float, float, float]  # means of log N, log R, log D
    covariates: tuple[str, ...] = ()  # exponents kappa and sigma, by name
    interaction: bool = False

    @classmethod
    def of(cls, variables: Variables, covariates: Sequence[str], interaction: bool) -> "Form":
        centre = (float(variables.x.mean()), float(variables.r.mean()), float(variables.y.mean()))
        return cls(centre, tuple(covariates), interaction)

    @property
    def names(self) -> tuple[str, ...]:
        return BASE + (INTERACTION if self.interaction else ()) + self.covariates

    def design(self, variables: Variables) -> Array:
        """(3, n, p): what theta is multiplied by in the log of E and of both powers."""
        x, r, y = (
            value - mean for value, mean in zip((variables.x, variables.r, variables.y), self.centre, strict=True)
        )
        design = np.zeros((3, len(x), len(self.names)))
        design[[0, 1, 2], :, [0, 1, 2]] = 1
        design[1, :, 3], design[2, :, 4], design[1, :, 5] = -x, -y, -r
        at = len(BASE)
        if self.interaction:
            design[1, :, at], design[2, :, at + 1], design[2, :, at + 2] = -x * r, -r, -y * r
            at += len(INTERACTION)
        for index, value in enumerate(variables.more):
            design[1, :, at + index] = -value
        return design

    def written(self, theta: Array) -> Array:
        """(R, p) E, A, B and exponents of the law as it is written, from theta (R, p); with `interaction` A and B are the
        powers at the centre, since no exponent holds everywhere."""
        out = np.array(theta, dtype=float)
        if not self.interaction:
            x, r, y = self.centre
            out[:, 1] += theta[:, 3] * x + theta[:, 5] * r
            out[:, 2] += theta[:, 4] * y
        out[:, :3] = np.exp(np.minimum(out[:, :3], 700))
        return out

    def theta(self, written: Array) -> Array:
        """The inverse of `written`, of one law (p,)."""
        theta = np.array(written, dtype=float)
        theta[:3] = np.log(theta[:3])
        if not self.interaction:
            x, r, y = self.centre
            theta[1] -= theta[3] * x + theta[5] * r
            theta[2] -= theta[4] * y
        return theta


def sum_of_powers(design: Array) -> Model:
    """The log of a sum of exp(design (K, n, p) theta), with its derivatives."""

    def model(theta: Array) -> tuple[Array, Array]:
        terms = np.stack([theta @ power.T for power in design], axis=1)  # (R, K, n)
        top = terms.max(axis=1, keepdims=True)
        parts = np.exp(terms - top)
        total = parts.sum(axis=1)
        return top[:, 0] + np.log(total), np.einsum("rkn,knp->rnp", parts / total[:, None], design)

    return model


@dataclass(frozen=True)
class SparsitySurface:
    """A fitted law and its resamples."""

    form: Form
    fit: RobustFit
    draws: Array  # (R, p) theta of the residual bootstrap

    @property
    def theta(self) -> Array:
        return self.fit.theta

    def written(self) -> dict[str, float]:
        return dict(zip(self.form.names, self.form.written(self.theta[None])[0].tolist(), strict=True))


def fit_surface(
    variables: Variables, loss: Array, form: Form, generator: np.random.Generator, resamples: int
) -> SparsitySurface:
    """The law of the runs, fitted to log loss from random starts, with resamples of its residuals."""
    model, target = sum_of_powers(form.design(variables)), np.log(loss)
    fit = robust_fit(model, target, _starts(form, target, generator))
    return SparsitySurface(form, fit, residual_draws(fit, model, target, resamples, generator))


def _starts(form: Form, target: Array, generator: np.random.Generator) -> Array:
    """(STARTS, p): E a share of the least loss, both powers what is left of the mean in random parts, modest exponents."""
    start = np.zeros((STARTS, len(form.names)))
    least, mean = np.exp(target.min()), np.exp(target).mean()
    floor = least * generator.uniform(0.2, 0.98, STARTS)
    part = generator.uniform(0.1, 0.9, STARTS)
    start[:, 0] = np.log(floor)
    start[:, 1], start[:, 2] = np.log((mean - floor) * part), np.log((mean - floor) * (1 - part))
    start[:, 3:5] = generator.uniform(0.05, 0.9, (STARTS, 2))
    start[:, 5] = generator.uniform(0.0, 0.4, STARTS)
    return start


def misfit(variables: Variables, loss: Array, plain: SparsitySurface, generator: np.random.Generator) -> float:
    """The p-value of the three interaction terms by an F test on the plain law's residuals; 1 with too few runs."""
    from scipy import special

    wider = Form(plain.form.centre, plain.form.covariates, interaction=True)
    degrees = len(loss) - len(wider.names)
    if degrees < 1:
        return 1.0
    start = _starts(wider, np.log(loss), generator)
    own = plain.theta
    start[0] = np.concatenate([own[: len(BASE)], np.zeros(len(INTERACTION)), own[len(BASE) :]])
    fit = robust_fit(sum_of_powers(wider.design(variables)), np.log(loss), start)
    before, after = (float((one.residuals**2).sum()) for one in (plain.fit, fit))
    rounding = len(loss) * 1e-24
    if before <= rounding or after >= before:
        return 1.0
    return float(special.fdtrc(3, degrees, (before - after) / 3 / max(after / degrees, 1e-300)))
