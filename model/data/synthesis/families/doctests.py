"""What a documented example shows: the output of one line of a doctest, after the lines before it.

Of Python's own library an example runs inside its module; of any other text, beside the source of its function, which must then
stand alone. What is documented may be wrong: the check runs it.
"""

import ast
import builtins
import doctest
import json
import re
import sys
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem
from model.data.synthesis.families.errors import OTHER_ANSWER
from model.data.synthesis.families.python_source import functions_of
from model.data.synthesis.spans import Span

SCREEN = ("turtle.py", "tkinter/", "idlelib/", "turtledemo/")  # modules that open windows
MOST_CHARS = 1200  # of what is shown before the example
_PARSER = doctest.DocTestParser()
_UNSTABLE = re.compile(
    r"<|\.\.\.| at 0x|Traceback|os\.|time|random|open\(|input\(|import |localhost|check_output|temp|getfixture"
)


def module_of(name: str) -> str:
    """The module of Python's own library that a document is, "" where it is none."""
    parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
    known = name.endswith(".py") and parts[0] in sys.stdlib_module_names
    return ".".join(parts) if known and all(part.isidentifier() for part in parts) else ""


def examples_of(span: Span, random: Random) -> Material | None:
    """A setting, the lines before an example, the example, and what it is said to show."""
    if ">>>" not in span.text or span.source["name"].startswith(SCREEN):
        return None
    module = module_of(span.source["name"])
    if module:
        setting = f"import {module}\nglobals().update(vars({module}))\n"
        found = [(setting, f"(inside the module {module})", text) for text in span.text.split('"""')[1::2]]
    else:
        alone = [node for node in functions_of(span.text) if stands_alone(node)]
        found = [(f"{body}\n", body, ast.get_docstring(node) or "") for node in alone if (body := ast.unparse(node))]
    chosen = []
    for setting, shown, text in found:
        chosen += [(setting, shown, *example) for example in _plain_examples(text) if len(shown) < MOST_CHARS]
    if not chosen:
        return None
    setting, shown, before, source, want = random.choice(chosen)
    return {"setting": setting, "shown": shown, "before": before, "example": source, "want": want}


def _plain_examples(docstring: str) -> list[tuple[str, str, str]]:
    """Lines before, line and output of the examples that show something plain."""
    try:
        examples = _PARSER.get_examples(docstring)
    except ValueError:
        return []
    found, before = [], ""
    for example in examples:
        source, want = example.source.rstrip("\n"), example.want.rstrip("\n")
        if _UNSTABLE.search(source) or example.exc_msg or example.options:
            break
        if (
            want
            and "\n" not in source
            and not _UNSTABLE.search(want)
            and len(before) < MOST_CHARS
            and _is_expression(source)
        ):
            found.append((before, source, want))
        if "print(" in source:
            break
        before += example.source
    return found


def _is_expression(source: str) -> bool:
    try:
        return isinstance(ast.parse(source).body[0], ast.Expr)
    except (SyntaxError, IndexError):
        return False


def stands_alone(node: ast.FunctionDef) -> bool:
    """Whether a function reads no name that neither it nor Python defines."""
    names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    bound = {name.id for name in names if not isinstance(name.ctx, ast.Load)} | {node.name} | set(dir(builtins))
    bound |= {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
    bound |= {inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)}
    return not node.decorator_list and all(name.id in bound for name in names)


def example(material: Material, difficulty: int, random: Random) -> Problem:
    """There is one difficulty."""
    source, want = material["example"], material["want"]
    line = source if source.startswith("print(") else f"__import__('sys').displayhook(\n{source}\n)"
    program = f"{material['setting']}{material['before']}{line}"
    session = "".join(f">>> {text}\n" for text in (*material["before"].splitlines(), source)).rstrip()
    fields = {"shown": material["shown"], "session": session.replace(">>>     ", "...     ")}
    others = tuple(other for other in (_nudged(want), json.dumps(want), want + "0") if other != want)
    return Problem(fields, want, {"kind": "python_stdout", "program": program}, others=others)


def _nudged(text: str) -> str:
    """The last digit of a text changed, where it has one."""
    match = re.search(r"\d(?=\D*$)", text)
    return text if match is None else text[: match.start()] + str((int(match[0]) + 1) % 10) + text[match.end() :]


DOCTEST = Family(
    name="doctest",
    domain="code",
    templates=(
        "What does the interpreter show after the last line?\n\n{shown}\n\n{session}",
        "{shown}\n\nGive the output of the last line in the interactive interpreter.\n\n{session}",
        "A docstring has this example.\n\n{shown}\n\n{session}\n\nWhat is its expected output?",
        "Run this in your head and write what is shown at the end.\n\n{shown}\n\n{session}",
        "Given\n\n{shown}\n\nwhat follows this session?\n\n{session}",
        "Complete the doctest.\n\n{shown}\n\n{session}\n?",
        "Someone types these lines. Write what Python answers to the last.\n\n{shown}\n\n{session}",
        "Which output belongs below this?\n\n{shown}\n\n{session}",
    ),
    form=("Write the output exactly as Python shows it.", "Only the output, character by character."),
    material=examples_of,
    problem=example,
    errors=OTHER_ANSWER,
    executes=True,
    rare=True,
    hardest=1,
)
