"""Folders whose files are damaged or hostile, or not those of a model: one sentence each."""

import json
import struct

import pytest
from safetensors.torch import load_file, save_file

from model import Hunyuan
from model.errors import CheckpointError
from tests.checkpoint.folders import refusal

INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00003.safetensors"


@pytest.fixture
def folder(released_folder):
    return released_folder("large-top2")


# --- which files -----------------------------------------------------------------------------------------------------


def pickled(folder):
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")


def unnamed(folder):
    (folder / INDEX).unlink()


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def no_config(folder):
    (folder / "config.json").unlink()


def no_weights(folder):
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def missing_shard(folder):
    (folder / SECOND).unlink()


def shard_is_a_folder(folder):
    (folder / SECOND).unlink()
    (folder / SECOND).mkdir()


def truncated(folder):
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[: len(content) * 2 // 3])


def empty_shard(folder):
    (folder / SECOND).write_bytes(b"")


def of_zeros(folder):
    (folder / SECOND).write_bytes(bytes((folder / SECOND).stat().st_size))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (pickled, "has its weights in pytorch_model.bin, a pickle, which can run code and is never loaded"),
        (unnamed, f"holds neither model.safetensors nor {INDEX}; model-00001-of-00003.safetensors, {SECOND}, "),
        (empty, "is empty: give the folder of a run, the one that hunyuan train --out named, or that of a Hugging"),
        (no_config, "has no checkpoint: give the folder of a run"),
        (no_weights, f"holds neither model.safetensors nor {INDEX}: give a folder with all of a model's files"),
        (missing_shard, f"lacks {SECOND} of its 3 weight files: copy the missing ones"),
        (shard_is_a_folder, f"lacks {SECOND} of its 3 weight files"),
        (truncated, f"{SECOND} is not an intact safetensors file"),
        (empty_shard, f"{SECOND} is not an intact safetensors file"),
        (of_zeros, f"{SECOND} is not an intact safetensors file"),
    ],
)  # fmt: skip
def test_files_that_are_not_there_or_not_whole(folder, damage, says):
    damage(folder)
    kind, sentence = refusal(folder)
    assert kind is CheckpointError
    assert says in sentence


def test_a_folder_that_is_not_there(tmp_path):
    assert "absent does not exist: give the folder of a run" in refusal(tmp_path / "absent")[1]


def test_a_pickle_beside_safetensors_is_not_looked_at(folder):
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")
    Hunyuan.from_checkpoint(folder)


# --- the index -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not an index, an object with a weight_map of file names: copy it again"),
        ("[" * 100_000, "is not an index"),
        ("[]", "is not an index"),
        ('{"metadata": {}}', "is not an index"),
        ('{"weight_map": ["model-00001-of-00003.safetensors"]}', "is not an index"),
        ('{"weight_map": {}}', "does not give every tensor a file"),
        ('{"weight_map": {"model.norm.weight": 1}}', "does not give every tensor a file"),
        (f'{{"weight_map": {{"a": "{SECOND}", "b": null}}}}', "does not give every tensor a file"),
        ('{"weight_map": {"model.norm.weight": "x.bin"}}', "names 'x.bin', which is not a safetensors file of that folder"),
        ('{"weight_map": {"model.norm.weight": ".."}}', "names '..', which is not a safetensors file of that folder"),
        (b"\xff\xfe\x00", "is not an index"),
    ],
)  # fmt: skip
def test_an_index_that_is_none(folder, content, says):
    (folder / INDEX).write_bytes(content if isinstance(content, bytes) else content.encode())
    kind, sentence = refusal(folder)
    assert kind is CheckpointError
    assert f"{folder / INDEX} " in sentence
    assert says in sentence


@pytest.mark.parametrize(
    "way", ["../secret.safetensors", "/secret.safetensors", "sub/secret.safetensors", "..\\secret.safetensors"]
)
def test_an_index_does_not_lead_out_of_its_folder(folder, tmp_path, way):
    index = json.loads((folder / INDEX).read_text())
    name = next(name for name, file in index["weight_map"].items() if file == SECOND)
    way = str(tmp_path / "secret.safetensors") if way.startswith("/") else way
    (folder / "sub").mkdir()
    for place in (tmp_path, folder / "sub"):
        save_file(load_file(folder / SECOND), place / "secret.safetensors")
    index["weight_map"][name] = way
    (folder / INDEX).write_text(json.dumps(index))
    kind, sentence = refusal(folder)
    assert kind is CheckpointError
    assert f"names {way!r}, which is not a safetensors file of that folder: do not use it" in sentence


def test_an_index_that_promises_what_a_file_has_not(folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = SECOND
    index["weight_map"]["model.extra.weight"] = SECOND
    (folder / INDEX).write_text(json.dumps(index))
    holder = load_file(folder / SECOND)
    assert "model.norm.weight" not in holder
    assert f"does not hold model.extra.weight, model.norm.weight, which {INDEX} says it does" in refusal(folder)[1]


def test_the_files_of_a_cache_may_be_links(folder, tmp_path):
    """As the hub's cache has them: what counts is the name, links are the owner's doing."""
    (folder / SECOND).rename(tmp_path / "blob")
    (folder / SECOND).symlink_to(tmp_path / "blob")
    Hunyuan.from_checkpoint(folder)


# --- the header of a file --------------------------------------------------------------------------------------------


def header_of(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def overlapping(header, names):
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


def gap(header, names):
    begin, end = header[names[-1]]["data_offsets"]
    header[names[-1]]["data_offsets"] = [begin + 4, end + 4]


def backwards(header, names):
    header[names[0]]["data_offsets"] = header[names[0]]["data_offsets"][::-1]


def beyond_the_end(header, names):
    header[names[-1]]["data_offsets"][1] = 2**60


def negative(header, names):
    header[names[0]]["data_offsets"] = [-4, 0]


def too_few_bytes(header, names):
    header[names[0]]["shape"][0] += 1


def absurd_shape(header, names):
    header[names[0]]["shape"] = [2**62, 2**62]


def shape_that_wraps_around(header, names):
    header[names[0]]["shape"] = [2**32, 2**32, *header[names[0]]["shape"]]


def negative_shape(header, names):
    header[names[0]]["shape"] = [-1, -1]


def unknown_type(header, names):
    header[names[0]]["dtype"] = "F1"


@pytest.mark.parametrize(
    "damage",
    [overlapping, gap, backwards, beyond_the_end, negative, too_few_bytes, absurd_shape, shape_that_wraps_around,
     negative_shape, unknown_type],
)  # fmt: skip
def test_a_header_that_does_not_fit_its_file(folder, damage):
    header, data = header_of(folder / SECOND)
    names = sorted((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    damage(header, names)
    with_header(folder / SECOND, header, data)
    kind, sentence = refusal(folder)
    assert kind is CheckpointError
    assert f"{folder / SECOND} is not an intact safetensors file (" in sentence
    assert sentence.endswith("): copy it again")


@pytest.mark.parametrize("length", [0, 3, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_an_absurd_length(folder, length):
    header, data = header_of(folder / SECOND)
    with_header(folder / SECOND, header, data, length)
    assert f"{folder / SECOND} is not an intact safetensors file (" in refusal(folder)[1]


@pytest.mark.parametrize("header", [b"[]", b"{", b"null", b"\xff\xff", b"[" * 100_000])
def test_a_header_that_is_not_an_object(folder, header):
    with_header(folder / SECOND, header, b"")
    assert f"{folder / SECOND} is not an intact safetensors file (" in refusal(folder)[1]
