"""One number of the report beside ours, and what to say about the two."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

Verdict = Literal["agrees", "rounds differently", "not derivable", "differs"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A number. `published` is written with the digits that the report prints, such as "58.1e9".

    Without it the report prints the parts and not the result: then the row has the result.
    """

    key: str
    quantity: str
    value: float
    formula: str
    where: str  # in the report
    unit: str = ""  # params, tokens, flops, bytes, percent, points; empty for plain numbers
    published: str | None = None
    underivable: str = ""  # why the printed number does not follow from what the report prints

    @property
    def verdict(self) -> Verdict:
        """agrees where our number rounds to the printed one, or nothing is printed that it could differ from."""
        if self.underivable:
            return "not derivable"
        if self.published is None:
            return "agrees"
        printed, value = Decimal(self.published), Decimal(repr(round(self.value, 9)))
        step = Decimal(1).scaleb(int(printed.as_tuple().exponent))  # one of the last digit that is printed
        if value.quantize(step, ROUND_HALF_UP) == printed:
            return "agrees"
        return "rounds differently" if abs(value - printed) <= step else "differs"

    def document(self) -> dict[str, Any]:
        published = None if self.published is None else float(self.published)
        return {
            "key": self.key,
            "quantity": self.quantity,
            "unit": self.unit,
            "published": published,
            "value": self.value,
            "difference": None if published is None else self.value - published,
            "verdict": self.verdict,
            "formula": self.formula + (f"; {self.underivable}" if self.underivable else ""),
            "where": self.where,
        }
