"""The frame of the command line: start-up, errors and exit statuses, sizes and results."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer

from hunyuan_cli import app, main
from hunyuan_cli.console import human_bytes, human_count, human_time
from hunyuan_cli.files import save_figure, write_output
from hunyuan_cli.options.sizes import parse_bytes, parse_context, parse_count, parse_number
from hunyuan_cli.results import emit
from model.errors import ConfigError, HunyuanError

ROOT = Path(__file__).parents[2]


def hunyuan(*arguments, **options):
    command = [sys.executable, "-m", "hunyuan_cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, **options)


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["train"], ["infer"], ["compare"], ["bench"], ["bench", "train"]])
def test_every_command_has_help(command, capsys):
    assert main.run([*command, "--help"]) == 0
    assert "Usage: hunyuan " + " ".join(command) in capsys.readouterr().out


def test_version(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hunyuan")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch):
    """Commands `fail`, which raises what the test puts in, and so no real command need be broken."""
    box = []
    built = app.build(["bench"])

    @built.command("fail")
    def fail() -> None:
        raise box[0]

    monkeypatch.setattr(app, "build", lambda arguments: built)
    return box.append


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (HunyuanError("the width is 7:\n make it even"), 1, "error: the width is 7: make it even\n"),
        (ConfigError(["a is 1", "b is 2"]), 1, "error: 2 settings cannot be used: a is 1; b is 2\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), 1, "error: '/x/y': no space left on device, free"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "error: '/x': permission denied\n"),
        (MemoryError(), 1, "error: the device is out of memory"),
        (
            RuntimeError("InvalidCxxCompiler: No working C++ compiler found"),
            1,
            "error: torch.compile found no C++ compiler: ",
        ),
        (KeyError("width"), 1, "bug in hunyuan (KeyError: 'width'); rerun as hunyuan --debug fail"),
        (typer.BadParameter("no good"), 2, "error: Invalid value: no good (see hunyuan fail --help)\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Abort(), 130, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_an_error_is_one_sentence_and_a_status(failing, capsys, error, status, says):
    failing(error)
    assert main.run(["fail"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == (1 if says else 0)


def test_debug_shows_the_traceback(failing, capsys):
    failing(HunyuanError("the width is 7"))
    assert main.run(["--debug", "fail"]) == 1
    assert "Traceback" in (err := capsys.readouterr().err) and "the width is 7" in err


def test_out_of_memory_of_torch_is_a_sentence(failing, capsys):
    import torch

    failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))
    assert main.run(["fail"]) == 1
    assert "out of memory: lower the batch size" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["compare", "--nonsense"]])
def test_wrong_usage_is_one_sentence_and_status_2(arguments):
    done = hunyuan(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nonsense" in done.stderr and done.stderr.count("\n") == 1


def test_a_pipe_closed_before_what_was_printed_is_flushed_is_quiet():
    code = (
        "from hunyuan_cli import app, main; built = app.build(['bench']); built.command('say')(lambda: print('x'))\n"
        "app.build = lambda arguments: built; exit(main.run(['say']))"
    )
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=buffered
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1


def test_a_closed_pipe_is_quiet(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        row = {"step": 1, "tokens": 1, "flops": 1, "seconds": 1, "loss": 1}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    command = [sys.executable, "-m", "hunyuan_cli.main", "compare", str(tmp_path), "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_context, "256K", 262_144),
        (parse_context, "32k", 32_768),
        (parse_context, "1M", 1_048_576),
        (parse_context, "4096", 4096),
        (parse_context, 262_144, 262_144),
        (parse_count, "2M", 2_000_000),
        (parse_count, "1.5B", 1_500_000_000),
        (parse_count, "7T", 7 * 10**12),
        (parse_count, "2,000,000", 2_000_000),
        (parse_count, "1_000", 1000),
        (parse_count, "1e9", 10**9),
        (parse_number, "1e15", 1e15),
        (parse_number, "6.02e+23", 6.02e23),
        (parse_number, 1e15, 1e15),
        (parse_number, "0.5", 0.5),
        (parse_bytes, "141GB", 141 * 10**9),
        (parse_bytes, "80GiB", 80 * 2**30),
        (parse_bytes, "512 mb", 512 * 10**6),
        (parse_bytes, "1.5TiB", 3 * 2**39),
        (parse_bytes, "1024", 1024),
    ],
)
def test_sizes_are_read(parse, text, value):
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize("parse", [parse_context, parse_count, parse_number, parse_bytes])
@pytest.mark.parametrize("text", ["", "0", "-1", "many", "nan", "inf", "1e999", "12X", "1K2", "0x10", "٣"])
def test_what_is_no_size_is_refused_with_examples(parse, text):
    with pytest.raises(typer.BadParameter, match="write ") as refused:
        parse(text)
    assert f"'{text}'" in str(refused.value)


@pytest.mark.parametrize(("parse", "text"), [(parse_context, "1.3"), (parse_count, "0.5"), (parse_context, "256KB")])
def test_a_part_of_a_token_is_refused(parse, text):
    with pytest.raises(typer.BadParameter):
        parse(text)


# --- results ---------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {"name": ["[bold]a", "b"], "tokens": [1_500_000, 2], "loss": [2.5, float("nan")], "loss_sd": [0.1, None]}
)


def test_json_of_a_frame_is_its_rows_and_of_a_dict_the_dict(capsys):
    emit(FRAME, format="json")
    assert json.loads(capsys.readouterr().out)[1] == {"name": "b", "tokens": 2, "loss": None, "loss_sd": None}
    emit({"x": float("inf"), "rows": FRAME, "in": {"path": Path("p"), "list": [1, None]}}, format="json")
    document = json.loads(capsys.readouterr().out)
    assert document["x"] is None and len(document["rows"]) == 2 and document["in"] == {"path": "p", "list": [1, None]}


def test_table_is_for_reading(capsys):
    emit({"total": 12_345, "rows": FRAME}, title="counts")
    out = capsys.readouterr().out
    assert "[bold]a" in out and "1.5M" in out and "2.5000 ± 0.1000" in out and "–" in out and "12,345" in out


def test_a_table_too_wide_is_turned_and_nothing_is_cut(capsys):
    emit(pd.DataFrame([{f"measure_number_{i}": i for i in range(40)}]))
    lines = capsys.readouterr().out.splitlines()
    assert sum("measure number" in line for line in lines) == 40
    emit(pd.DataFrame([{f"measure_number_{i}": i for i in range(40)}] * 50))
    assert "measure number 39" in capsys.readouterr().out.splitlines()[0]


ROWS = [{"variant": "MHA", "bytes": 2_000_000}, {"variant": "none", "bytes": None, "loss": 2.5, "gone": None}]


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_rows_need_no_pandas(format):
    code = (
        "import sys; from hunyuan_cli.results import emit\n"
        f"emit({ROWS}, format='{format}'); emit({{'x': 1, 'rows': {ROWS}}}, format='{format}')\n"
        "print([m for m in ('pandas', 'numpy', 'torch') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stderr == "[]\n" and "MHA" in done.stdout


def test_rows_may_lack_values_and_their_ints_stay_ints(capsys):
    emit(ROWS)
    assert capsys.readouterr().out.splitlines() == [
        " variant   bytes     loss",
        " ────────────────────────",
        " MHA        2 MB        –",
        " none          –   2.5000",
    ]
    emit(ROWS, format="csv")
    assert capsys.readouterr().out == "variant,bytes,loss,gone\nMHA,2000000,,\nnone,,2.5,\n"
    emit(ROWS, format="json")
    assert json.loads(capsys.readouterr().out) == ROWS


def test_csv_of_a_frame_is_what_pandas_writes(capsys):
    frame = FRAME.assign(count=pd.array([3, None], "Int64"), wide=[1e300, float("inf")], text=['a,"b"', "c\nd"])
    for table in (frame, frame[["loss"]], frame[:0], pd.DataFrame()):
        emit(table, format="csv")
        assert capsys.readouterr().out == table.to_csv(index=False)


def test_numbers_are_to_the_right_and_all_else_to_the_left(capsys):
    emit([{"mixed": 1, "number": 1, "flag": True}, {"mixed": "long", "number": 1.25, "flag": False}])
    assert capsys.readouterr().out.splitlines()[2:] == [" 1            1   yes", " long      1.25   no"]


def test_a_dict_of_rows_is_a_table_of_its_own(capsys):
    parts = {"attention": {"total": 10, "activated": 10}, "experts": {"total": 160, "rule": "16 of 10"}}
    result = {"total": 170, "components": parts, "flops_per_token": {"exact": 1, "six_n": 2}}
    emit(result)
    assert capsys.readouterr().out.splitlines()[:6] == [
        "components",
        "",
        " components   total   activated   rule",
        " ─────────────────────────────────────────",
        " attention       10          10   –",
        " experts        160           –   16 of 10",
    ]
    emit(result, format="csv")
    assert capsys.readouterr().out.splitlines()[:2] == ["components,total,activated,rule", "attention,10,10,"]
    emit({"rows": ROWS, **result}, format="csv")
    assert capsys.readouterr().out.startswith("variant,")
    emit(result, format="json")
    assert json.loads(capsys.readouterr().out) == result
    emit({"mixed": {"a": {"x": 1}, "b": 2}}, format="csv")
    assert capsys.readouterr().out.splitlines()[0] == "mixed.a,mixed.b"


def test_a_note_stands_below_tables_only(capsys):
    note = "[all] sizes are decimal " + "and long " * 20 + "."
    emit({"a": 1, "rows": ROWS}, note=note)
    out = capsys.readouterr().out
    assert out.endswith(f" 1\n\n{note}\n")
    for format in ("json", "csv"):
        emit({"a": 1, "rows": ROWS}, note=note, format=format)
        assert "decimal" not in capsys.readouterr().out


def test_people_read_numbers_with_units():
    assert [human_count(n) for n in (0, 999, 12_345, 999_960, 52_000_000_000, 1e21)] == [
        "0", "999", "12.3K", "1M", "52B", "1e+21"]  # fmt: skip
    assert [human_bytes(n) for n in (512, 81_920, 141e9)] == ["512 B", "81.92 kB", "141 GB"]
    assert [human_time(s) for s in (4.25, 187, 18_720, 183_600)] == ["4.25s", "3m 07s", "5h 12m", "2d 03h"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "out.txt"
    write_output(target, b"first")

    def full(self, other):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="space"):
        write_output(target, b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"] and target.read_bytes() == b"first"


def test_output_may_be_a_pipe_but_no_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_output(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo()
    with pytest.raises(HunyuanError, match="folder"):
        write_output(tmp_path, b"")


def test_a_figure_of_unknown_format_is_refused(tmp_path):
    from matplotlib.figure import Figure

    with pytest.raises(HunyuanError, match=r"figure\.gif"):
        save_figure(Figure(), tmp_path / "figure.gif")
