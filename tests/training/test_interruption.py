"""Real processes that are killed, interrupted, or run out of disk, and go on as if nothing had happened."""

import random
import shlex
import signal
import time

import pytest
from tiny import TENSORS, TINY, assert_same_run, checkpoint, rows_of

pytestmark = pytest.mark.slow

STEPS = 40
SETTINGS = (
    "training.steps=40", "training.checkpoint_every=2", "training.evaluate_every=9", "training.keep_checkpoints=3",
    "model.moe_routing=recycle", "model.expert_bias_update_rate=0.01",
)  # fmt: skip


@pytest.fixture(scope="session")
def options(text):
    return ["--config", TINY, "--data", text, *(word for setting in SETTINGS for word in ("--set", setting))]


@pytest.fixture(scope="session")
def uninterrupted(process, options, tmp_path_factory):
    """The reference: the same run in one go."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    child = process("--out", folder, *options)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (0, ""), err
    return folder


def lines(folder) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(child, happened) -> None:
    while child.poll() is None and not happened():
        time.sleep(0.001)


def test_a_run_killed_again_and_again_ends_like_the_uninterrupted_one(process, options, uninterrupted, tmp_path):
    """SIGKILL at steps chosen by a seed, and while a checkpoint is being written."""
    folder = tmp_path / "run"
    draw = random.Random(1)
    for kill in range(6):
        child = process("--out", folder, *([*options] if kill == 0 else ["--resume"]))
        wait_until(child, lambda: lines(folder) >= 3)  # there is a checkpoint to go on from
        until, writing = lines(folder) + draw.randint(1, 5), kill % 2 == 1
        wait_until(child, lambda until=until: lines(folder) >= until)
        wait_until(child, lambda writing=writing: not writing or any((folder / "checkpoints").glob(".*.writing")))
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert not (folder / "summary.json").exists()
    child = process("--out", folder, "--resume")
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "resuming at step" in err
    assert_same_run(folder, uninterrupted, STEPS)
    assert [row["step"] for row in rows_of(folder)] == list(range(1, STEPS + 1))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        path.name for path in sorted((uninterrupted / "checkpoints").iterdir())
    ]


def test_ctrl_c_and_sigterm_finish_the_step_and_print_the_command_that_continues(
    process, options, uninterrupted, tmp_path
):
    folder = tmp_path / "a folder"
    arguments = ["--out", folder, *options]
    for number, steps in ((signal.SIGINT, 5), (signal.SIGTERM, 15)):
        child = process(*arguments)
        wait_until(child, lambda steps=steps: lines(folder) >= steps)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (130, "")
        assert "Traceback" not in err
        stopped, command = err.splitlines()[-1].split("; continue with: ")
        done = int(stopped.removeprefix("stopped after step ").removesuffix(" and saved"))
        assert steps <= done < STEPS
        assert rows_of(folder) == rows_of(uninterrupted)[:done]
        assert all((checkpoint(folder, done) / name).exists() for name in TENSORS)
        program, verb, *arguments = shlex.split(command)
        assert (program, verb) == ("hunyuan", "train")
    child = process(*arguments)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert_same_run(folder, uninterrupted, STEPS)


def test_compilation_without_a_compiler_is_a_sentence_and_the_run_goes_on_without(process, options, tmp_path):
    """torch looks for the compiler that CXX names, and keeps what it compiled before in a folder."""
    hide = f"import os; os.environ |= {{'CXX': '/nonexistent', 'TORCHINDUCTOR_CACHE_DIR': '{tmp_path / 'compiled'}'}}"
    folder = tmp_path / "run"
    child = process("--out", folder, "--set", "training.compile=true", *options, code=hide)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (1, "")
    sentence = err.splitlines()[-1]
    assert sentence.startswith("error: torch.compile found no C++ compiler: install one, such as g++")
    assert sentence.endswith("or leave out --compile or training.compile") and "Traceback" not in err
    child = process("--out", folder, "--resume", "--set", "training.compile=false", "--quiet", code=hide)
    assert f"finished after {STEPS} steps" in child.communicate(timeout=120)[1]


FULL_AFTER_THE_FIRST_CHECKPOINT = """
import resource
from model.training import held

save = held.save_checkpoint
def save_and_fill(*arguments, **named):
    save(*arguments, **named)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
held.save_checkpoint = save_and_fill
"""


@pytest.mark.parametrize(
    ("limit", "says", "logged"),
    [
        (100_000, "the checkpoint of step 4 could not be written to", 4),  # bytes: less than the weights take
        (1000, "cannot be written (File too large) at step 3: free some space, then go on with --resume", 2),  # the log
    ],
    ids=["checkpoint", "log"],
)
def test_a_full_disk_is_a_sentence_and_the_older_checkpoint_is_intact(
    process, options, uninterrupted, tmp_path, limit, says, logged
):
    folder = tmp_path / "run"
    child = process("--out", folder, *options, code=FULL_AFTER_THE_FIRST_CHECKPOINT.format(limit=limit))
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (1, "")
    (sentence,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert sentence == err.splitlines()[-1]
    assert says in sentence
    assert "Traceback" not in err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    child = process("--out", folder, "--resume")  # with room again
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "resuming at step 2 of" in err
    assert_same_run(folder, uninterrupted, STEPS)
