"""Special tokens stand where the template puts them and nowhere else, and no template can go on for ever."""

import time

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from model.errors import DataError
from model.tokenizer import template_sandbox
from model.tokenizer.bpe import Tokenizer, train_tokenizer
from model.tokenizer.chat_template import ChatTemplate, plain_template
from model.tokenizer.tiktoken_vocab import TiktokenVocab

TURNS = "{% for m in messages %}<|bos|>{{ m.role }}:{{ m.content }}<|eos|>{% endfor %}"
HELLO = [{"role": "user", "content": "hello"}]
TOKENIZERS = {
    "tiktoken": TiktokenVocab([*(bytes([byte]) for byte in range(256)), b"he", b"hello", b"<|", b"|>", b"eos"]),
    "bpe": train_tokenizer(["hello <| |> eos endoftext " * 9], 300),
}
NAMES = {"tiktoken": ("<|bos|>", "<|eos|>"), "bpe": ("<|endoftext|>", "<|endoftext|>")}

# Names of special tokens, whole and in pieces, and what could hide or break them.
PIECES = (
    "<|eos|> <|endoftext|> <|bos|> <|extra_0|> <|e <|endof <| < |> > os|> text|> eos | hello x \u0338 \U000f0000 "
    "\U000f0001 \U00100000 é 語"
).split()
contents = st.lists(st.sampled_from([*PIECES, " ", "\n"]), max_size=6).map("".join)


def _user(*texts):
    return [{"role": "user", "content": text} for text in texts]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(first=contents, second=contents)
def test_special_tokens_stand_only_where_the_template_put_them(kind, first, second):
    tokenizer, (start, end) = TOKENIZERS[kind], NAMES[kind]
    source = "{% for m in messages %}" + start + "{{ m.role }}:{{ m.content }}" + end + "{% endfor %}"
    expected = []
    for text in (first, second):
        expected += [tokenizer.special_tokens[start], *tokenizer.encode(f"user:{text}"), tokenizer.special_tokens[end]]
    assert ChatTemplate(source).encode(_user(first, second), tokenizer) == expected


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("trim", ["", " | trim"])
@given(texts=st.lists(contents, min_size=1, max_size=4))
def test_contents_side_by_side_make_no_special_token(kind, trim, texts):
    tokenizer, (_, end) = TOKENIZERS[kind], NAMES[kind]
    source = "{% for m in messages %}{{ m.content" + trim + " }}{% endfor %}" + end
    text = "".join(text.strip() if trim else text for text in texts)
    expected = [*tokenizer.encode(text), tokenizer.special_tokens[end]]
    assert ChatTemplate(source).encode(_user(*texts), tokenizer) == expected


@pytest.mark.parametrize(
    ("before", "content", "after"),
    [("<|e", "os|>", ""), ("<|eo", "s|> and", ""), ("", "<|e", "os|>"), ("", "see <", "|eos|>"), ("<", "|eos|>", "")],
)
@pytest.mark.parametrize("space", ["", " \n"])
def test_text_beside_a_content_makes_no_special_token_with_it(before, content, after, space):
    tokenizer = TOKENIZERS["tiktoken"]
    template = ChatTemplate(before + "{{ messages[0].content | trim }}" + after + "<|pad|>")
    ids = template.encode(_user(space + content + space), tokenizer)
    assert ids == [*tokenizer.encode(before + content + after), tokenizer.special_tokens["<|pad|>"]]


def _awkward():
    """Names within names, names that overlap themselves or hold blanks, and one that is found in lower-cased text."""
    backend = tokenizers.Tokenizer.from_str(train_tokenizer(["aa <e> > "], 270).to_json())
    backend.normalizer = tokenizers.normalizers.Lowercase()
    names = (tokenizers.AddedToken(name, normalized=False) for name in ("aa", "<e>>", "<e>", "x", "\ty", "y\t"))
    backend.add_special_tokens([*names, tokenizers.AddedToken("<low>", normalized=True)])
    return Tokenizer(backend)


AWKWARD = _awkward()


@given(
    text=st.lists(st.sampled_from(["a", "<e", ">", "<e>", "x", "<LOW>", "<low>", " ", "\t"]), min_size=1).map("".join)
)
def test_awkward_names_are_kept_apart_as_well(text):
    template = ChatTemplate("{{ messages[0].content }}aa{{ messages[0].content }}<e>>y{{ messages[0].content }}y<e>")
    aa, longer, shorter = (AWKWARD.special_tokens[name] for name in ("aa", "<e>>", "<e>"))
    ids = AWKWARD.encode(text)
    assert template.encode(_user(text), AWKWARD) == [*ids, aa, *ids, longer, *AWKWARD.encode(f"y{text}y"), shorter]


def test_a_combining_mark_leaves_the_token_before_it_whole():
    tokenizer = TOKENIZERS["tiktoken"]
    ids = ChatTemplate("<|bos|>{{ messages[0].content }}").encode(_user("\u0338"), tokenizer)
    assert ids == [tokenizer.special_tokens["<|bos|>"], *"\u0338".encode()]


def test_text_between_two_special_tokens_is_encoded_in_one_go():
    tokenizer = TOKENIZERS["tiktoken"]
    ids = ChatTemplate("<|bos|>he{{ messages[0].content }}<|eos|>").encode(_user("llo"), tokenizer)
    assert ids == [tokenizer.special_tokens["<|bos|>"], 257, tokenizer.special_tokens["<|eos|>"]]
    ids = ChatTemplate("<|bos|>he{{ messages[0].content }}<|eos|>").encode(_user("llo<|eos|>"), tokenizer)
    assert ids[1:-1] == tokenizer.encode("hello<|eos|>")


def test_variables_name_the_special_tokens():
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", {"bos_token": "<|bos|>"})
    assert template.render(HELLO) == "<|bos|>hello"  # a token that the model does not name is nothing
    assert template.encode(HELLO, TOKENIZERS["tiktoken"]) == [TOKENIZERS["tiktoken"].special_tokens["<|bos|>"], 257]


def test_half_characters_become_question_marks():
    assert ChatTemplate(TURNS).render(_user("a\ud800")) == "<|bos|>user:a?<|eos|>"
    assert ChatTemplate(TURNS).encode(_user("\ud800"), TOKENIZERS["tiktoken"])[-2] == ord("?")


def test_the_plain_template_is_a_transcript():
    template = plain_template()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " 1 + 1? \n"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2 + 2?"},
    ]
    transcript = "System: Be brief.\nUser: 1 + 1?\nAssistant: 2\nUser: 2 + 2?\n"
    assert template.render(messages) == transcript + "Assistant:"
    assert template.render(messages, add_generation_prompt=False) == transcript
    assert template.stop_strings == ("\nUser:",)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation has no message"),
        ("hello", "a conversation is a list of messages"),
        ({"role": "user", "content": "x"}, "a conversation is a list of messages"),
        (["hello"], "message 1 is str"),
        ([*HELLO, {"role": "user"}], "message 2 has no 'content'"),
        ([{"content": "x"}], "message 1 has no 'role'"),
        (
            [{"role": "robot", "content": "x"}],
            "role 'robot' is not known: use system, developer, user, assistant, tool",
        ),
        ([{"role": "user", "content": ["x"]}], "message 1: part 1 of its content is no text: give .*type.*text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1: part 1 of its content is no text"),
        ([{"role": "user", "content": [{"type": "image", "image": "x"}]}], "part 1 .* type 'image': only text is read"),
        ([{"role": "user", "content": None}], "message 1 has no 'content'"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "message 1 has no 'content'"),
        ([{"role": "user", "content": 3}], "message 1: 'content' is int, not a string"),
        ([{"role": ["user"], "content": "x"}], "message 1: the role .'user'. is not known"),
        ([{"role": "assistant", "tool_calls": "f()"}], "message 1: tool_calls is not a list of objects"),
        ([{"role": "user", "content": "x", "at": {1, 2}}], "message 1 holds set, which is no JSON"),
        ([{"role": "user", "content": "x", 3: "x"}], "message 1 has a key that is int, not a string"),
    ],
)
def test_messages_that_are_none_are_one_sentence(messages, message):
    for call in (ChatTemplate(TURNS).render, lambda given: ChatTemplate(TURNS).encode(given, TOKENIZERS["bpe"])):
        with pytest.raises(DataError, match=message) as raised:
            call(messages)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for m in messages %}", "T is not a Jinja template .line 1: "),
        ("x\n{{ 1 + }}", "T is not a Jinja template .line 2: "),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "T cannot be compiled"),
        ("{{ raise_exception('roles must\nalternate') }}", "T refuses these messages: roles must$"),
        ("{{ messages[7].content }}", "T failed .*has no element 7"),
        ("{{ messages + 1 }}", "T failed "),
        ("{{ ''.__class__.__mro__ }}", "T failed .*unsafe"),
        ("{{ messages.append(1) }}", "T failed .*unsafe.: change"),
        ("{% set ns = namespace(__init__=1) %}", "T failed .*cannot hold '__init__'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "T failed .*cannot hold '_x'"),
        ("{% include 'secret' %}", "T failed "),
        ("{{ lipsum(n=10) }}", "T failed .*'lipsum' is undefined"),
    ],
)
def test_a_template_that_fails_is_one_sentence(source, message):
    with pytest.raises(DataError, match=message) as raised:
        ChatTemplate(source, name="T").render(HELLO)
    assert "\n" not in str(raised.value)


DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x OP ns.x %}{% endfor %}{{ ns.x }}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for i in range(10**12) %}{% endfor %}", "Range too big|number over"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "rounds and calls"),
        ("{% for i in range(9999) %}{% set x = range(99999) | sum %}{% endfor %}", "more than 0.5 seconds"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "rounds and|seconds",
        ),
        ("{% for i in [1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}", "rounds|sec"),
        ("{% for i in range(90000) %}" + "x" * 1000 + "{% endfor %}", "more than 16,000,000 characters"),
        ("{{ 'x' * 10**12 }}", r"'\*' makes a value"),
        ("{{ 10 ** (10 ** 10) }}", r"'\*\*' makes a value"),
        ("{{ 'x'.ljust(10 ** 12) }}", "a number over"),
        (DOUBLED.replace("OP", "~"), "a text of more than"),
        (DOUBLED.replace("OP", "+"), r"'\+' makes a value"),
    ],
)
def test_a_template_without_end_is_stopped(source, message, monkeypatch):
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 100_000)
    begin = time.monotonic()
    with pytest.raises(DataError, match=message):
        ChatTemplate(source).render(HELLO)
    assert time.monotonic() - begin < 5


def test_a_rendering_that_was_stopped_leaves_the_next_its_whole_budget(monkeypatch):
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 3)
    template = ChatTemplate(TURNS)
    with pytest.raises(DataError, match="more than 3 rounds"):
        template.render(HELLO * 4)
    for _ in range(3):
        assert template.render(HELLO * 3) == "<|bos|>user:hello<|eos|>" * 3
