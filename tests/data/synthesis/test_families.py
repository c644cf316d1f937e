"""The embedded problems: right by an independent count, as hard as they say, and wrong exactly where an error is planted."""

import ast
import calendar
import datetime
import io
import string
from contextlib import redirect_stdout
from fractions import Fraction
from random import Random

import pytest

from model.data.synthesis.families.base import HARDEST, Problem, Split, is_held_out
from model.data.synthesis.families.catalog import FAMILIES
from model.data.synthesis.families.doctests import module_of
from model.data.synthesis.families.errors import factor_of_ten, item_errors, sign
from model.data.synthesis.families.numbers import SCALES
from model.data.synthesis.spans import Span

TEXT = '''def shorten(text, width=8):
    """Cut a text at a width and mark the cut.

    The width is that of the result. A shorter text stays as it is, whatever the width. Blanks at the end of the result
    are taken away. The mark counts as one letter of the result.

    >>> shorten("wonderful", 5)
    'wond~'
    """
    return text if len(text) <= width else text[: width - 1].rstrip() + "~"


def lengthen(text, width=8, fill=" "):
    """Repeat the last letter of a text up to a width."""
    return text + fill * (width - len(text))
'''
PROSE = (
    "The harbour was quiet before the harbour master came. She carried three lanterns along the wooden pier. "
    "Every lantern had its own colour and its own meaning. Fishermen watched the pier from their small boats. "
    "Nobody spoke until the last lantern was lit."
)
NAMES = sorted(FAMILIES)


def span_of(text, name="notes.txt"):
    return Span({"name": name, "sha256": "", "start": 0, "end": len(text)}, text, "prose")


def problems(name, difficulty, count=12, text=None):
    family = FAMILIES[name]
    source = text or (PROSE if name in ("cloze", "order") else TEXT)
    made = []
    for number in range(40 * count):
        random = Random(number)
        material = family.material(span_of(source), random)
        problem = family.problem(material, min(difficulty, family.hardest), random)
        if problem is not None:
            made.append(problem)
        if len(made) == count:
            return made
    raise AssertionError(f"{name} made {len(made)} problems only")


def value_of(node):
    """Arithmetic by the syntax tree, in fractions."""
    if isinstance(node, ast.BinOp):
        left, right = value_of(node.left), value_of(node.right)
        return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]
    return -value_of(node.operand) if isinstance(node, ast.UnaryOp) else Fraction(node.value)


def printed(program):
    """The output of a program that this repository wrote itself."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(program, "<problem>", "exec"), {"__name__": "problem"})
    return out.getvalue().rstrip("\n")


def fails(program):
    try:
        printed(program)
    except AssertionError:
        return True
    return False


def truth(check):
    """Whether an answer is right, computed in another way than the family does; a function of the answer."""
    match check["kind"]:
        case "arithmetic":
            value = value_of(ast.parse(check["expression"], mode="eval").body)
            return lambda answer: Fraction(answer) == value
        case "unit":
            value = Fraction(check["value"]) * SCALES[check["from"]] / SCALES[check["to"]]
            return lambda answer: Fraction(answer) == value
        case "date":
            ordinal = datetime.date.fromisoformat(check["start"]).toordinal() + check["days"]
            return lambda answer: answer == str(datetime.date.fromordinal(ordinal))
        case "weekday":
            year, month, day = map(int, check["date"].split("-"))
            return lambda answer: answer == calendar.day_name[calendar.weekday(year, month, day)]
        case "days_between":
            end, start = (datetime.date.fromisoformat(check[key]).toordinal() for key in ("end", "start"))
            return lambda answer: answer == str(end - start)
        case "count":
            units = check["text"].split() if check["unit"] == "word" else list(check["text"])
            return lambda answer: answer == str(sum(unit == check["item"] for unit in units))
        case "sort":
            key = {
                "ascending": int,
                "descending": lambda x: -int(x),
                "alphabetical": str,
                "length": lambda x: (len(x), x),
            }
            return lambda answer: answer == ", ".join(sorted(check["items"], key=key[check["order"]]))
        case "set":
            left, right = check["left"], check["right"]
            inside = {
                "union": lambda x: x in left or x in right, "intersection": lambda x: x in left and x in right,
                "difference": lambda x: x in left and x not in right,
                "symmetric_difference": lambda x: (x in left) != (x in right),
            }[check["operation"]]  # fmt: skip
            return lambda answer: answer.split(", ") == sorted({x for x in left + right if inside(x)})
        case "lookup":
            key = check["key"]
            for _ in range(check["hops"]):
                key = check["table"][key]
            return lambda answer: answer == key
        case "order":
            return lambda answer: [check["shown"][int(i) - 1] for i in answer.split()] == check["original"]
        case "cloze":
            return lambda answer: check["blanked"].replace("____", answer) == check["text"]
        case "signature":
            whole = ast.unparse(ast.parse(check["source"]).body[0])
            return lambda answer: whole.startswith(answer + "\n")
        case "docstring":
            documented = ast.get_docstring(ast.parse(check["source"]).body[0])
            return lambda answer: answer == documented
        case "python_stdout":
            output = printed(check["program"])
            return lambda answer: answer == output
        case "bug":
            before, after = check["program"].split("\n"), check["fixed"].split("\n")
            [line] = [i for i, (a, b) in enumerate(zip(before, after, strict=True), start=1) if a != b]
            assert fails(check["program"]) and not fails(check["fixed"])
            return lambda answer: answer == str(line)
    raise AssertionError(check["kind"])


@pytest.mark.parametrize("difficulty", [1, 3, HARDEST])
@pytest.mark.parametrize("name", NAMES)
def test_the_answers_are_right(name, difficulty):
    for problem in problems(name, difficulty):
        assert truth(problem.check)(problem.answer), problem


@pytest.mark.parametrize("name", NAMES)
def test_planted_errors_are_errors(name):
    """Each named error gives a wrong answer, or a step that is false; and each is found at least once."""
    family, met = FAMILIES[name], set()
    for difficulty in (1, 2, 4):
        for number, problem in enumerate(problems(name, difficulty, 10)):
            right = truth(problem.check)
            for error, wrong in family.errors.items():
                bad = wrong(problem, Random(number))
                if bad is not None:
                    met.add(error)
                    assert bad.check == problem.check
                    if error == "wrong_step_right_answer":
                        assert bad.answer == problem.answer
                        assert not all(value_of(ast.parse(a, mode="eval").body) == Fraction(b)
                                       for a, _, b in (step.partition(" = ") for step in bad.steps))  # fmt: skip
                    else:
                        assert not right(bad.answer), (error, problem.answer, bad.answer)
    assert met == set(family.errors)


def test_what_changes_nothing_is_no_error():
    zero = Problem({}, "0", {})
    assert sign(zero, Random(0)) is None and factor_of_ten(zero, Random(0)) is None
    assert item_errors(", ")["swapped_items"](Problem({}, "a, a", {}), Random(0)) is None


@pytest.mark.parametrize("name", NAMES)
def test_templates_are_enough_and_name_fields_that_are_there(name):
    family, problem = FAMILIES[name], problems(name, 2, 1)[0]
    assert len(set(family.templates)) == len(family.templates) >= 8
    for template in (*family.templates, *family.form):
        assert template.format(**problem.fields)
    for template in family.templates:
        named = {field for _, field, _, _ in string.Formatter().parse(template) if field}
        assert named == {f for t in family.templates[:1] for _, f, _, _ in string.Formatter().parse(t) if f}
    assert all("{answer}" in closing for closing in family.closings)


def test_held_out_templates_are_in_no_other_split():
    for family in FAMILIES.values():
        train, held_out = (set(Split(name).template_numbers(family)) for name in ("train", "held-out"))
        assert len(held_out) == 2 and len(train) >= 6 and not train & held_out
        assert train | held_out == set(range(len(family.templates))) == set(Split("all").template_numbers(family))


def test_a_tenth_of_the_problems_is_held_out_whatever_the_template():
    checks = [problem.check for problem in problems("arithmetic", 3, 400)]
    share = sum(map(is_held_out, checks)) / len(checks)
    assert 0.05 < share < 0.16
    assert all(Split("train").allows(check) != Split("held-out").allows(check) for check in checks)
    assert is_held_out(checks[0]) == is_held_out(dict(reversed(checks[0].items())))


@pytest.mark.parametrize("name", ["arithmetic", "count", "sort", "lookup", "program", "bug", "order"])
def test_a_harder_problem_is_a_longer_one(name):
    def length(difficulty):
        return sum(len(str(problem.check)) for problem in problems(name, difficulty, 30))

    assert length(1) < length(2) < length(3)


def test_a_span_without_anything_gives_no_material():
    for name in ("cloze", "order", "signature", "docstring", "doctest", "count", "sets"):
        assert FAMILIES[name].material(span_of("1 + 1\n\n??"), Random(0)) is None


def test_sentences_of_chinese_can_be_ordered():
    text = "港口在主人来之前很安静。她提着三盏灯走过木码头。每盏灯都有自己的颜色和意义。渔夫们从小船上看着码头。"
    material = FAMILIES["order"].material(span_of(text), Random(0))
    assert len(material["sentences"]) == 4


def test_an_example_of_the_library_runs_inside_its_module():
    text = '''def cut(x):
    """Cut.

    >>> words = "a b".split()
    >>> shlex.join(words) if False else join(words)
    'a b'
    """
'''
    material = FAMILIES["doctest"].material(span_of(text, "shlex.py"), Random(0))
    problem = FAMILIES["doctest"].problem(material, 1, Random(0))
    assert problem.answer == "'a b'" == printed(problem.check["program"])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("shlex.py", "shlex"),
        ("json/__init__.py", "json"),
        ("json/decoder.py", "json.decoder"),
        ("docs/json.py", ""),
        ("a.txt", ""),
    ],
)  # fmt: skip
def test_the_module_of_a_document(name, module):
    assert module_of(name) == module
