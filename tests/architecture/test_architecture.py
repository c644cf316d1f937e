"""The house rules, held by reading the source: who may import whom, how long a file may be, what may not be written.

The rules are functions of a syntax tree; the last test shows each of them an offence, so that a rule that sees nothing fails.
"""

import ast
import dataclasses
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.config import HunyuanConfig
from model.data.config import DataConfig
from model.training.config import TrainingConfig

ROOT = Path(__file__).parents[2]
PACKAGES = ("model", "analyses", "hunyuan_cli")  # each may import itself and those before it
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files(*PACKAGES)}
MODULES = {module_name(path) for path in TREES}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: everything outside of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FUNCTIONS):
            yield child
            yield from at_import(child)


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names that are imported; of `from a import b` both a and a.b, whichever of them is the module."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def forbidden_imports(tree: ast.Module, package: str) -> set[str]:
    banned = set(PACKAGES[PACKAGES.index(package) + 1 :]) | {"pickle", "cPickle", "dill", "marshal", "shelve"}
    if package == "model":
        banned |= {"typer", "rich", "pandas", "matplotlib"}
    return {name for name in imports(ast.walk(tree)) if name.split(".")[0] in banned}


def forbidden_code(tree: ast.Module, package: str) -> list[str]:
    """What runs strings, unpickles, starts a shell, or, below the command line, prints and exits."""
    names, attributes = {"eval", "exec", "__import__"}, {"torch.load", "os.system", "os.popen"}
    if package != "hunyuan_cli":
        names |= {"print", "exit", "quit", "SystemExit"}
        attributes |= {"sys.exit", "os._exit"}
    found = []
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute | ast.keyword) else ""
        if isinstance(node, ast.Name):
            found += [text] if text in names else []
        elif isinstance(node, ast.Attribute):
            found += [text] if text in attributes else []
        elif isinstance(node, ast.keyword):
            found += [text] if text in ("shell=True", "allow_pickle=True", "weights_only=False") else []
    return found


def settings_read(tree: ast.Module, own: str | None) -> set[str]:
    """Attributes read of something called as configurations are; in the module that defines class `own`, of self alone.

    What a configuration does with its fields while it checks itself is no use of them: only its own methods other than
    __post_init__ count there.
    """
    if own is None:
        nodes, receivers = list(ast.walk(tree)), {"config", "c", "model", "training", "data"}
    else:
        body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == own).body
        methods = [n for n in body if isinstance(n, ast.FunctionDef) and n.name != "__post_init__"]
        nodes, receivers = [node for method in methods for node in ast.walk(method)], {"self"}
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] in receivers
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    offences = {str(path): forbidden_imports(TREES[path], package) for path in files(package)}
    assert offences and not {path: names for path, names in offences.items() if names}


def test_no_module_imports_itself_by_a_detour():
    graph = {module_name(path): imports(at_import(tree)) & MODULES for path, tree in TREES.items()}
    assert sum(map(len, graph.values())) > len(graph) / 2, "the imports were not seen"
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "examples"])
def test_no_file_is_over_350_lines(folder):
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files(folder)}
    assert not {path: length for path, length in lengths.items() if length > 350}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unsafe_and_no_output_below_the_command_line(package):
    offences = {str(path): forbidden_code(TREES[path], package) for path in files(package)}
    assert not {path: found for path, found in offences.items() if found}


@pytest.mark.parametrize("kind", [HunyuanConfig, TrainingConfig, DataConfig], ids=lambda kind: kind.__name__)
def test_every_setting_is_read(kind):
    """A field that nothing reads promises what does not happen."""
    home = ROOT / (kind.__module__.replace(".", "/") + ".py")
    read = set().union(*(settings_read(TREES[p], kind.__name__ if p == home else None) for p in files("model")))
    assert {field.name for field in dataclasses.fields(kind)} - read == set()


def test_help_loads_no_torch():
    code = "import sys; from hunyuan_cli.main import run; run(['--help']); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, "Usage" in result.stdout) == (0, True), result.stderr


@pytest.mark.parametrize(
    ("package", "source", "offence"),
    [
        ("model", "def f():\n    import analyses.training.runs", "analyses.training.runs"),
        ("model", "from hunyuan_cli import main", "hunyuan_cli"),
        ("analyses", "from hunyuan_cli.main import app", "hunyuan_cli.main"),
        ("model", "def f():\n    from rich.table import Table", "rich.table"),
        ("hunyuan_cli", "import pickle", "pickle"),
        ("model", "print(1)", "print"),
        ("analyses", "import sys\nsys.exit(1)", "sys.exit"),
        ("hunyuan_cli", "exec(x)", "exec"),
        ("hunyuan_cli", "torch.load(x)", "torch.load"),
        ("hunyuan_cli", "run(x, shell=True)", "shell=True"),
    ],
)
def test_the_rules_see_offences(package, source, offence):
    tree = ast.parse(source)
    assert offence in forbidden_imports(tree, package) | set(forbidden_code(tree, package))


def test_the_rules_see_unused_settings_and_circles():
    source = "class C:\n def __post_init__(self): self.a\n def f(self): self.b\ndef _problems(c): c.d"
    assert settings_read(ast.parse(source), "C") == {"b"}
    assert settings_read(ast.parse("net.config.a; other.b; c.d"), None) == {"a", "d"}
    source = "import a.b\nif x:\n    from c import d\ndef f():\n    import e"
    assert imports(at_import(ast.parse(source))) == {"a.b", "c", "c.d"}
