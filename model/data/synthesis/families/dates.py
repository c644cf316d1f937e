"""Days in the calendar: the day after so many, the weekday of a date, the days between two."""

from datetime import date, timedelta
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import OTHER_ANSWER, answered, off_by_one, swapped_digits
from model.data.synthesis.families.numbers import no_material

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST = date(1970, 1, 1)


def _day(random: Random, difficulty: int) -> date:
    return FIRST + timedelta(days=random.randrange(365 * (20 + 10 * difficulty)))


def later(material: Material, difficulty: int, random: Random) -> Problem:
    """So many days after a date; harder: more of them, over months and years."""
    start, days = _day(random, difficulty), random.randint(2, 12 * 3**difficulty)
    end = start + timedelta(days=days)
    others = tuple((end + timedelta(days=slip)).isoformat() for slip in (-2, -1, 1, 2))
    fields = {"start": start.isoformat(), "days": str(days)}
    return Problem(fields, end.isoformat(), {"kind": "date", "start": start.isoformat(), "days": days}, others=others)


def weekday(material: Material, difficulty: int, random: Random) -> Problem:
    day = _day(random, difficulty)
    answer = WEEKDAYS[day.weekday()]
    check = {"kind": "weekday", "date": day.isoformat()}
    return Problem({"date": day.isoformat()}, answer, check, others=tuple(name for name in WEEKDAYS if name != answer))


def between(material: Material, difficulty: int, random: Random) -> Problem:
    start = _day(random, difficulty)
    end = start + timedelta(days=random.randint(3, 12 * 3**difficulty))
    check = {"kind": "days_between", "start": start.isoformat(), "end": end.isoformat()}
    return Problem({"start": start.isoformat(), "end": end.isoformat()}, str((end - start).days), check)


def _slipped_month(problem: Problem, random: Random) -> Problem | None:
    """The month that follows, as one who forgets a carry writes."""
    day = date.fromisoformat(problem.answer)
    return answered(problem, f"{day.year:04}-{day.month % 12 + 1:02}-{min(day.day, 28):02}")


_DATE_ERRORS: dict[str, Wrong] = {**OTHER_ANSWER, "wrong_month": _slipped_month}

DATE = Family(
    name="date",
    domain="calendar",
    templates=(
        "Which date is {days} days after {start}?",
        "Add {days} days to {start}.",
        "A licence issued on {start} ends {days} days later. On which date?",
        "What is the date {days} days from {start}?",
        "Counting from {start}, which day comes {days} days later?",
        "A parcel sent on {start} arrived after {days} days. Name the date.",
        "If today is {start}, what date will it be in {days} days?",
        "Move {start} forward by {days} days.",
    ),
    form=("Write the date as YEAR-MONTH-DAY.", "Give the date in the same form, YYYY-MM-DD."),
    material=no_material,
    problem=later,
    errors=_DATE_ERRORS,
)
WEEKDAY = Family(
    name="weekday",
    domain="calendar",
    templates=(
        "Which day of the week was {date}?",
        "Name the weekday of {date}.",
        "On what day of the week does {date} fall?",
        "Someone was born on {date}. Which weekday was that?",
        "A calendar shows {date}. In which weekday's column?",
        "What weekday is {date}?",
        "Tell me the day of the week for {date}.",
        "{date}: Monday, Tuesday, or which other day?",
    ),
    form=("Answer with the English name of the day.", "One word is enough, such as Monday."),
    material=no_material,
    problem=weekday,
    errors=OTHER_ANSWER,
    hardest=3,
)
DAYS_BETWEEN = Family(
    name="days_between",
    domain="calendar",
    templates=(
        "How many days lie from {start} to {end}?",
        "Count the days from {start} until {end}.",
        "A project began on {start} and ended on {end}. How many days passed?",
        "What is the difference in days between {start} and {end}?",
        "How many days after {start} is {end}?",
        "Subtract {start} from {end}, in days.",
        "From {start} to {end}: how many nights?",
        "Give the number of days by which {end} is later than {start}.",
    ),
    form=("Answer with a whole number; the first day does not count.", "Give one number, not counting the first day."),
    material=no_material,
    problem=between,
    errors={"off_by_one": off_by_one, "swapped_digits": swapped_digits},
    closings=("The answer is {answer}.", "So the answer is {answer}."),
)
