"""`hunyuan train`: what it prints and leaves behind, how it is resumed, and a sentence for every mistake."""

import json
import random
import shlex
import signal
from pathlib import Path

import pytest

from hunyuan_cli import main
from hunyuan_cli.signals import FINISH_STEP, stop_on_signal
from model.counts import training_flops_per_token
from model.training import pretraining
from model.training.run_folder import first_prompt
from model.training.settings import RunSettings

TINY = Path(__file__).parents[1] / "training" / "tiny.toml"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = "the router sends each token to one expert and every expert learns its own part of a text".split()
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text("".join(" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(300)), encoding="utf-8")
    return path


@pytest.fixture
def hunyuan(text, tmp_path, monkeypatch, capfd):
    """hunyuan("train", ...) -> (status, stdout, lines of stderr), in a folder of its own."""
    monkeypatch.setattr(
        "model.training.loop.measure_peak_flops", lambda device, dtype: 1e11
    )  # a second on a busy machine
    monkeypatch.setenv("HUNYUAN_CACHE", str(text.parent / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        status = main.run([*map(str, arguments)])
        out, err = capfd.readouterr()
        return status, out, err.splitlines()

    return run


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes longer than training does here."""
    monkeypatch.setattr("hunyuan_cli.commands.train.draw_run", lambda out, **_: None)


@pytest.fixture
def train(hunyuan, text):
    return lambda *arguments: hunyuan("train", "--config", TINY, "--data", text, *arguments)


def settings(folder):
    return RunSettings.from_toml(folder / "run.toml")


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_prints_its_groups_and_leaves_its_record(train, tmp_path):
    status, out, err = train("--out", tmp_path / "run", "--set", "training.expert_lr_scale=0.25", "--steps", 6)
    assert (status, out) == (0, "")
    groups = {line.split()[0]: line.split()[1:] for line in err if line.startswith("  ")}
    assert groups == {
        "group": ["tensors", "parameters", "rate", "relative", "decay"],
        "shared_and_rest": ["11", "20.9K", "4.00e-03", "1x", "0.1"],
        "router": ["2", "256", "4.00e-03", "1x", "0.1"],
        "routed_experts": ["4", "24.6K", "1.00e-03", "0.25x", "0.1"],
        "no_decay": ["9", "224", "4.00e-03", "1x", "0"],
    }
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json", "run.toml", "environment.json", "tokenizer.json", "metrics.jsonl", "summary.json", "checkpoints",
        "loss.png", "expert_load.png", ".lock", "generation_config.json",
    }  # fmt: skip
    assert all(
        (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG") for name in ("loss.png", "expert_load.png")
    )
    assert err[-1].startswith("next: hunyuan infer ") and err[-1].endswith(f" --checkpoint {tmp_path / 'run'}")


def test_what_it_says_to_do_next_goes_on_with_text_of_its_own_and_no_text_is_greedy(
    hunyuan, train, text, tmp_path, no_figures
):
    _, _, err = train("--out", tmp_path / "a run", "--steps", 3)
    command = shlex.split(err[-1].removeprefix("next: hunyuan "))
    assert command == ["infer", command[1], "--checkpoint", str(tmp_path / "a run")]
    assert command[1] in text.read_text() and 10 < len(command[1]) <= 32 and command[1] == command[1].strip()
    status, out, _ = hunyuan(*command)
    assert status == 0 and out.startswith(command[1])
    settings = json.loads((tmp_path / "a run" / "generation_config.json").read_text())
    assert settings == {"do_sample": True, "temperature": 0.8, "top_k": 50, "eos_token_id": 0}
    assert out == hunyuan(*command, "--temperature", 0.8, "--top-k", 50)[1] != hunyuan(*command, "--temperature", 0)[1]
    (tmp_path / "a run" / "environment.json").write_text("{}")  # of an older version: an empty prompt begins a text
    assert first_prompt(tmp_path / "a run") == ""
    assert hunyuan("infer", "", *command[2:])[0] == 0


def test_sixteen_experts_are_printed_at_the_reports_rate(train):
    _, _, err = train("--steps", 1, "--set", "model.num_experts=16", "--quiet", "--set", "training.learning_rate=1")
    assert not [line for line in err if line.startswith("  ")]  # quiet
    _, _, err = train("--steps", 1, "--set", "model.num_experts=16", "--set", "training.learning_rate=1")
    (routed,) = [line.split() for line in err if line.startswith("  routed_experts")]
    assert routed[3:5] == ["3.10e-01", "0.31x"]


def test_a_dense_run_has_no_expert_figure(train, tmp_path):
    _, _, err = train("--out", tmp_path / "run", "--set", "model.num_experts=1", "--set", "model.num_shared_expert=0")
    assert [line for line in err if "figure" in line] == []
    assert (tmp_path / "run" / "loss.png").exists()
    assert not (tmp_path / "run" / "expert_load.png").exists()


def test_options_and_settings_reach_the_run(train, no_figures, tmp_path, text):
    settings_given = ["--set", "training.checkpoint_every=5", "--set", "model.moe_routing=recycle"]
    train("--out", tmp_path / "run", "--steps", 5, "--seed", 3, "--device", "cpu", *settings_given)
    found = settings(tmp_path / "run")
    assert (found.training.steps, found.training.seed, found.training.checkpoint_every) == (5, 3, 5)
    assert (found.model.moe_routing, found.data.sources) == ("recycle", (str(text),))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]


@pytest.mark.parametrize(
    ("length", "steps"), [(("--steps", 3), 3), (("--tokens", "1K"), 4), (("--tokens", 512), 2), (("--flops", "1e8"), 3)]
)
def test_a_length_on_the_command_line_replaces_that_of_the_file(train, no_figures, tmp_path, length, steps):
    train("--out", tmp_path / "run", *length)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == steps  # 1e8 FLOPs: 256 tokens of about 0.19M each are 5e7
    if length[0] == "--flops":
        assert summary["flops"] - 256 * training_flops_per_token(settings(tmp_path / "run").model, 32) < 1e8
        assert summary["flops"] >= 1e8


def test_without_out_each_run_has_a_folder_of_its_own(train, no_figures, tmp_path):
    for _ in range(2):
        train("--steps", 1)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run-1", "run-2"]


def test_a_recorded_run_file_repeats_the_run(train, hunyuan, no_figures, tmp_path):
    train("--out", tmp_path / "a", "--set", "model.moe_routing=recycle")
    hunyuan("train", "--config", tmp_path / "a" / "run.toml", "--out", tmp_path / "b")
    names = [Path("checkpoints", "step-00000012", "model.safetensors"), Path("run.toml"), Path("config.json")]
    assert [(tmp_path / "a" / name).read_bytes() for name in names] == [
        (tmp_path / "b" / name).read_bytes() for name in names
    ]


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(train, no_figures, tmp_path):
    train("--out", tmp_path / "run", "--steps", 4, "--quiet")
    return tmp_path / "run"


def test_resuming_a_finished_run_is_done_at_once(hunyuan, finished):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    status, out, err = hunyuan("train", "--out", finished, "--resume")
    assert (status, out) == (0, "")
    assert any(line.startswith("resuming at step 4 of ") for line in err)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_resuming_says_which_damaged_checkpoint_it_passed_over(hunyuan, finished):
    (finished / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"damaged")
    status, _, err = hunyuan("train", "--out", finished, "--resume", "--quiet")
    assert status == 0
    damaged = "model.safetensors does not match its checksum"
    assert f"the checkpoint step-00000004 is damaged ({damaged}): the one before it is used" in err
    assert any(line.startswith("finished after 4 steps") for line in err)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--seed 9", "training.seed cannot change when a run is resumed: it alters the order of the text"),
        ("--data x.txt", "data.sources cannot change when a run is resumed: it would be another text"),
        ("--set model.moe_topk=2", "model.moe_topk cannot change when a run is resumed: it would be another model"),
        ("--set training.learning_rate=1", "training.learning_rate cannot change when a run is resumed: it alters"),
        (
            "--set training.micro_batch_size=2",
            "training.micro_batch_size cannot change when a run is resumed: it alters the",
        ),
        ("--set training.lr=1", "training.lr is not a setting"),
        ("--set training.log_every=0", "training.log_every is 0: it must be at least 1"),
        ("--steps 3", "the run has 4 steps and would have 3: a resumed run can be lengthened only"),
        ("--tokens 9", "the run has 4 steps and would have 1: a resumed run can be lengthened only"),
        ("--steps 9 --tokens 9", "say the length twice"),
        ("--model toy", "--model cannot change a run that is resumed: leave it out"),
        ("--config run/run.toml", "--config cannot change a run that is resumed: leave it out"),
        ("--init-from run", "--init-from cannot change a run that is resumed: leave it out"),
    ],
)
def test_resuming_with_what_alters_its_numbers_is_refused(hunyuan, finished, change, says):
    before = (finished / "run.toml").read_bytes()
    status, out, err = hunyuan("train", "--out", finished, "--resume", *change.split())
    assert (status, out, len(err)) == (2 if change.startswith(("--model", "--config", "--init")) else 1, "", 1)
    assert says in err[0]
    assert (finished / "run.toml").read_bytes() == before


def test_what_alters_no_number_may_change_and_is_recorded(hunyuan, finished):
    changes = ["--set", "training.keep_checkpoints=5", "--set", "training.log_every=2", "--seed", 7]  # it has seed 7
    status, _, _ = hunyuan("train", "--out", finished, "--resume", "--device", "cpu", *changes)
    assert status == 0
    found = settings(finished).training
    assert (found.keep_checkpoints, found.log_every, found.seed, found.steps) == (5, 2, 7, 4)
    (change,) = json.loads((finished / "environment.json").read_text())["changes"]
    assert change["step"] == 4
    assert change["settings"] == {"training.keep_checkpoints": [2, 5], "training.log_every": [1, 2]}


def test_the_device_of_a_resumed_run_is_the_one_that_is_asked_for(hunyuan, finished, monkeypatch):
    seen = []
    real = pretraining.pick_device
    monkeypatch.setattr(pretraining, "pick_device", lambda name: seen.append(name) or real("cpu"))
    assert hunyuan("train", "--out", finished, "--resume", "--device", "cuda:0")[0] == 0
    assert seen == ["cuda:0"]
    assert hunyuan("train", "--out", finished, "--resume")[0] == 0
    assert seen == ["cuda:0"] * 2  # it stays there


@pytest.mark.parametrize("length", [("--steps", 8), ("--tokens", 2048)])
def test_a_finished_run_is_lengthened_and_its_rate_stated(hunyuan, finished, length):
    status, _, err = hunyuan("train", "--out", finished, "--resume", *length)
    assert status == 0
    (note,) = [line for line in err if "lengthened" in line]
    assert note == (
        "the run is lengthened from 4 to 8 steps: from step 5 on the learning rate is that of a run of 8 steps, "
        "0.00291 where it was 0.0019; it ends at 0.00134"
    )
    assert json.loads((finished / "summary.json").read_text())["steps"] == 8
    assert hunyuan("train", "--out", finished, "--resume")[0] == 0  # its new length is its own
    assert json.loads((finished / "summary.json").read_text())["steps"] == 8


def test_other_data_is_refused_in_a_sentence(hunyuan, no_figures, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("".join(f"line {n} of {n * n} and {n**3}\n" for n in range(400)))
    hunyuan("train", "--config", TINY, "--data", mine, "--out", "run", "--steps", 2)
    mine.write_text("".join(f"line {n} of {n * n} and {n + 3}\n" for n in range(400)))
    status, _, err = hunyuan("train", "--out", "run", "--resume")
    assert (status, err[-1].split("(")[0]) == (1, "error: the data of run has changed since it began ")


# --- mistakes --------------------------------------------------------------------------------------------------------

BAD = [
    (1, "--set training.chekpoint_every=5", "training.chekpoint_every is not a setting: did you mean 'checkpoint_every'?"),
    (1, "--set trainig.steps=5", "--set trainig.steps=5 is not section.key=value"),
    (1, "--set training.steps=many", "training.steps is 'many': give a whole number"),
    (1, "--set training.tokens=100", "say the length twice: give one of steps, tokens and flops"),
    (1, "--steps 5 --tokens 100", "say the length twice"),
    (1, "--set model.moe_topk=9 --set training.beta1=1", "2 settings cannot be used: model.moe_topk is 9"),
    (1, "--set model.num_key_value_heads=3", "with 2 attention heads it must be one of 1, 2"),
    (1, "--set training.micro_batch_size=3", "it must be a multiple of sequence_length 32 x micro_batch_size 3 = 96"),
    (1, "--set training.sequence_length=256 --set training.micro_batch_size=1 --data short.txt", "tokens and a sequence"),
    (1, "--set model.vocab_size=200", "a byte-level tokenizer needs at least 257"),
    (1, "--model tiny", "there is no model named 'tiny': choose one of toy"),
    (1, "--device gpu", "device 'gpu' is not known: use auto, cpu or cuda"),
    (1, "--device cuda:99", "device 'cuda:99' is not there"),
    (1, "--data absent.txt", "absent.txt is not a file, a folder or a glob that matches"),
    (1, "--data empty.txt", "empty.txt is empty"),
    (1, "--data picture.png", "picture.png is not one of the files that can be read"),
    (1, "--data latin.txt", "latin.txt, line 1: byte 0xe9 is not UTF-8"),
    (1, "--config broken.toml", "broken.toml is not valid TOML"),
    (1, "--config table.toml", "training must be a table: write [training]"),
    (1, "--config table.toml --steps 3 --model toy", "training must be a table: write [training]"),
    (1, "--config section.toml", "[modle] is not a section: known are model, data, training"),
    (1, "--out taken", "taken already holds a run: continue it with --resume"),
    (1, "--out short.txt/run", "'short.txt/run"),
    (2, "--config absent.toml", "'absent.toml' does not exist"),
    (2, "--out short.txt", "short.txt' is a file"),
    (2, "--steps 0", "'--steps': "),
    (2, "--steps many", "'--steps': "),
    (2, "--tokens 2Q", "'2Q' is not a positive whole number: write 2000000, 2M, 1.5B or 1e9"),
    (2, "--flops -1", "'-1' is not a positive number"),
    (2, "--seed -1", "'--seed': "),
    (2, "--seed 99999999999999999999", "'--seed': "),
    (2, "--checkpoint-every 5", "No such option: --checkpoint-every"),
    (2, "--resume", "--resume needs the folder of the run: add --out RUN"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "options", "says"), BAD, ids=[options for _, options, _ in BAD])
def test_a_mistake_is_one_sentence(hunyuan, text, tmp_path, status, options, says):
    words = options.split()
    (tmp_path / "short.txt").write_text("a few words\nin a few lines\nand no more than that\n" * 3)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (tmp_path / "broken.toml").write_text("[model\n")
    (tmp_path / "table.toml").write_text("training = 3\n")
    (tmp_path / "section.toml").write_text("[modle]\n")
    (tmp_path / "taken" / "checkpoints").mkdir(parents=True)
    words += [] if "--config" in words or "--resume" in words else ["--config", TINY]
    words += [] if "--data" in words or "--resume" in words else ["--data", text]
    before = {path for path in tmp_path.rglob("*") if "short.txt" not in path.name}
    found, out, err = hunyuan("train", *words)
    said = [line for line in err if not line.startswith("data: ")]
    assert (found, out, len(said)) == (status, "", 1), err
    assert said[0].startswith("error: ")
    assert says in said[0]
    assert "this is a bug" not in said[0]
    assert {path for path in tmp_path.rglob("*") if "short.txt" not in path.name} == before  # nothing was begun


@pytest.mark.parametrize("out", ["absent", "empty"])
def test_there_must_be_a_run_to_resume(hunyuan, tmp_path, out):
    (tmp_path / "empty").mkdir()
    status, _, err = hunyuan("train", "--out", out, "--resume")
    assert status == 1
    assert err == [f"error: {out} holds no run to resume: it has no run.toml; check --out, or leave --resume out"]


# --- signals ---------------------------------------------------------------------------------------------------------


def test_the_first_signal_asks_and_a_second_ctrl_c_stops_at_once():
    notes, before = [], signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("not handled"))
    ctrl_c = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell ignores it for what runs in the background
    try:
        with stop_on_signal(notes.append, FINISH_STEP) as asked:
            assert not asked()
            signal.raise_signal(signal.SIGTERM)
            assert asked()
            stopped = 0
            for number in (signal.SIGTERM, signal.SIGINT):  # only Ctrl-C is impatient
                try:
                    signal.raise_signal(number)
                except KeyboardInterrupt:
                    stopped = number
                assert stopped == (number if number == signal.SIGINT else 0)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ctrl_c)
    assert notes[0].startswith("stopping after this step")
