"""Jinja templates from strangers: they see the variables they are given, reach nothing else, and come to an end.

A chat template is a program that arrives with a model, so it runs in Jinja's sandbox, as in transformers, with the same
helpers: `raise_exception`, `strftime_now`, `tojson`, `namespace`, `{% break %}`, `{% continue %}`, `{% generation %}`.
What is bounded: the seconds, looked at in every round of a loop and every call; the number of those; the characters
that come out; and the size of a value made by `+`, `*`, `**` and `~`. What is not: a single step that Jinja or Python
does in one go, such as a filter that pads a text to a billion characters, and the memory of what a macro or a block
collects before it is done. That takes a template written to do harm; one that loops by mistake is always stopped.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from model.errors import DataError

MAX_CHARACTERS = 16_000_000  # of the text and of each value on the way to it
MAX_STEPS = 1_000_000  # rounds of loops, and calls
MAX_SECONDS = 20.0
MAX_BITS = 10_000  # of a number


class BoundedTemplate:
    """A compiled template; `name` is how errors call it."""

    def __init__(self, source: str, name: str) -> None:
        self.source, self._name = source, name
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        environment.filters.update(tojson=_to_json, _steps=_steps, _sized=_sized, _each=_each)
        environment.globals.update(raise_exception=_refuse, strftime_now=_now, dict=_dict, namespace=_SafeNamespace)
        del environment.globals["lipsum"]
        try:
            tree = environment.parse(source)
            self.words, self.reads_parts = _words(tree), _reads_parts(tree)
            self._template = environment.from_string(_Watched().visit(tree))
        except jinja2.TemplateSyntaxError as error:
            reason = f"line {error.lineno}: {_first_line(error)}"
            raise DataError(f"{name} is not a Jinja template ({reason}): mend it or take another") from error
        except Exception as error:  # the parser's own limits: depth, size
            raise DataError(f"{name} cannot be compiled ({_first_line(error)}): take another template") from error

    def render(
        self, variables: Mapping[str, Any], *, now: datetime | None = None, each: Callable[[Any], Any] | None = None
    ) -> str:
        """The text; `each` is applied to every value that is worked out on the way, and `now` is the template's time."""
        pieces, length = [], 0
        token = _BUDGET.set(_Budget(now or datetime.now(), each or (lambda value: value)))
        try:
            for piece in self._template.generate(variables):
                length += len(piece)
                if length > MAX_CHARACTERS:
                    raise _TooMuch(f"it gives more than {MAX_CHARACTERS:,} characters")
                pieces.append(piece)
        except _Refusal as error:
            raise DataError(f"{self._name} refuses these messages: {_first_line(error)}") from error
        except Exception as error:  # a template can raise whatever Python can
            raise DataError(
                f"{self._name} failed ({_first_line(error)}): change the messages, or take another template"
            ) from error
        finally:
            _BUDGET.reset(token)
        return "".join(pieces)


class _Refusal(jinja2.TemplateError):
    """The template's own raise_exception."""


class _TooMuch(jinja2.TemplateError):
    """A bound of this module."""


def _words(tree: nodes.Template) -> frozenset[str]:
    """The names of variables and attributes that a template asks for, and its strings, which may be keys."""
    names = {node.name for node in tree.find_all(nodes.Name)} | {node.attr for node in tree.find_all(nodes.Getattr)}
    return frozenset(names | {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)})


def _reads_parts(tree: nodes.Template) -> bool:
    """Whether a template goes over the parts of a content, rather than taking it for a string."""
    for loop in tree.find_all(nodes.For):
        place: nodes.Node | None = loop.iter
        while isinstance(place, nodes.Filter):
            place = place.node
        match place:
            case nodes.Name(name="content") | nodes.Getattr(attr="content"):
                return True
            case nodes.Getitem(arg=nodes.Const(value="content")):
                return True
    return False


class _Budget:
    """What one rendering has left, and what else is its own."""

    def __init__(self, now: datetime, each: Callable[[Any], Any]) -> None:
        self.now, self.each = now, each
        self.steps = MAX_STEPS
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise _TooMuch(f"it takes more than {MAX_STEPS:,} rounds and calls")
        if time.monotonic() > self.deadline:
            raise _TooMuch(f"it takes more than {MAX_SECONDS:g} seconds")


_BUDGET: ContextVar[_Budget] = ContextVar("budget of the rendering that is going on")


class _Watched(NodeTransformer):
    """Every loop counts its rounds, every `~` measures its result, and what makes a string hands it to `each`."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_steps")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(_filtered(node, "_sized"), "_each")

    def visit_Call(self, node: nodes.Call) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(node, "_each")

    visit_Add = visit_Mul = visit_Mod = visit_Call

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:
        self.generic_visit(node)
        node.node = node.node or _filtered(None, "_each")  # without a node it filters the text of a block
        return _filtered(node, "_each")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:
        self.generic_visit(node)
        node.filter = _filtered(node.filter, "_each")
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        """What is called stays a call, which Jinja compiles with its body."""
        call = node.call
        self.generic_visit(call)
        self.generic_visit(node)
        node.call = call
        return node


def _filtered(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno if node else 1)


@jinja2.pass_context
def _each(context: Context, value: Any) -> Any:
    return _BUDGET.get().each(value)


@jinja2.pass_context  # so that Jinja leaves it for the rendering instead of working it out beforehand
def _steps(context: Context, iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        _BUDGET.get().spend()
        yield item


@jinja2.pass_context
def _sized(context: Context, text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise _TooMuch(f"it makes a text of more than {MAX_CHARACTERS:,} characters")
    return text


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, counting calls and refusing arithmetic that only fills memory."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _BUDGET.get().spend()
        if any(isinstance(value, int) and abs(value) > MAX_CHARACTERS for value in (*args, *kwargs.values())):
            raise _TooMuch(f"it calls something with a number over {MAX_CHARACTERS:,}")
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _result_size(operator, left, right) > 1:
            raise _TooMuch(f"its '{operator}' makes a value that is too large")
        return super().call_binop(context, operator, left, right)


def _result_size(operator: str, left: Any, right: Any) -> float:
    """The size of the result as a fraction of what is allowed."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        return bits / MAX_BITS
    sizes = [value if isinstance(value, int) else len(value) for value in (left, right) if _has_size(value)]
    if len(sizes) < 2:
        return 0.0
    return (sizes[0] + sizes[1] if operator == "+" else sizes[0] * sizes[1]) / MAX_CHARACTERS


def _has_size(value: Any) -> bool:
    return isinstance(value, int | str | list | tuple)


class _Generation(Extension):
    """`{% generation %}` marks an assistant's words for training; the text is the same with and without the mark."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _SafeNamespace(Namespace):
    """A namespace without names that begin with "_", through which Python's internals would be in reach."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_attribute(name)
        super().__init__(attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold '{name}': only names without a leading underscore")


def _refuse(message: Any) -> NoReturn:
    raise _Refusal(str(message))


def _now(format: str) -> str:
    return _BUDGET.get().now.strftime(format)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Without the HTML escapes of Jinja's own `tojson`, as chat templates expect."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
