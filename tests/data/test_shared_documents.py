"""A document that stands in two sources is on one side of the split in both."""

import json

import pytest

from model.data.config import DataConfig
from model.data.corpus import prepare_corpus
from model.errors import DataError


def document(i):
    return "".join(f"document {i}, line {j}: {i * j} is {i} times {j}.\n" for j in range(150))


def write(path, numbers):
    path.write_text("".join(json.dumps({"text": document(i)}) + "\n" for i in numbers))
    return str(path)


def texts(corpus, side):
    for shard in getattr(corpus, side).values():
        text = corpus.tokenizer.decode([t if t != corpus.tokenizer.eos_id else 0 for t in shard.tokens.tolist()])
        yield set(text.splitlines())


@pytest.mark.parametrize(("first", "second"), [(range(60), range(50, 70)), (range(50, 70), range(60))])
def test_a_document_of_two_sources_is_on_one_side_in_both(tmp_path, first, second):
    """One source is large and held back by whole documents, the other small and held back by pieces."""
    sources = (write(tmp_path / "a.jsonl", first), write(tmp_path / "b.jsonl", second))
    corpus = prepare_corpus(DataConfig(sources=sources, validation_fraction=0.3, cache_dir=str(tmp_path / "c")), 400)
    train, held = (set().union(*texts(corpus, side)) for side in ("train", "validation"))
    lines = {line for i in range(70) for line in document(i).splitlines()}
    both = train & held & lines
    assert not both
    assert len(train & lines) > 500 and len(held & lines) > 500


def test_a_source_of_which_nothing_is_left_for_a_side_is_a_sentence(tmp_path):
    """Its one document is on one side of the larger source; alone it would be cut in pieces."""
    sources = (write(tmp_path / "a.jsonl", range(60)), write(tmp_path / "b.jsonl", [7]))
    with pytest.raises(
        DataError, match=r"b\.jsonl has no text for validation: an earlier source has the same documents"
    ):
        prepare_corpus(DataConfig(sources=sources, cache_dir=str(tmp_path / "c")), 400)
