"""The house rules, held by reading the source: who may import whom, how long a file may be, what may not be written.

The rules are functions of a syntax tree; the last test shows each of them an offence, so that a rule that sees nothing fails.
"""

import ast
import dataclasses
import graphlib
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from model.config import HunyuanConfig
from model.data.config import DataConfig
from model.posttraining.dpo_config import DPOConfig
from model.training.config import TrainingConfig

ROOT = Path(__file__).parents[2]
PACKAGES = ("model", "analyses", "hunyuan_cli")  # each may import itself and those before it
DOORS = {  # where a module may be loaded late or by a name that is not written there, and why
    "model.__getattr__": "`from model import HunyuanConfig` needs no torch",
    "model.config.hunyuan.HunyuanConfig.from_name": "presets are configurations",
    "model.config.hunyuan.HunyuanConfig.from_file": "so are the files of every released family",
    "model.sweep.engines.module_process": "the command line says which module",
    "model.sweep.ray_engine._own_task": "a Ray worker has to find this package first",
    "model.data.confinement.pool._START": "the process that forks those of programs is small and clean",
    "hunyuan_cli.app.build": "a command is loaded when it is asked for",
}
CONFINED = {  # what only the processes of confined programs do: run them, and end at once
    "model.data.confinement.child": {"exec", "sys.exit", "SystemExit"},
    "model.data.confinement.server": {"__import__", "os._exit"},
}


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files(*PACKAGES)}
MODULES = {module_name(path) for path in TREES}


def name_of(node: ast.AST) -> str:
    """The name that a definition or an assignment gives."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""


def outside_doors(tree: ast.AST, name: str, doors: Collection[str] = DOORS) -> Iterator[ast.AST]:
    """The nodes of the module, class or function of that dotted name, without those of its doors."""
    for node in ast.iter_child_nodes(tree):
        inner = f"{name}.{name_of(node)}".rstrip(".")
        if inner == name or inner not in doors:
            yield node
            yield from outside_doors(node, inner, doors)


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Dotted names that are imported; of `from a import b` both a and a.b, whichever of them is the module."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def modules_named(nodes: Iterable[ast.AST], modules: Collection[str]) -> set[str]:
    """The modules whose names stand in strings, as those are that are started or loaded by name; docstrings are no code.

    "model.config:read" names model.config. The bare words "model" and "analyses" are words.
    """
    nodes = list(nodes)
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    strings = (node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    found = set()
    for word in (word for node in strings if id(node) not in docstrings for word in re.findall(r"[\w.]+", node.value)):
        parts = word.split(".")
        found |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)} & set(modules)
    return found - {"model", "analyses"}


def forbidden_imports(tree: ast.Module, package: str) -> set[str]:
    """Imports, wherever they stand, and modules named in strings, of which this package may know nothing."""
    banned = set(PACKAGES[PACKAGES.index(package) + 1 :]) | {"pickle", "cPickle", "dill", "marshal", "shelve"}
    if package == "model":
        banned |= {"typer", "rich", "pandas", "matplotlib"}
    names = imports(ast.walk(tree)) | modules_named(ast.walk(tree), MODULES)
    return {name for name in names if name.split(".")[0] in banned}


def loads_by_name(nodes: Iterable[ast.AST], package: str) -> list[str]:
    """What loads or starts a module of a name that is known only as the program runs."""
    loaders = {"import_module", "run_module", "run_path", "spec_from_file_location", "SourceFileLoader"}
    starts = set() if package == "hunyuan_cli" else {"-m"}  # the command line starts itself
    called = [getattr(node, "attr", getattr(node, "id", "")) for node in nodes]
    return [name for name in called if name in loaders] + [
        node.value for node in nodes if isinstance(node, ast.Constant) and node.value in starts
    ]


def detour(trees: Mapping[str, ast.Module], doors: Collection[str] = DOORS) -> list[str]:
    """Modules that import each other in a circle, if only when a function is called, or by name."""
    graph = {}
    for module, tree in trees.items():
        nodes = list(outside_doors(tree, module, doors))
        graph[module] = (imports(nodes) | modules_named(nodes, trees)) & set(trees)
    assert any(graph.values()), "the imports were not seen"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


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
        nodes, receivers = list(ast.walk(tree)), {"config", "c", "model", "training", "data", "dpo"}
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
    assert detour({module_name(path): tree for path, tree in TREES.items()}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_loaded_by_name_in_the_doors_alone(package):
    nodes = {path: list(outside_doors(TREES[path], module_name(path))) for path in files(package)}
    found = {str(path): loads_by_name(inside, package) for path, inside in nodes.items()}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_is_needed(door):
    others = DOORS.keys() - {door}
    trees = {module_name(path): tree for path, tree in TREES.items()}
    loads = [loads_by_name(list(outside_doors(tree, name, others)), name.split(".")[0]) for name, tree in trees.items()]
    assert detour(trees, others) or any(loads)


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "examples"])
def test_no_file_is_over_350_lines(folder):
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files(folder)}
    assert not {path: length for path, length in lengths.items() if length > 350}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unsafe_and_no_output_below_the_command_line(package):
    offences = {module_name(path): forbidden_code(TREES[path], package) for path in files(package)}
    assert {module: set(found) for module, found in offences.items() if found} == {
        module: found for module, found in CONFINED.items() if module.startswith(package)
    }


@pytest.mark.parametrize("kind", [HunyuanConfig, TrainingConfig, DataConfig, DPOConfig], ids=lambda kind: kind.__name__)
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
        ("model", "start([python, '-m', 'hunyuan_cli.sweep_cell'])", "hunyuan_cli.sweep_cell"),
        ("model", "def f():\n    import_module(f'hunyuan_cli.commands.{name}')", "hunyuan_cli.commands"),
        ("model", "load('analyses.scaling.fit:options')", "analyses.scaling.fit"),
        ("analyses", "start([python, '-c', 'from hunyuan_cli.main import run'])", "hunyuan_cli.main"),
        ("analyses", "importlib.import_module(name)", "import_module"),
        ("hunyuan_cli", "import_module(name)", "import_module"),
        ("model", "start([sys.executable, '-m', module])", "-m"),
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
    code = forbidden_code(tree, package) + loads_by_name(list(ast.walk(tree)), package)
    assert offence in forbidden_imports(tree, package) | set(code)


def test_the_rules_see_unused_settings():
    source = "class C:\n def __post_init__(self): self.a\n def f(self): self.b\ndef _problems(c): c.d"
    assert settings_read(ast.parse(source), "C") == {"b"}
    assert settings_read(ast.parse("net.config.a; other.b; c.d"), None) == {"a", "d"}


@pytest.mark.parametrize(
    "back",
    ["import model.a", "from model.a import x", "def g():\n    from model import a", "def g():\n    start('model.a')"],
)
def test_the_rules_see_circles_but_those_of_a_door(back):
    sources = {
        "model.a": "class C:\n    def f(self):\n        import model.b",
        "model.b": back,
        "model.c": "import model.b",
    }
    trees = {name: ast.parse(source) for name, source in sources.items()}
    assert set(detour(trees)) == {"model.a", "model.b"}
    assert detour(trees, {"model.a.C.f"}) == []


def test_docstrings_and_words_name_no_module():
    source = '"""See model.a."""\nx = {"model": "analyses", "model.safetensors": 1}'
    assert modules_named(ast.walk(ast.parse(source)), {"model", "model.a", "analyses"}) == set()
