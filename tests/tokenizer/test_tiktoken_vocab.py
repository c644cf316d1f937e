"""Hunyuan's vocabulary gives the ids of a literal byte-pair encoding, and a damaged file is one sentence."""

import base64
import random
import sys
import unicodedata
from itertools import pairwise

import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError, MissingExtraError
from model.tokenizer.bpe import train_tokenizer
from model.tokenizer.tiktoken_vocab import SPLIT_PATTERN, TiktokenVocab, load_tiktoken_vocab

BYTES = [bytes([byte]) for byte in range(256)]
TEXTS = [
    "def area(radius):\n    return 3.14159 * radius ** 2  # it's the area\n" * 3,
    "Größe und Maß, 語語 語, 混元大模型, 😀😀, the other one, don't, I'LL\n\n" * 5,
]


def _trained(size):
    """256 bytes and then the tokens that `tokenizers` learns, as bytes in the order in which it learns them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
    vocab = train_tokenizer(TEXTS, size)._backend.get_vocab(with_added_tokens=False)
    words = sorted((word for word in vocab if len(word) > 1 and word != "<|endoftext|>"), key=vocab.__getitem__)
    return BYTES + [bytes(byte_of[character] for character in word) for word in words]


TOKENS = _trained(500)


@pytest.fixture(scope="module")
def vocab():
    return TiktokenVocab(TOKENS)


def _write(path, tokens, ranks=None):
    ranks = range(len(tokens)) if ranks is None else ranks
    lines = (base64.b64encode(token) + f" {rank}\n".encode() for token, rank in zip(tokens, ranks, strict=True))
    path.write_bytes(b"".join(lines))
    return path


def _literal(text):
    """In each word, merge the pair that makes the token of lowest rank, the first of equals, until none is left."""
    ranks = {token: rank for rank, token in enumerate(TOKENS)}
    ids = []
    for word in regex.findall(SPLIT_PATTERN, unicodedata.normalize("NFC", text)):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [(ranks[a + b], place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
            if not pairs:
                break
            place = min(pairs)[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@given(text=st.one_of(st.text(), st.text(alphabet=sorted(set("".join(TEXTS)) | set("\r\t\u0301\u3000")), max_size=80)))
def test_ids_are_those_of_a_literal_byte_pair_encoding(vocab, text):
    assert vocab.encode(text) == _literal(text)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_packed_and_comes_back(vocab, text):
    ids = vocab.encode(text)
    assert ids == _literal(text)
    assert len(ids) < 0.6 * len(text.encode())
    assert vocab.decode(ids) == text
    assert vocab.byte_lengths()[ids].sum() == len(text.encode())
    assert vocab.byte_lengths().shape == (vocab.vocab_size,)


def test_text_is_composed_first_and_digits_stay_single():
    vocab = TiktokenVocab([*BYTES, b"12", "é".encode()])
    assert vocab.encode("e\u0301") == vocab.encode("é") == [257]
    assert vocab.encode("12") == [ord("1"), ord("2")]


def test_the_real_file_has_the_ids_of_the_release(tmp_path):
    filler = [b"\xff" + number.to_bytes(3) for number in range(127_957 - 256)]
    vocab = load_tiktoken_vocab(_write(tmp_path / "hy.tiktoken", BYTES + filler))
    names = ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", "<|extra_0|>", "<|extra_203|>")
    assert [vocab.special_tokens[name] for name in names] == [127957, 127958, 127959, 127960, 127961, 127962, 128165]
    assert len(vocab.special_tokens) == 209
    assert (vocab.vocab_size, vocab.eos_id) == (128_166, 127_960)


def test_ranks_are_places_in_the_file_and_repetitions_take_none(tmp_path):
    tokens = [*BYTES, b"ab", b"abc"]
    plain = load_tiktoken_vocab(_write(tmp_path / "plain", tokens))
    renumbered = load_tiktoken_vocab(_write(tmp_path / "renumbered", tokens, ranks=range(len(tokens), 0, -1)))
    repeated = load_tiktoken_vocab(_write(tmp_path / "repeated", [*BYTES, b"ab", b"a", b"abc"]))
    for vocab in (plain, renumbered, repeated):
        assert vocab.encode("abc ab") == [257, ord(" "), 256]
        assert vocab.special_tokens["<|endoftext|>"] == 258
        assert vocab.fingerprint == plain.fingerprint
    assert TiktokenVocab([*BYTES, b"abc", b"ab"]).fingerprint != plain.fingerprint


def test_special_names_are_text_unless_asked_for(vocab):
    text = "one<|eos|> two<|extra_12|><|extra_1|>"
    ids = vocab.encode(text)
    assert max(ids) < len(TOKENS)
    assert vocab.decode(ids) == text
    special = vocab.special_tokens
    expected = [*vocab.encode("one"), special["<|eos|>"], *vocab.encode(" two"), special["<|extra_12|>"]]
    assert vocab.encode_with_special(text) == [*expected, special["<|extra_1|>"]]


@given(parts=st.lists(st.sampled_from(["<|eos|>", "<|extra_1|>", "<|extra_10|>", "<|", "|>", " ", "\n", "the", "é"])))
def test_special_names_are_found_where_tiktoken_finds_them(vocab, parts):
    text = "".join(parts)
    expected = vocab._backend.encode(text, allowed_special="all", disallowed_special=())
    assert vocab.encode_with_special(text) == expected


def test_special_and_unknown_ids_give_no_text(vocab):
    a, b = vocab.encode("a"), vocab.encode("b")
    ids = [*a, vocab.eos_id, vocab.vocab_size, 10**9, -1, *b]
    assert vocab.decode(ids) == "ab"
    stream = vocab.stream()
    assert "".join(map(stream.step, ids)) + stream.finish() == "ab"
    assert not vocab.byte_lengths()[list(vocab.special_tokens.values())].any()


def test_stream_gives_only_whole_characters(vocab):
    stream = TiktokenVocab(BYTES).stream()
    assert [stream.step(byte) for byte in "é😀b".encode()] == ["", "é", "", "", "", "😀", "b"]
    assert stream.finish() == ""
    assert stream.step(0xE8) == ""
    assert stream.finish() == "\ufffd"


def test_stream_of_arbitrary_tokens_equals_decode(vocab):
    generator = random.Random(0)
    for _ in range(200):
        ids = [generator.randrange(vocab.vocab_size) for _ in range(40)]
        stream = vocab.stream()
        assert "".join(map(stream.step, ids)) + stream.finish() == vocab.decode(ids)


def test_half_characters_and_endless_blanks_do_not_stop_it(vocab):
    assert vocab.encode("a\ud800b") == vocab.encode("a?b")
    assert vocab.encode_with_special("\ud800<|eos|>") == [*vocab.encode("?"), vocab.eos_id]
    blanks = "x" + " " * 1_100_000 + "x"  # tiktoken itself panics at a million
    assert vocab.decode(vocab.encode(blanks)) == blanks
    assert vocab.encode_batch([blanks, "a\ud800b", "", TEXTS[1]]) == [
        vocab.encode(text) for text in (blanks, "a?b", "", TEXTS[1])
    ]


def test_another_special_token_can_end_a_text():
    vocab = TiktokenVocab(BYTES, eos_name="<|endoftext|>")
    assert vocab.eos_id == 256
    assert vocab.fingerprint != TiktokenVocab(BYTES).fingerprint
    with pytest.raises(DataError, match=r"no special token '</s>'.*<\|eos\|>"):
        TiktokenVocab(BYTES, eos_name="</s>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.tiktoken is empty"),
        (b"IQ== 0\n!!!! 1\n", "line 2: the token is not base64"),
        (b"IQ== 0\nIg= 1\n", "line 2: the token is not base64"),
        (b"IQ== 0\n\xe8\xaa\x9e 1\n", "line 2: the token is not base64"),
        (b"IQ== 0\nIg==\n", "line 2: 1 columns"),
        ("IQ== 0\n".encode("utf-16"), "line 1: "),
        (b"".join(base64.b64encode(byte) + b" 0\n" for byte in BYTES if byte != b"A"), "no token for the byte 0x41"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "t.tiktoken"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_tiktoken_vocab(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_missing_library_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"nowhere: No such file"):
        load_tiktoken_vocab(tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, tiktoken.__name__, None)
    with pytest.raises(MissingExtraError, match=r"reading hy\.tiktoken needs.*hunyuan\[tiktoken\]"):
        load_tiktoken_vocab(_write(tmp_path / "hy.tiktoken", BYTES))
