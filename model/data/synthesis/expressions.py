"""The value of an arithmetic expression, exact, by a walk over its syntax tree: no name, call or attribute is ever looked at.

evaluate("2 * (3 + 4) - 1/2") -> Fraction(27, 2)
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable
from fractions import Fraction

MOST_CHARACTERS = 2000
MOST_BITS = 4096  # of a numerator or denominator on the way
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "~", "（": "(", "）": ")"})
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b), ast.Mod: operator.mod,
}  # fmt: skip


def evaluate(expression: str) -> Fraction:
    """Numbers, + - * / // % ** (or ^), brackets, and × ÷ −; ValueError with a reason for all else, and for what is too big."""
    text = expression.strip().translate(_SPELLINGS).replace("~", "**")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    if len(text) > MOST_CHARACTERS or "_" in text:
        raise ValueError(f"no expression of at most {MOST_CHARACTERS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval")
        return _value(tree.body, text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("no arithmetic expression") from error
    except ZeroDivisionError as error:
        raise ValueError("division by zero") from error


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return Fraction(ast.get_source_segment(text, node) or "")  # a decimal is what is written, not its float
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand, text)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, text)
        case ast.BinOp(op=ast.Pow()):
            return _power(_value(node.left, text), _value(node.right, text))
        case ast.BinOp() if type(node.op) in _OPERATIONS:
            return _bounded(_OPERATIONS[type(node.op)](_value(node.left, text), _value(node.right, text)))
    raise ValueError("only numbers and + - * / // % ** and brackets are computed")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * size > MOST_BITS:
        raise ValueError("a power is not a fraction, or too big")
    return base ** int(exponent)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise ValueError("a number is too big")
    return value
