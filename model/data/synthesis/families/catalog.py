"""All families of the embedded writer, by name."""

from model.data.synthesis.families.base import Family
from model.data.synthesis.families.bugs import BUG
from model.data.synthesis.families.dates import DATE, DAYS_BETWEEN, WEEKDAY
from model.data.synthesis.families.doctests import DOCTEST
from model.data.synthesis.families.numbers import ARITHMETIC, UNIT_CONVERSION
from model.data.synthesis.families.programs import PROGRAM
from model.data.synthesis.families.prose import CLOZE, ORDER
from model.data.synthesis.families.python_source import DOCSTRING, SIGNATURE
from model.data.synthesis.families.words import COUNT, LOOKUP, SETS, SORT

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        ARITHMETIC, UNIT_CONVERSION, DATE, WEEKDAY, DAYS_BETWEEN, COUNT, SORT, SETS, LOOKUP, CLOZE, ORDER, SIGNATURE,
        DOCSTRING, DOCTEST, PROGRAM, BUG,
    )
}  # fmt: skip
