"""Problems over functions with docstrings: the signature from the docstring, and the docstring from the signature."""

import ast
import re
import textwrap
import warnings
from functools import lru_cache
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import OTHER_ANSWER, answered
from model.data.synthesis.spans import Span

QUOTES = "'\"`*"  # at the ends of a docstring they would be read as marks around it
_HEADER = re.compile(r"^\s*(?:async )?def \w+\(", re.MULTILINE)


@lru_cache(maxsize=64)
def functions_of(text: str) -> tuple[ast.FunctionDef, ...]:
    """The functions of a piece of Python with a docstring, methods too; none where it does not parse."""
    if '"""' not in text or not _HEADER.search(text):
        return ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what old code escapes in its strings
            tree = ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and summary_of(node))


def summary_of(node: ast.FunctionDef) -> str:
    """The first line of a docstring, where it is one that says something."""
    first = (ast.get_docstring(node) or "").strip().partition("\n")[0].strip()
    return first if 3 <= len(first.split()) <= 30 else ""


def signature_of(node: ast.FunctionDef) -> str:
    """`def name(parameters):` in ast's own spelling, without annotations' spelling changed."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}:"


def _function(span: Span, random: Random) -> Material | None:
    """One function of the text with signature, docstring and the source that a check reads, cut down to these."""
    functions = [node for node in functions_of(span.text) if node.name != "__init__"]
    if not functions:
        return None
    node = random.choice(functions)
    others = [signature_of(other) for other in functions if other is not node]
    summary, signature = summary_of(node), signature_of(node)
    if len(signature) > 200 or summary[0] in QUOTES or summary[-1] in QUOTES:
        return None
    source = f"{signature}\n    {summary!r}\n"
    parameters = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    summaries = [summary_of(other) for other in functions if other is not node]
    return {
        "name": node.name, "signature": signature, "summary": summary, "source": source, "parameters": parameters,
        "others": others[:3], "summaries": summaries[:3],
    }  # fmt: skip


# --- docstring -> signature ------------------------------------------------------------------------------------------


def signature(material: Material, difficulty: int, random: Random) -> Problem:
    """Harder: fewer of its parameters are named."""
    parameters = material["parameters"]
    named = parameters[: max(0, len(parameters) + 1 - difficulty)]
    told = f" Among its parameters are {', '.join(named)}." if named else ""
    if not parameters:
        told = " It takes no parameters."
    check = {"kind": "signature", "source": material["source"]}
    fields = {"name": material["name"], "summary": material["summary"], "told": told}
    return Problem(fields, material["signature"], check, others=tuple(material["others"]))


def _parameter_lost(problem: Problem, random: Random) -> Problem | None:
    head, opened, rest = problem.answer.partition("(")
    inside, closed, tail = rest.rpartition(")")
    parts = inside.split(", ")
    if len(parts) < 2 or "[" in inside or "(" in inside:
        return None
    del parts[random.randrange(len(parts))]
    return answered(problem, head + opened + ", ".join(parts) + closed + tail)


_SIGNATURE_ERRORS: dict[str, Wrong] = {"missing_parameter": _parameter_lost, **OTHER_ANSWER}

SIGNATURE = Family(
    name="signature",
    domain="code",
    templates=(
        "Write the signature of a Python function {name} that is documented as: {summary}{told}",
        "The docstring of {name} says: {summary}{told} What is its def line?",
        "Give the line that begins the Python function {name}. Its purpose: {summary}{told}",
        "Declare a function called {name}. {summary}{told}",
        "Here is what {name} does: {summary}{told} How is it defined?",
        "I need the head of a function {name}: {summary}{told}",
        "Documentation of {name}: {summary}{told} Recover the first line of its source.",
        "From this description, write how {name} is declared. {summary}{told}",
    ),
    form=("Write only the line that begins with def.", "One line of Python, from def to the colon."),
    material=_function,
    rare=True,
    problem=signature,
    errors=_SIGNATURE_ERRORS,
    hardest=4,
)

# --- signature -> docstring ------------------------------------------------------------------------------------------


def docstring(material: Material, difficulty: int, random: Random) -> Problem:
    """The first line of the docstring, of which a part is shown; harder: a smaller part."""
    words = material["summary"].split()
    shown = " ".join(words[: max(0, len(words) - difficulty)])
    check = {"kind": "docstring", "source": material["source"]}
    fields = {"signature": material["signature"], "shown": f"{shown} ..." if shown else "..."}
    return Problem(fields, material["summary"], check, others=tuple(material["summaries"]))


def _words_swapped(problem: Problem, random: Random) -> Problem | None:
    words = problem.answer.split()
    at = random.randrange(len(words) - 1)
    words[at : at + 2] = words[at + 1], words[at]
    return answered(problem, " ".join(words))


_DOCSTRING_ERRORS: dict[str, Wrong] = {"swapped_words": _words_swapped, **OTHER_ANSWER}

DOCSTRING = Family(
    name="docstring",
    domain="code",
    templates=(
        "Complete the docstring of this function.\n\n{signature}\n    {shown}",
        "{signature}\n\nIts docstring begins: {shown}\nWrite the whole line.",
        "What is the first line of documentation of\n{signature}\n? It starts with: {shown}",
        'Document this Python function in one line; begin with "{shown}".\n\n{signature}',
        "A docstring was cut off: {shown}\nThe function is\n{signature}\nGive the line in full.",
        'Say what this function does, continuing "{shown}".\n\n{signature}',
        "Finish the sentence that describes a function. Function: {signature} Sentence: {shown}",
        "Help text for {signature}\n{shown}\nWrite it out to its end.",
    ),
    form=("Answer with the whole line and nothing else.", "One line, from its first word to its last."),
    material=_function,
    rare=True,
    problem=docstring,
    errors=_DOCSTRING_ERRORS,
)
