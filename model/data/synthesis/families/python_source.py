"""Problems over functions with docstrings: the signature, the docstring, and what a documented example prints."""

import ast
import builtins
import doctest
import json
import re
import textwrap
import warnings
from functools import lru_cache
from random import Random

from model.data.synthesis.families.base import Family, Material, Problem, Wrong
from model.data.synthesis.families.errors import OTHER_ANSWER, answered

MOST_CHARS = 1200  # of a function that is shown
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


def _function(text: str, random: Random) -> Material | None:
    """One function of the text with signature, docstring and the source that a check reads, cut down to these."""
    functions = [node for node in functions_of(text) if node.name != "__init__"]
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

# --- doctest ---------------------------------------------------------------------------------------------------------

_PARSER = doctest.DocTestParser()
_SETTING = "import sys\nshow = sys.displayhook\n"


def _examples(text: str, random: Random) -> Material | None:
    """The examples of a docstring that need nothing but the function beside them, and print something plain."""
    if ">>>" not in text:
        return None
    chosen = []
    for node in functions_of(text):
        if not _stands_alone(node):
            continue
        body = ast.unparse(node)
        try:
            examples = _PARSER.get_examples(ast.get_docstring(node) or "")
        except ValueError:
            continue
        for example in examples:
            plain = example.want.strip() and not example.exc_msg and not example.options and "..." not in example.want
            called = re.match(rf"(?:print\()?{node.name}\(", example.source) and "\n" not in example.source.strip()
            if plain and called and "<" not in example.want and len(body) < MOST_CHARS:
                chosen.append((body, example.source.strip(), example.want.rstrip("\n")))
    if not chosen:
        return None
    body, source, want = random.choice(chosen)
    return {"function": body, "example": source, "want": want}


def _stands_alone(node: ast.FunctionDef) -> bool:
    """Whether a function reads no name that neither it nor Python defines."""
    names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    bound = {name.id for name in names if not isinstance(name.ctx, ast.Load)} | {node.name} | set(dir(builtins))
    bound |= {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
    bound |= {inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)}
    bound |= {
        alias.asname or alias.name for inner in ast.walk(node) if isinstance(inner, ast.Import) for alias in inner.names
    }
    return not node.decorator_list and all(name.id in bound for name in names)


def example(material: Material, difficulty: int, random: Random) -> Problem | None:
    """What a documented example shows; there is one difficulty."""
    function, source, want = material["function"], material["example"], material["want"]
    try:
        expression = isinstance(ast.parse(source).body[0], ast.Expr)
    except (SyntaxError, IndexError):
        return None
    shown = _SETTING + f"{function}\nshow({source})" if expression and not source.startswith("print(") else None
    program = shown or f"{function}\n{source}"
    fields = {"function": function, "example": source}
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
        "What does the interpreter show for this example?\n\n{function}\n\n>>> {example}",
        "{function}\n\nGive the output of {example} in the interactive interpreter.",
        "A docstring has the example {example} for\n\n{function}\n\nWhat is its expected output?",
        "Run this in your head and write what is printed.\n\n{function}\n\n>>> {example}",
        "Given\n\n{function}\n\nwhat comes after >>> {example} ?",
        "Complete the doctest.\n\n{function}\n\n>>> {example}\n?",
        "The function below is called as {example}. Write what Python answers.\n\n{function}",
        "Which line follows >>> {example} when this is defined?\n\n{function}",
    ),
    form=("Write the output exactly as Python shows it.", "Only the output, character by character."),
    material=_examples,
    rare=True,
    problem=example,
    errors=OTHER_ANSWER,
    executes=True,
    hardest=1,
)
