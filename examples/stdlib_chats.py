"""Conversations made of the Python standard library, and how a model that was fine-tuned on them answers.

    python examples/stdlib_chats.py make --out runs/chats                     chats.jsonl and held_out.jsonl
    hunyuan sft --from runs/demo --data runs/chats/chats.jsonl --out runs/sft
    python examples/stdlib_chats.py score runs/sft runs/demo --questions runs/chats/held_out.jsonl

Every documented function gives three questions: its signature from what it does, what it does from its signature, and its
arguments. A function is in one of the files, whatever is asked about it. `score` asks each model and prints as JSON, for each
kind of question, the share of answers that come to an end, that are in form (a signature that Python reads, of the function
that was asked for; one sentence; a list of arguments), and that are right to the letter.
"""

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.data.sources import read_source
from model.data.split import is_validation
from model.generation.engine import Engine
from model.generation.generate import generate_batch
from model.generation.sampling import Sampling

HELD_OUT = 0.05  # of the functions
LONGEST = 160  # characters of a signature or a sentence
NEW_TOKENS = 64


def functions(source: str) -> Iterator[tuple[str, str, list[str], str]]:
    """name, signature, arguments and first sentence of every function with a docstring."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("__"):
            continue
        said = (ast.get_docstring(node) or "").partition("\n\n")[0]
        sentence = " ".join(said.split()).partition(". ")[0].rstrip(".") + "."
        signature = f"def {node.name}({ast.unparse(node.args)}):"
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        if len(sentence) > 12 and arguments and max(len(signature), len(sentence)) <= LONGEST and said.isascii():
            yield node.name, signature, arguments, sentence


def chats_of(name: str, signature: str, arguments: list[str], sentence: str) -> Iterator[dict[str, Any]]:
    asked = {
        "signature": (f"Write the signature of {name}: {sentence}", signature),
        "summary": (f"What does this function do?\n{signature}", sentence),
        "arguments": (
            f"List the arguments of this function.\n{signature}",
            "\n".join(f"- {each}" for each in arguments),
        ),
    }
    for kind, (question, answer) in asked.items():
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"kind": kind, "name": name, "messages": messages}


def make(out: Path, source: str) -> dict[str, int]:
    """Writes both files; the counts."""
    out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    lines: dict[bool, list[str]] = {False: [], True: []}
    for document in read_source(source):
        for function in functions(document.text):
            _, signature, _, sentence = function
            if not {signature, sentence} & seen:  # what is said of one function is not asked of another
                seen |= {signature, sentence}
                lines[is_validation(signature, HELD_OUT)] += [json.dumps(chat) for chat in chats_of(*function)]
    for name, side in (("chats.jsonl", False), ("held_out.jsonl", True)):
        (out / name).write_text("".join(line + "\n" for line in lines[side]), encoding="utf-8")
    return {"chats": len(lines[False]), "held_out": len(lines[True])}


def in_form(kind: str, name: str, answer: str) -> bool:
    """Whether an answer has the form that its question asks for, right or not."""
    if kind == "summary":
        return "\n" not in answer and answer.endswith(".") and len(answer) > 12
    if kind == "arguments":
        return bool(answer) and all(line.startswith("- ") and line[2:].isidentifier() for line in answer.split("\n"))
    try:
        (found,) = ast.parse(f"{answer} pass").body
    except (SyntaxError, ValueError):
        return False
    return isinstance(found, ast.FunctionDef) and found.name == name


def score(folder: Path, chats: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Greedy answers to the questions, by kind: how many end, are in form, and are right."""
    engine = Engine.from_folder(folder)
    requests = [engine.reply(chat["messages"][:1], max_new_tokens=NEW_TOKENS, fit=True) for chat in chats]
    for _ in generate_batch(engine.net, requests, sampling=Sampling(temperature=0.0), slots=32, session=engine.session):
        pass
    rows: dict[str, list[tuple[bool, bool, bool]]] = {}
    for chat, request in zip(chats, requests, strict=True):
        text, ended = request.text.strip(), request.stop_reason != "length"
        found = ended, ended and in_form(chat["kind"], chat["name"], text), text == chat["messages"][1]["content"]
        rows.setdefault(chat["kind"], []).append(found)
    names = "ended", "in_form", "right"
    return {
        kind: {"questions": len(found)}
        | {name: sum(row[i] for row in found) / len(found) for i, name in enumerate(names)}
        for kind, found in rows.items()
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--source", default="stdlib", help="stdlib, a file, a folder or a glob")
    scoring = commands.add_parser("score")
    scoring.add_argument("models", type=Path, nargs="+")
    scoring.add_argument("--questions", type=Path, required=True)
    scoring.add_argument("--count", type=int, default=300)
    given = parser.parse_args(arguments)
    if given.command == "make":
        print(json.dumps(make(given.out, given.source)))
        return
    chats = [json.loads(line) for line in given.questions.read_text(encoding="utf-8").splitlines()][: given.count]
    print(json.dumps({str(folder): score(folder, chats) for folder in given.models}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
