"""Where results are written: what is refused before any work is done, and what is replaced, with a word."""

import json
import os

import pytest
from matplotlib.figure import Figure

from hunyuan_cli.files import check_output, line_writer, save_figure, write_output
from hunyuan_cli.main import run
from model.errors import HunyuanError

TABLE = "flops,params,tokens,loss\n" + "".join(f"{6 * n * 10**12},{n}000,{10**9},3.0\n" for n in range(1, 4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("option", ["--output", "--plot"])
def test_no_folders_are_made_for_a_mistyped_path(folder, capsys, option):
    name = str(folder / "typo" / "results" / "x.png")
    assert run(["kv-cache", option, name]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert f"there is no folder '{folder / 'typo' / 'results'}'" in captured.err
    assert not (folder / "typo").exists()


def test_a_new_folder_is_made_in_one_that_is_there(folder):
    assert run(["kv-cache", "--output", "results/x.json"]) == 0
    write_output(folder / "figures" / "x.txt", b"1")
    assert (folder / "results" / "x.json").is_file() and (folder / "figures" / "x.txt").is_file()


@pytest.mark.parametrize("written", [["--output", "./runs.csv"], ["--output=runs.csv"], ["--output", "link.csv"]])
def test_what_a_command_reads_is_not_overwritten(folder, capsys, written):
    (folder / "runs.csv").write_text(TABLE)
    (folder / "link.csv").symlink_to("runs.csv")
    assert run(["scale-fit", "runs.csv", *written]) == 1
    assert "is also what this command reads" in capsys.readouterr().err
    assert (folder / "runs.csv").read_text() == TABLE


def test_what_an_option_names_is_read_too(folder, capsys):
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n")
    assert run(["infer", "--prompts=prompts.jsonl", "--checkpoint", "none", "--output", "prompts.jsonl"]) == 1
    assert "is also what this command reads" in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["metrics.jsonl", "model.safetensors"])
def test_the_files_of_a_run_or_a_model_are_not_overwritten(folder, capsys, mark):
    (folder / mark).touch()
    (folder / "config.json").write_text("{}")
    with pytest.raises(HunyuanError, match="belongs to the model in that folder"):
        write_output(folder / "config.json", b"lost")
    assert run(["kv-cache", "--output", "config.json"]) == 1
    assert (folder / "config.json").read_text() == "{}"
    write_output(folder / "curves.png", b"figures lie beside them")


def test_a_file_of_such_a_name_elsewhere_is_a_result(folder):
    (folder / "config.json").write_text("{}")
    check_output(folder / "config.json")
    check_output(folder / "summary.json", ["summary.json"])


def test_an_older_result_is_replaced_with_a_word(folder, capsys):
    for word in ("", " (replaced)"):
        assert run(["kv-cache", "--model", "toy", "--output", "cache.json"]) == 0
        assert capsys.readouterr().err == f"wrote {folder / 'cache.json'}{word}\n"
    for word in ("", " (replaced)"):
        save_figure(Figure(), folder / "figure.svg")
        assert capsys.readouterr().err == f"wrote {folder / 'figure.svg'}{word}\n"
    for word in ("", " (replaced)"):
        with line_writer(folder / "lines.jsonl") as write:
            write("{}")
        assert capsys.readouterr().err == f"wrote 1 lines to {folder / 'lines.jsonl'}{word}\n"


def test_pipes_and_devices_are_written_into(folder):
    check_output(folder / os.devnull, [os.devnull, os.devnull])
    write_output(folder / os.devnull, b"")


def test_a_folder_is_no_file(folder):
    with pytest.raises(HunyuanError, match="is a folder"), line_writer(folder):
        pass
    with pytest.raises(HunyuanError, match="is a folder"):
        write_output(folder, b"")
