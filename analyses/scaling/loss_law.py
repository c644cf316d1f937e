"""The least loss as a function of compute, L = E + K / C^gamma: fitted to the least losses of the budgets, with intervals.

fit_loss_laws(x (R, B), loss (R, B)) -> [LossLaw | None]    a law a row
loss_band(budgets) -> LossBand | None                       the law of a fit, with intervals by the delta method
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.scaling.isoflop import effects, noise
from analyses.scaling.parabola import BudgetFit, bounded_exp


@dataclass(frozen=True)
class LossLaw:
    """L = E + K / C^gamma, fitted to the least losses of the budgets."""

    E: float
    K: float
    gamma: float

    def at(self, x: float) -> float:
        return self.E + self.K * bounded_exp(-self.gamma * x)

    def log_flops(self, loss: float) -> float | None:
        """log C at which the law has this loss, or None where it has it nowhere."""
        return math.log(self.K / (loss - self.E)) / self.gamma if self.K > 0 and loss > self.E else None


GAMMAS = np.exp(np.linspace(math.log(0.005), math.log(1.5), 100))
NEARER = np.linspace(-1, 1, 9)


def fit_loss_laws(x: np.ndarray, loss: np.ndarray) -> list[LossLaw | None]:
    """A law for each row of x and loss (R, B) by least squares; None for fewer than 4 budgets, or losses that do not fall.

    For a given gamma, E and K are linear (variable projection). Only gamma is searched, on finer and finer grids.
    """
    if x.shape[1] < 4:
        return [None] * len(x)
    center = x.mean(axis=1, keepdims=True)
    level = loss.mean(axis=1, keepdims=True)
    best, found = np.full(len(x), np.inf), np.ones((len(x), 3))
    rows = np.arange(len(x))

    def attempt(gamma: np.ndarray) -> None:
        """Keep the best of these gammas (G, R) where it fits better."""
        f = np.exp(-gamma[..., None] * (x - center))  # (G, R, B)
        mean = f.mean(axis=2)
        f = f - mean[..., None]
        k = (f * (loss - level)).sum(axis=2) / (f * f).sum(axis=2)
        rss = ((loss - level - k[..., None] * f) ** 2).sum(axis=2)
        e = level[:, 0] - k * mean
        rss = np.where((k > 0) & (e >= 0) & (rss >= 0), rss, np.inf)
        least = rss.argmin(axis=0)
        better = rss[least, rows] < best
        best[better] = rss[least, rows][better]
        found[better] = np.stack([one[least, rows] for one in (e, k, gamma)], axis=1)[better]

    with np.errstate(all="ignore"):
        for several in np.array_split(GAMMAS, max(1, len(x) // 100)):
            attempt(np.tile(several[:, None], (1, len(x))))
        step = math.log(GAMMAS[1] / GAMMAS[0])
        while step > 1e-9:
            attempt(found[:, 2] * np.exp(step * NEARER)[:, None])
            step /= 4
    laws: list[LossLaw | None] = []
    for (e, k, gamma), rss, c in zip(found.tolist(), best.tolist(), center[:, 0].tolist(), strict=True):
        # An E that is pushed to 0 is not determined: two parameters would pass for three.
        inside = math.isfinite(rss) and GAMMAS[0] < gamma < GAMMAS[-1] and e > 1e-6
        laws.append(LossLaw(e, k * bounded_exp(gamma * c), gamma) if inside else None)
    return laws


@dataclass(frozen=True)
class LossBand:
    """The law of the least losses, and its intervals by Student's t."""

    law: LossLaw
    x: np.ndarray  # (B,) log C
    by_errors: np.ndarray  # (B, K) derivatives of the distance of each least loss from the law by the errors of the fit
    noise_variance: float
    degrees: int

    def ends(self, x: float, confidence: float) -> tuple[float, float]:
        """The interval of the least loss at exp(x) FLOPs."""
        from scipy import special

        mean = float(self.x.mean())
        height = self.law.K * math.exp(-self.law.gamma * mean)

        def derivatives(where: np.ndarray) -> np.ndarray:  # by E, K / exp(gamma mean) and gamma: (3, ...)
            fall = np.exp(-self.law.gamma * (where - mean))
            return np.stack([np.ones_like(fall), fall, -height * (where - mean) * fall])

        weights = _least_squares_weights(derivatives(self.x), derivatives(np.array(x)))
        effect = np.einsum("b,bk->k", weights, self.by_errors)
        half = float(special.stdtrit(self.degrees, (1 + confidence) / 2))
        half *= math.sqrt(self.noise_variance * float((effect * effect).sum()))
        return self.law.at(x) - half, self.law.at(x) + half


def loss_band(budgets: Sequence[BudgetFit]) -> LossBand | None:
    """None where the budgets determine no law."""
    x = np.array([budget.x for budget in budgets])
    law = fit_loss_laws(x[None], np.array([[budget.loss for budget in budgets]]))[0]
    if law is None:
        return None
    dx, _, _, dloss = effects(budgets)
    slope = -law.gamma * law.K * np.exp(-law.gamma * x)
    return LossBand(law, x, dloss - slope[:, None] * dx, *noise(budgets))


def _least_squares_weights(derivatives: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(B,) the weights of B points in what a least-squares fit says of a point with derivatives `target` (3,).

    By Gram and Schmidt's method, so that nothing depends on a library's order of sums.
    """
    basis: list[tuple[np.ndarray, float]] = []
    weights = np.zeros(derivatives.shape[1])
    for column, at in zip(derivatives.copy(), target, strict=True):
        for one, one_at in basis:
            part = float((one * column).sum())
            column, at = column - part * one, at - part * one_at
        size = math.sqrt(float((column * column).sum()))
        basis.append((column / size, at / size))
    for one, one_at in basis:
        weights = weights + one_at * one
    return weights


def crossing(gap: Callable[[float], float], x: float, side: int) -> float:
    """Where `gap` is zero left (side 1) or right (-1) of x, at which it has that sign; infinite if nowhere within 1,000."""
    near, far = x, x - side * 0.01
    while gap(far) * side > 0:
        near, far = far, x - 2 * (x - far)
        if abs(far - x) > 1000:
            return -side * math.inf
    for _ in range(80):
        middle = (near + far) / 2
        near, far = (middle, far) if gap(middle) * side > 0 else (near, middle)
    return far
