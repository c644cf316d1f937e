"""Programs are run where they leave no mark, and the outcome says how they ended."""

import multiprocessing
import os
import socket
import stat
import string
import threading
from pathlib import Path

import pytest

from model.data import confinement
from model.data.confinement import child, pool, seccomp
from model.data.confinement.pool import run
from tests.data.hostile import HOSTILE

ROOT = Path(__file__).parents[2]
full = pytest.mark.skipif(not confinement.level().full, reason=f"this kernel gives {confinement.level()}")


@pytest.fixture(scope="module")
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture(scope="module", autouse=True)
def servers_end():
    yield
    confinement.close()


def marks(outside: Path) -> dict[str, tuple]:
    """All that can be seen of the files of a folder, and of one of Python's library."""
    paths = [*outside.iterdir(), Path(string.__file__)]
    return {
        path.name: (path.read_bytes(), s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_nlink, os.listxattr(path))
        for path in paths
        for s in [path.stat()]
    }


def test_the_set_is_large():
    assert len(HOSTILE) >= 40


@full
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_leaves_no_mark(name, tmp_path, listener, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    outside, own = tmp_path / "outside", tmp_path / "own"
    outside.mkdir(), own.mkdir()
    (outside / "secret.txt").write_text("hunter2")
    (own / "link").symlink_to(outside / "secret.txt")
    before = marks(outside)
    source, status, words = HOSTILE[name]
    names = {"outside": outside, "folder": own, "parent": os.getpid(), "port": listener.getsockname()[1]}
    program = source if name == "deep source" else source.replace("{project}", str(ROOT)).format(**names)

    outcome = run(program, seconds=0.2 if status == "timeout" else 5, memory=64 << 20, folder=own, output=10_000)

    assert outcome.status == status or (status == "not ok" and outcome.status != "ok"), outcome
    assert words in (outcome.stdout if status == "ok" else outcome.reason), outcome
    assert "hunter2" not in outcome.stdout and "hunter2" not in outcome.reason and "MARK" not in outcome.stdout
    assert before == marks(outside)
    assert all(stat.S_ISREG(path.lstat().st_mode) for path in own.iterdir() if path.name != "link")
    assert not (own / "MARK").exists() and len(outcome.stdout) <= 10_000
    with pytest.raises(BlockingIOError):
        listener.accept()


@full
def test_a_program_computes_prints_and_uses_its_folder(tmp_path):
    (tmp_path / "given.txt").write_text("3 4")
    (tmp_path / "helper.py").write_text("def square(x): return x * x")
    program = """
from dataclasses import dataclass
from helper import square
@dataclass
class Point:
    x: int
    y: int
point = Point(*map(int, open("given.txt").read().split()))
open("made.txt", "w").write(str(square(point.x) + square(point.y)))
print(open("made.txt").read(), "é中", __name__)
"""
    assert run(program, folder=tmp_path) == confinement.Outcome("25 é中 __main__\n", "ok", "")
    assert (tmp_path / "made.txt").read_text() == "25"


@full
def test_the_same_program_prints_the_same_in_every_server():
    program = "import random; print(random.random(), hash('a'), list({'a', 'b', 'c'}))"
    first = run(program)
    confinement.close()
    assert run(program) == first and first.status == "ok"


@full
def test_a_program_sees_nothing_of_the_one_before():
    run("import string, builtins; builtins.left = string.left = 1")
    assert run("import string; print(hasattr(string, 'left'), 'left' in dir(__builtins__))").stdout == "False False\n"


@full
def test_output_before_an_error_is_kept():
    outcome = run("print('first')\nint('x')")
    reason = "ValueError: invalid literal for int() with base 10: 'x' (line 2)"
    assert outcome == confinement.Outcome("first\n", "error", reason)


@full
def test_threads_have_servers_of_their_own():
    outcomes = {}

    def work(number: int) -> None:
        outcomes[number] = run(f"import time; time.sleep(0.5); print({number})").stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert outcomes == {number: f"{number}\n" for number in range(4)}
    assert len({id(server) for server in pool._idle}) >= 4


def _in_a_fork(answers) -> None:
    answers.put(run("print(1)").stdout)


@full
def test_a_forked_process_starts_servers_of_its_own():
    run("")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_in_a_fork, args=(answers,))
    process.start()
    assert answers.get(timeout=20) == "1\n"
    process.join()
    assert run("print(2)").stdout == "2\n"


@full
def test_a_server_that_was_killed_is_replaced():
    run("")
    for server in pool._idle:
        server._process.kill()
        server._process.wait()
    assert run("print(3)").stdout == "3\n"


def _weak_server(monkeypatch, layer: str) -> None:
    """The next server's children cannot put on a layer."""
    confinement.close()
    spoil = {
        "landlock": "from model.data.confinement import kernel; kernel.landlock_abi = lambda: 0;",
        "seccomp": "from model.data.confinement import seccomp; seccomp.ARCHITECTURES = {};",
    }
    monkeypatch.setattr(pool, "_START", pool._START.replace("; from", f"; {spoil[layer]} from", 1))


@full
@pytest.mark.parametrize("layer", ["landlock", "seccomp"])
def test_a_missing_layer_refuses_to_run_but_for_a_flag(layer, monkeypatch, tmp_path):
    _weak_server(monkeypatch, layer)
    confinement.level.cache_clear()
    try:
        with pytest.raises(confinement.ConfinementError, match=f"missing: {layer}.*--allow-weaker-confinement"):
            run("open('mark', 'w')", folder=tmp_path)
        with pytest.raises(confinement.ConfinementError, match="cannot fully confine"):
            confinement.require()
        assert not list(tmp_path.iterdir())
        level = confinement.level()
        assert level.missing == (layer,) and not level.full and f"without {layer}" in str(level)
        confinement.require(allow_weaker=True)
        assert run("print(1)", allow_weaker=True).stdout == "1\n"
    finally:
        confinement.close()
        confinement.level.cache_clear()


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"memory": 256}, {"output": 0}, {"folder": "nowhere"}])
def test_wrong_limits_are_one_sentence(wrong):
    with pytest.raises(confinement.pool.HunyuanError, match="a program cannot run"):
        run("", **wrong)


def simulate(code: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int = 0xC000003E) -> int:
    """What a BPF program answers to a system call: the kernel's rules, written out."""
    words = [number, architecture, 0, 0]
    for argument in (*arguments, *[0] * 6)[:6]:
        words += [argument & 0xFFFFFFFF, argument >> 32]
    place, held = 0, 0
    while True:
        op, if_true, if_false, value = seccomp.struct.unpack_from("=HBBI", code, 8 * place)
        place += 1
        if op == seccomp.LOAD:
            held = words[value // 4]
        elif op == seccomp.AND:
            held &= value
        elif op == seccomp.RETURN:
            return value
        else:
            place += if_true if (held == value if op == seccomp.EQUAL else held >= value) else if_false


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_the_filter_of_each_architecture_allows_its_list_alone(machine, column):
    code = seccomp.program(machine, pid=7)
    architecture = seccomp.ARCHITECTURES[machine][0]

    def ask(number: int, *arguments: int) -> int:
        return simulate(code, number, arguments, architecture)

    allowed = {numbers[column] for numbers in seccomp.CALLS.values()} - {None}
    special = {seccomp.OPENAT, seccomp.IOCTL, seccomp.FCNTL, seccomp.PRLIMIT, seccomp.TGKILL, seccomp.CLONE3}
    special = {numbers[column] for numbers in special}
    refused = seccomp.ERRNO | seccomp.EPERM
    for number in set(range(600)) - special:
        assert ask(number) == (seccomp.ALLOW if number in allowed else refused), number
    assert simulate(code, 0, (), 0x40000003) == seccomp.KILL  # 32-bit calls
    assert ask(0x40000000) == seccomp.KILL
    opening = seccomp.OPENAT[column]
    assert ask(opening, 0, 0, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666) == seccomp.ALLOW
    assert ask(opening, 0, 0, os.O_CREAT | os.O_WRONLY, 0o4755) == refused
    assert ask(opening, 0, 0, os.O_TRUNC) == refused
    for number, good, bad in [
        (seccomp.IOCTL, (0, 0x5401), (0, 0x5412)),
        (seccomp.FCNTL, (1, 3), (1, 8)),
        (seccomp.PRLIMIT, (0, 9, 0), (0, 9, 1 << 32)),
        (seccomp.PRLIMIT, (7, 9, 0), (8, 9, 0)),
        (seccomp.TGKILL, (7, 7, 6), (8, 8, 6)),
    ]:
        assert ask(number[column], *good) == seccomp.ALLOW and ask(number[column], *bad) == refused
    assert ask(seccomp.CLONE3[column]) == seccomp.ERRNO | seccomp.ENOSYS


def test_the_layers_are_all_there_is():
    level = confinement.level()
    assert set(level.layers) - {"bubblewrap"} | set(level.missing) == set(child.LAYERS)


BUBBLEWRAP = """#!/bin/sh
echo "$@" >> {log}
while true; do
  case "$1" in
    --unshare-all) shift ;;
    --dev) shift 2 ;;
    --ro-bind | --bind) shift 3 ;;
    *) exec "$@" ;;
  esac
done
"""


@pytest.mark.parametrize("works", [True, False])
def test_bubblewrap_is_a_second_layer_where_it_works(works, tmp_path, monkeypatch):
    """A stand-in notes its arguments and starts the command; where it cannot, the first layers stand alone."""
    program, log = tmp_path / "bwrap", tmp_path / "log"
    program.write_text(BUBBLEWRAP.format(log=log) if works else "#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(pool.shutil, "which", lambda name: str(program) if name == "bwrap" else None)
    folders = [tmp_path / name for name in ("one", "two")]
    confinement.close()
    for function in (pool._bubblewrap, confinement.level):
        function.cache_clear()
    try:
        for folder in (None, *folders, folders[1], None):
            if folder:
                folder.mkdir(exist_ok=True)
            assert run("print(1)", folder=folder, allow_weaker=True).stdout == "1\n"
        assert ("bubblewrap" in confinement.level().layers) == works
        if works:
            started = log.read_text().splitlines()[1:]  # the first was the trial
            assert ["--bind" in line for line in started] == [False, True, True]
            assert (
                all("--unshare-all --ro-bind / /" in line for line in started) and f"--bind {folders[1]}" in started[2]
            )
            assert len(pool._idle) == 1  # a folder that is no longer asked for has no server
    finally:
        confinement.close()
        for function in (pool._bubblewrap, confinement.level):
            function.cache_clear()
