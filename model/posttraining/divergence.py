"""Signs that a policy is being spoilt rather than taught, each told once and again only after it was gone.

far        KL to the reference beyond its bound
long       answers that grow and grow: many rewards like length without saying so
hacked     the reward that is learnt from rises while the true one has fallen, by more than chance
"""

from typing import Any

LONGER = 1.5  # times the reference's answers
SPREADS = 2.0  # standard errors of a difference that chance does not explain


class DivergenceWatch:
    """check(figures) of an evaluation -> sentences; its state goes into a checkpoint."""

    def __init__(self, kl_bound: float, state: dict[str, Any] | None = None) -> None:
        self.kl_bound = kl_bound
        state = state or {}
        self.told: list[str] = list(state.get("told", []))
        self.lengths: list[float] = list(state.get("lengths", []))
        self.best: dict[str, float] = dict(state.get("best", {}))  # the evaluation with the highest true reward

    def state(self) -> dict[str, Any]:
        return {"told": self.told, "lengths": self.lengths, "best": self.best}

    def check(self, figures: dict[str, float], true_error: float = 0.0) -> list[str]:
        """Figures of metrics.jsonl; `true_error` is the standard error of the true reward."""
        signs = {"far": self._far(figures), "long": self._long(figures), "hacked": self._hacked(figures, true_error)}
        new = [sentence for name, sentence in signs.items() if sentence and name not in self.told]
        self.told = [name for name, sentence in signs.items() if sentence]
        return new

    def _far(self, figures: dict[str, float]) -> str:
        kl = figures["kl"]
        if kl <= self.kl_bound:
            return ""
        return (
            f"the policy diverges: its KL to the reference is {kl:.3g} nats an answer, beyond dpo.kl_bound {self.kl_bound:g}; "
            "raise --beta, or lower --learning-rate"
        )

    def _long(self, figures: dict[str, float]) -> str:
        length, first = figures["answer_length"], figures["reference_answer_length"]
        self.lengths = [*self.lengths, length][-3:]
        growing = len(self.lengths) == 3 and self.lengths == sorted(self.lengths)
        if length <= LONGER * first or not (growing or "long" in self.told):
            return ""
        return (
            f"answers grow: {first:.3g} tokens at the start, {length:.3g} now, {figures['cut_share']:.0%} of them cut; look at "
            "what the reward makes of length, or raise --sft-coefficient"
        )

    def _hacked(self, figures: dict[str, float], true_error: float) -> str:
        if "true_reward" not in figures or "proxy_reward" not in figures:
            return ""
        proxy, true = figures["proxy_reward"], figures["true_reward"]
        if not self.best:
            self.best = {"proxy": figures["reference_proxy_reward"], "true": figures["reference_true_reward"]}
        fallen = true < self.best["true"] - SPREADS * 2**0.5 * true_error
        if true > self.best["true"]:
            self.best = {"proxy": proxy, "true": true}
        if not (fallen and proxy > self.best["proxy"]):
            return ""
        return (
            f"the reward is being hacked: it rose from {self.best['proxy']:.3g} to {proxy:.3g} while the true reward fell from "
            f"{self.best['true']:.3g} to {true:.3g}; stop here, mend the reward, or raise --sft-coefficient or --beta"
        )
