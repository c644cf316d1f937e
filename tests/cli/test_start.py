"""The first moments of the program: what it loads, whose packages it takes, and a Ctrl-C before it has begun."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hunyuan_cli.app import COMMANDS

ROOT = Path(__file__).parents[2]
SCRIPT = shutil.which("hunyuan", path=str(Path(sys.executable).parent))


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


# --- what is loaded --------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from hunyuan_cli.main import run; status = run(['--help'])\n"
        "print(status, [m for m in ('torch', 'pandas', 'matplotlib', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = python(code)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    assert not [name for name in COMMANDS if f"│ {name} " not in done.stdout]


@pytest.mark.parametrize("arguments", [["kv-cache"], ["--debug", "params"]])
def test_a_command_loads_no_other_command(arguments):
    code = (
        f"import sys; from hunyuan_cli.main import run; status = run({arguments})\n"
        "print(status, [m for m in sys.modules if m.startswith('hunyuan_cli.commands.')])\n"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'numpy', 'scipy') if m in sys.modules])"
    )
    module = "hunyuan_cli.commands." + arguments[-1].replace("-", "_")
    assert python(code).stdout.splitlines()[-2:] == [f"0 {[module]}", "[]"]


def test_a_wrong_command_is_compared_with_all_of_them():
    done = python("import sys; from hunyuan_cli.main import run; sys.exit(run(sys.argv[1:]))", "kv-cahce")
    assert done.returncode == 2 and "kv-cache" in done.stderr


# --- whose `model` ---------------------------------------------------------------------------------------------------


@pytest.fixture
def colliding(tmp_path):
    """A folder with a model.py and an analyses.py, as many have; whoever imports them fails."""
    for name in ("model.py", "analyses.py"):
        (tmp_path / name).write_text("raise SystemExit('a module of somebody else')\n")
    return tmp_path


WAYS = {"script": [SCRIPT], "module": [sys.executable, "-m", "hunyuan_cli"]}


@pytest.mark.parametrize("path", [None, "."], ids=["plain", "PYTHONPATH=."])
@pytest.mark.parametrize("way", WAYS)
def test_a_users_own_model_py_is_not_taken_for_ours(colliding, way, path):
    if way == "script" and SCRIPT is None:
        pytest.skip("hunyuan is not installed beside this Python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if way == "module":  # python -m finds an installed package; a checkout has to be named
        environment["PYTHONPATH"] = str(ROOT)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([path, *filter(None, [environment.get("PYTHONPATH")])])
    command = [*WAYS[way], "kv-cache", "--model", "hunyuan-large", "--context", "1K", "--format", "csv"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=colliding, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunyuan-large,MHA" in done.stdout


def test_a_process_of_a_sweep_takes_our_model(colliding, monkeypatch):
    from model.sweep.engines import module_process

    monkeypatch.chdir(colliding)
    monkeypatch.setenv("PYTHONPATH", ".")
    process = module_process("hunyuan_cli.sweep_measure", ["none.json", "out.json"], colliding / "log", threads=1)
    assert process.wait(timeout=60) == 1
    log = (colliding / "log").read_text()
    assert "FileNotFoundError" in log and "none.json" in log


def test_a_process_of_a_benchmark_takes_our_model(colliding):
    """It is handed the search path of its parent, and not the parent's main module where that is a package's __main__."""
    code = (
        "import sys, multiprocessing, hunyuan_cli\n"
        "from analyses.bench.training import workload\n"
        "process = multiprocessing.get_context('spawn').Process(target=workload, args=('small', 'cpu', 1))\n"
        "process.start(); process.join(); sys.exit(process.exitcode)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=colliding, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------

MOMENTS = [
    "typing", "typer", "hunyuan_cli.app", "hunyuan_cli.results", "pydantic", "analyses.training", "numpy",
    "pandas", "pandas.core.frame", "matplotlib.figure",
]  # fmt: skip


@pytest.mark.parametrize("module", MOMENTS)
def test_ctrl_c_while_a_module_is_loaded_is_quiet(module, tmp_path):
    """A real process that gets a real SIGINT at the moment in which it begins to import the module."""
    code = (
        "import os, signal, sys\n"
        "sys.argv[0] = 'hunyuan'\n"
        f"sys.addaudithook(lambda event, found: event == 'import' and found[0] == {module!r} "
        "and os.kill(os.getpid(), signal.SIGINT))\n"
        "from hunyuan_cli.main import main\n"
        "main()"
    )
    done = python(code, "compare", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_ctrl_c_stays_ignored():
    """A shell starts `hunyuan ... &` with SIGINT ignored."""
    code = (
        "import os, signal, sys\n"
        "sys.argv = ['hunyuan', '--version']\n"
        "sys.addaudithook(lambda event, found: event == 'import' and found[0] == 'typer' "
        "and os.kill(os.getpid(), signal.SIGINT))\n"
        "from hunyuan_cli.main import main\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out.startswith("hunyuan")


# --- where it writes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("closed", "arguments"), [(">&-", "params"), (">&-", "params --format csv"), ("2>&-", "params x")]
)
def test_a_closed_stream_is_no_bug(closed, arguments):
    command = f"{SCRIPT} {arguments} {closed}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert process.returncode == (2 if arguments.endswith("x") else 0)
    assert (process.stdout, process.stderr) == ("", "")


def test_a_file_beyond_its_limit_says_what_to_do(tmp_path):
    command = f"ulimit -f 0; {SCRIPT} params --output {tmp_path}/table.txt | cat; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert process.returncode == 1 and not list(tmp_path.iterdir())
    assert process.stderr == "error: file too large, raise its limit (ulimit -f) or write elsewhere\n"
