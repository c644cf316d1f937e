"""Generated programs and what they print: every statement is written and carried out at once, so the output is known."""

from collections.abc import Callable
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import answered
from model.data.synthesis.families.words import words_of

NAMES = ("total", "count", "value", "size", "score", "depth", "width", "rank", "level", "step")


class Program:
    """Lines of Python, and the values that its names have after them."""

    def __init__(self, words: list[str], random: Random) -> None:
        self.words, self.random = words, random
        self.lines: list[str] = []
        self.numbers: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self.lists: dict[str, list[int]] = {}
        self.printed: list[str] = []

    def name(self) -> str:
        """A new name."""
        taken = {*self.numbers, *self.texts, *self.lists}
        free = [name for name in NAMES if name not in taken]
        return self.random.choice(free) if free else f"x{len(taken)}"

    def number(self) -> tuple[str, int]:
        """A name of a number that is there, or a literal."""
        if self.numbers and self.random.random() < 0.8:
            name = self.random.choice(sorted(self.numbers))
            return name, self.numbers[name]
        value = self.random.randint(2, 9)
        return str(value), value

    def show(self) -> None:
        """Prints the names that were made, at most three."""
        known: dict[str, int | str | list[int]] = {**self.numbers, **self.texts, **self.lists}
        for name in sorted(known)[:3]:
            self.lines.append(f"print({name!r}, {name})")
            self.printed.append(f"{name} {known[name]}")


def assign(program: Program) -> None:
    name, value = program.name(), program.random.randint(1, 30)
    program.lines.append(f"{name} = {value}")
    program.numbers[name] = value


def combine(program: Program) -> None:
    (left, a), (right, b) = program.number(), program.number()
    sign = program.random.choice(("+", "-", "*", "//", "%"))
    if sign in ("//", "%") and b == 0:
        sign = "+"
    value = {"+": a + b, "-": a - b, "*": a * b, "//": a // (b or 1), "%": a % (b or 1)}[sign]
    if abs(value) > 10_000:
        sign, value = "-", a - b
    name = program.name()
    program.lines.append(f"{name} = {left} {sign} {right}")
    program.numbers[name] = value


def loop(program: Program) -> None:
    name, times, add = program.name(), program.random.randint(2, 6), program.random.randint(1, 5)
    text, start = program.number()
    value = start
    for i in range(times):
        value += i * add
    program.lines += [f"{name} = {text}", f"for i in range({times}):", f"    {name} += i * {add}"]
    program.numbers[name] = value


def branch(program: Program) -> None:
    text, value = program.number()
    name, limit = program.name(), program.random.randint(1, 25)
    yes, no = program.random.sample(range(1, 40), 2)
    program.lines += [f"if {text} > {limit}:", f"    {name} = {yes}", "else:", f"    {name} = {no}"]
    program.numbers[name] = yes if value > limit else no


def listing(program: Program) -> None:
    name = program.name()
    items = [program.random.randint(-9, 30) for _ in range(program.random.randint(3, 5))]
    program.lines.append(f"{name} = {items}")
    change = program.random.choice(("sort", "append", "reverse", "squares"))
    if change == "append":
        text, value = program.number()
        program.lines.append(f"{name}.append({text})")
        items = [*items, value]
    elif change == "squares":
        program.lines.append(f"{name} = [item * item for item in {name} if item > 3]")
        items = [item * item for item in items if item > 3]
    else:
        program.lines.append(f"{name}.{change}()")
        items = sorted(items) if change == "sort" else items[::-1]
    program.lists[name] = items


def wording(program: Program) -> None:
    name, word = program.name(), program.random.choice(program.words)
    first, second = program.random.randint(0, 2), program.random.randint(3, 6)
    change = program.random.choice(("upper", "slice", "reverse", "repeat"))
    written = {
        "upper": (f"{word!r}.upper()", word.upper()), "slice": (f"{word!r}[{first}:{second}]", word[first:second]),
        "reverse": (f"{word!r}[::-1]", word[::-1]), "repeat": (f"{word!r} * 2", word * 2),
    }  # fmt: skip
    text, value = written[change]
    program.lines.append(f"{name} = {text}")
    program.texts[name] = value


STATEMENTS: tuple[Callable[[Program], None], ...] = (combine, loop, branch, listing, wording)


def program(material: Material, difficulty: int, random: Random) -> Problem:
    """`difficulty` statements after an assignment; the names in alphabetical order are printed."""
    made = Program(material["words"], random)
    assign(made)
    for _ in range(difficulty):
        random.choice(STATEMENTS)(made)
    made.show()
    text = "\n".join(made.lines)
    return Problem({"program": text}, "\n".join(made.printed), {"kind": "python_stdout", "program": text})


def _other_number(problem: Problem, random: Random) -> Problem | None:
    """One digit of the output is another."""
    places = [i for i, letter in enumerate(problem.answer) if letter.isdigit()]
    if not places:
        return None
    at = random.choice(places)
    digit = str((int(problem.answer[at]) + random.randint(1, 8)) % 10)
    leads = at == 0 or not problem.answer[at - 1].isdigit()
    if digit == "0" and leads and problem.answer[at + 1 : at + 2].isdigit():
        return None
    return answered(problem, problem.answer[:at] + digit + problem.answer[at + 1 :])


def _lines(change: Callable[[list[str], int], list[str]]) -> Wrong:
    def wrong(problem: Problem, random: Random) -> Problem | None:
        lines = problem.answer.split("\n")
        return None if len(lines) < 2 else answered(problem, "\n".join(change(lines, random.randrange(len(lines) - 1))))

    return wrong


OUTPUT_ERRORS: dict[str, Wrong] = {
    "other_digit": _other_number,
    "missing_line": _lines(lambda lines, at: lines[:at] + lines[at + 1 :]),
    "swapped_lines": _lines(lambda lines, at: [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]),
}

PROGRAM = Family(
    name="program",
    domain="code",
    templates=(
        "What does this Python program print?\n\n{program}",
        "Give the output of this program.\n\n{program}",
        "{program}\n\nRun these lines in your head. What is printed?",
        "Trace this code and write down its output.\n\n{program}",
        "Here is a script:\n\n{program}\n\nWhat appears on the screen?",
        "Work out what Python writes for this program.\n\n{program}",
        "A student runs\n\n{program}\n\nWhat do they see?",
        "Follow the program line by line and state what it shows.\n\n{program}",
    ),
    form=("Write the output exactly, line by line.", "Only the printed lines, nothing else."),
    material=words_of,
    problem=program,
    errors=OUTPUT_ERRORS,
    executes=True,
)
