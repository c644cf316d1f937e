"""A model's folder gives its tokenizer and template, the same text and ids as transformers, or one sentence."""

import base64
import json
import os

import pytest

from model.errors import DataError
from model.tokenizer.bpe import Tokenizer, load_tokenizer, train_tokenizer
from model.tokenizer.folder import (
    TOKENIZER_FILES,
    check_tokenizer_fits,
    load_chat_template,
    load_folder_tokenizer,
)
from model.tokenizer.tiktoken_vocab import TiktokenVocab

HELLO = [{"role": "user", "content": "hello"}]
ADDED = ("<|im_start|>", "<|im_end|>", "<|startoftext|>", "<|extra_0|>", "<|extra_4|>", "<|eos|>")
THINK = "<think>"  # added, but not special: text may hold it


@pytest.fixture
def folder(tmp_path):
    """A tokenizer.json with the special tokens of the templates below."""
    content = json.loads(train_tokenizer(["hello <think> world, roles and contents\n" * 9], 330).to_json())
    for name in (*ADDED, THINK):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": name != THINK}
        content["added_tokens"].append({"id": len(content["model"]["vocab"]), "content": name, **flags})
        content["model"]["vocab"][name] = len(content["model"]["vocab"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return tmp_path


def _configure(folder, **settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _hunyuan(folder):
    tokens = [*(bytes([byte]) for byte in range(256)), b"hello"]
    lines = (base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens))
    (folder / "hy.tiktoken").write_bytes(b"".join(lines))


CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

HUNYUAN = """\
{% set ns = namespace(system=none, last=-1) %}
{% for message in messages %}
    {% if message.role == 'system' and ns.system is none %}{% set ns.system = message.content | trim %}{% endif %}
    {% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{% endfor %}
{% for message in messages %}
    {% if message['role'] == 'system' %}
        {% continue %}
    {% endif %}
    {% if loop.length > 30 %}
        {% break %}
    {% endif %}
    {% set content = message.content %}
    {% if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {% set content = content.split('</think>')[-1].lstrip('\\n') %}
    {% endif %}
    {% if message.role == 'user' %}
{{ bos_token }}{{ ns.system ~ '<|extra_4|>' if ns.system and loop.index0 < 2 else '' }}{{ content }}<|extra_0|>
        {%- elif message.role == 'assistant' %}
{% generation %}{{ content + eos_token }}{% endgeneration %}
    {% else %}
{{ message | tojson }}{{ loop.revindex }}{{ loop.previtem.role if loop.previtem is defined else '' }}
    {% endif %}
    {% if loop.last and not add_generation_prompt %}{{ pad_token }}.{% endif %}
{% endfor %}"""

LISTED = """\
{% macro turn(m, rest) %}
[{{ m.role | upper }}] {{ m.content | trim | replace('\\n', ' ') }}{{ rest | join(',') }}
{% endmacro %}
{% if messages[0]['role'] != 'system' %}{{ dict(a=1)['a'] }}{{ tools }}{% endif %}
{% for m in messages | rejectattr('role', 'equalto', 'system') %}
{{ turn(m, range(loop.index)) }}
{% else %}
nobody{{ raise_exception('no turns') if messages | length > 1 }}
{% endfor %}"""

CONVERSATIONS = [
    HELLO,
    [{"role": "system", "content": " Be <b>brief</b>. "}, *HELLO],
    [
        *HELLO,
        {"role": "assistant", "content": "<think>hm</think>\n\nworld"},
        {"role": "tool", "content": '{"é": "語", "q": "\\""}'},
        {"role": "user", "content": "> again\n\n<|"},
        {"role": "assistant", "content": "<think>2</think>world"},
    ],
    [{"role": "system", "content": "alone"}],
]


@pytest.mark.parametrize("source", [CHATML, HUNYUAN, LISTED], ids=["chatml", "hunyuan", "listed"])
def test_text_and_ids_are_those_of_transformers(folder, monkeypatch, source):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    names = {"eos_token": "<|eos|>", "bos_token": {"__type": "AddedToken", "content": "<|startoftext|>"}}
    _configure(folder, tokenizer_class="PreTrainedTokenizerFast", chat_template=source, **names)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    template, tokenizer = load_chat_template(folder), load_folder_tokenizer(folder)
    assert tokenizer.eos_id == theirs.eos_token_id
    for messages in CONVERSATIONS:
        for prompt in (True, False):
            text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            assert template.render(messages, add_generation_prompt=prompt) == text
            assert template.encode(messages, tokenizer, add_generation_prompt=prompt) == ids
            assert tokenizer.encode_with_special(text) == ids


def test_hunyuans_own_vocabulary_comes_first(folder):
    assert isinstance(load_folder_tokenizer(folder), Tokenizer)
    _hunyuan(folder)
    tokenizer = load_folder_tokenizer(folder)
    assert isinstance(tokenizer, TiktokenVocab)
    assert tokenizer.eos_id == tokenizer.special_tokens["<|eos|>"]
    _configure(folder, eos_token="<|endoftext|>")
    assert load_folder_tokenizer(folder).eos_id == tokenizer.special_tokens["<|endoftext|>"]


@pytest.mark.parametrize("eos", ["<|im_end|>", {"__type": "AddedToken", "content": "<|im_end|>"}])
def test_the_configuration_names_the_end_of_a_text(folder, eos):
    usual = load_folder_tokenizer(folder)
    assert usual.eos_id == usual.special_tokens["<|endoftext|>"]
    _configure(folder, eos_token=eos)
    named = load_folder_tokenizer(folder)
    assert named.eos_id == named.special_tokens["<|im_end|>"]
    assert named.fingerprint != usual.fingerprint
    _configure(folder, eos_token="<|endoftext|>")
    assert load_folder_tokenizer(folder).fingerprint == usual.fingerprint
    assert load_tokenizer(folder / "tokenizer.json").fingerprint == usual.fingerprint


def test_bpe_finds_special_names_only_where_asked(folder):
    tokenizer = load_folder_tokenizer(folder)
    text = "hello<|im_end|>"
    assert tokenizer.encode_with_special(text) == [*tokenizer.encode("hello"), tokenizer.special_tokens["<|im_end|>"]]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert set(tokenizer.special_tokens) == {*ADDED, "<|endoftext|>"}
    assert tokenizer.encode("a\ud800") == tokenizer.encode_with_special("a\ud800") == tokenizer.encode("a?")
    assert tokenizer.encode_batch(["\ud800", text]) == [tokenizer.encode("?"), tokenizer.encode(text)]


def test_templates_come_from_the_file_then_from_the_configuration(folder):
    assert load_chat_template(folder) is None
    _configure(folder, chat_template="configured {{ eos_token }}", eos_token="<|eos|>", add_bos_token=True)
    assert load_chat_template(folder).render(HELLO) == "configured <|eos|>"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "listed"}]
    _configure(folder, chat_template=named)
    assert load_chat_template(folder).render(HELLO) == "listed"
    (folder / "chat_template.jinja").write_text("filed é", encoding="utf-8")
    assert load_chat_template(folder).render(HELLO) == "filed é"
    _configure(folder, chat_template=None)
    (folder / "chat_template.jinja").unlink()
    assert load_chat_template(folder) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"{", "tokenizer_config.json is not valid JSON"),
        (b"[" * 100_000, "tokenizer_config.json is not valid JSON"),
        (b"[]", "tokenizer_config.json is not a JSON object"),
        (b"\xff", "tokenizer_config.json is not UTF-8 text"),
        (b'{"eos_token": 7}', "eos_token is int, not a token's name"),
        (b'{"bos_token": {"content": 7}}', "bos_token is int, not a token's name"),
        (b'{"chat_template": 7}', "chat_template is neither a string nor a list"),
        (b'{"chat_template": ["x"]}', "chat_template is neither a string nor a list"),
        (b'{"chat_template": [{"name": "rag", "template": "x"}]}', "no chat_template is named 'default', only rag"),
        (b'{"chat_template": "{% if %}"}', "chat template of .*tokenizer_config.json is not a Jinja template"),
        (b'{"eos_token": "[EOS]"}', r"cannot be used: it has no token '\[EOS\]' to end a text"),
    ],
)
def test_a_damaged_configuration_is_one_sentence(folder, config, message):
    (folder / "tokenizer_config.json").write_bytes(config)
    with pytest.raises(DataError, match=message) as raised:
        load_chat_template(folder)
        load_folder_tokenizer(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_without_tokenizer_and_a_broken_template_file_name_the_files(tmp_path):
    with pytest.raises(DataError, match=r"neither hy\.tiktoken nor tokenizer\.json"):
        load_folder_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").mkdir()
    with pytest.raises(DataError, match=r"chat_template\.jinja: Is a directory"):
        load_chat_template(tmp_path)


def test_a_tokenizer_for_another_model_is_refused(folder):
    tokenizer = load_folder_tokenizer(folder)
    check_tokenizer_fits(tokenizer, tokenizer.vocab_size)
    with pytest.raises(DataError, match=rf"ids up to {tokenizer.vocab_size - 1}, but the model's vocab_size is 99"):
        check_tokenizer_fits(tokenizer, 99)
    with pytest.raises(DataError, match="use the tokenizer that the model was trained with"):
        check_tokenizer_fits(tokenizer, tokenizer.vocab_size - 1)


def test_the_files_of_a_tokenizer_are_all_named():
    assert {"tokenizer.json", "tokenizer_config.json", "hy.tiktoken", "chat_template.jinja"} < set(TOKENIZER_FILES)
    assert len(TOKENIZER_FILES) == len(set(TOKENIZER_FILES)) == 9
