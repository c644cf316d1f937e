"""The tokenizer and the chat template of a model's folder, as Hugging Face lays it out.

hy.tiktoken               Hunyuan's own vocabulary, taken where it is there   tiktoken_vocab.py
tokenizer.json            otherwise                                           bpe.py
tokenizer_config.json     the name of the end-of-text token, and of others that a template may use
special_tokens_map.json   the same in older folders
chat_template.jinja       the chat template; older folders keep it in tokenizer_config.json
generation_config.json    the ids of the tokens that end a text; or else config.json's
"""

import json
import reprlib
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.tokenizer.bpe import load_tokenizer
from model.tokenizer.chat_template import ChatTemplate
from model.tokenizer.interface import TextTokenizer
from model.tokenizer.tiktoken_vocab import A13B_EXTRAS, EXTRAS, TIKTOKEN_FILE, load_tiktoken_vocab, special_names

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"

# What goes along when a checkpoint is converted.
TOKENIZER_FILES = (
    TOKENIZER_JSON,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TIKTOKEN_FILE,
    CHAT_TEMPLATE,
    "generation_config.json",
)
TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_folder_tokenizer(folder: str | Path) -> TextTokenizer:
    """The tokenizer of the folder; the folder's `eos_token` ends its texts where one is named."""
    folder = Path(folder)
    eos_name = _token_names(folder).get("eos_token")
    if (folder / TIKTOKEN_FILE).exists():
        return load_tiktoken_vocab(
            folder / TIKTOKEN_FILE,
            eos_name=eos_name,
            model_vocab_size=_object(folder / "config.json").get("vocab_size"),
            extras=A13B_EXTRAS if _speaks_of(folder, special_names(A13B_EXTRAS)[-1]) else EXTRAS,
        )
    if (folder / TOKENIZER_JSON).exists():
        eos_id = next(iter(end_ids(folder)), None)
        return load_tokenizer(folder / TOKENIZER_JSON, eos_name=eos_name, eos_id=eos_id)
    raise DataError(
        f"{folder} holds no tokenizer, neither {TIKTOKEN_FILE} nor {TOKENIZER_JSON}: "
        "copy the one that the model was trained with into it"
    )


def load_chat_template(folder: str | Path) -> ChatTemplate | None:
    """The chat template of the folder; None where it has none, as base models do."""
    folder = Path(folder)
    path = folder / CHAT_TEMPLATE
    source = _read(path)
    with_tools = None
    if source is None:
        path = folder / TOKENIZER_CONFIG
        templates = _templates_of(_object(path).get("chat_template"), path)
        source, with_tools = templates.get("default"), templates.get("tool_use")
    if source is None:
        return None
    return ChatTemplate(source, _token_names(folder), name=f"the chat template of {path}", with_tools=with_tools)


def end_ids(folder: Path) -> tuple[int, ...]:
    """The ids that generation_config.json says end a text; where it says none, those of config.json."""
    for name in ("generation_config.json", "config.json"):
        value = _object(folder / name).get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in ids):
            raise DataError(
                f"{folder / name} has eos_token_id = {reprlib.repr(value)}: give a token id or a list of them, "
                "or remove the key"
            )
        if ids:
            return tuple(ids)
    return ()


def check_tokenizer_fits(tokenizer: TextTokenizer, vocab_size: int) -> None:
    """Refuses a tokenizer with ids that a model of `vocab_size` embedding rows has no row for."""
    if tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1:,}, but the model's vocab_size is {vocab_size:,}: "
            "use the tokenizer that the model was trained with"
        )


def _templates_of(value: Any, path: Path) -> dict[str, str]:
    """`chat_template` is one template, or a list of named ones: "default", and "tool_use" for conversations with tools."""
    if value is None or isinstance(value, str):
        return {} if value is None else {"default": value}
    if not isinstance(value, list) or not all(_is_named_template(entry) for entry in value):
        raise DataError(f"{path}: chat_template is neither a string nor a list of named templates: mend or remove it")
    named = {entry["name"]: entry["template"] for entry in value}
    if named and "default" not in named:
        raise DataError(f"{path}: no chat_template is named 'default', only {', '.join(named)}: rename one of them")
    return named


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def _token_names(folder: Path) -> dict[str, str]:
    """The special tokens that the folder names.

    As in transformers, special_tokens_map.json has the last word unless the configuration lists the added tokens, too.
    """
    config = _object(folder / TOKENIZER_CONFIG)
    named = _named_tokens(config, folder / TOKENIZER_CONFIG)
    mapped = _named_tokens(_object(folder / SPECIAL_TOKENS_MAP), folder / SPECIAL_TOKENS_MAP)
    return mapped | named if "added_tokens_decoder" in config else named | mapped


def _named_tokens(values: dict[str, Any], path: Path) -> dict[str, str]:
    """Those of a file, each as a string or as {"content": ...}."""
    names = {}
    for key in TOKEN_KEYS:
        value = values.get(key)
        if isinstance(value, dict):
            value = value.get("content", value)
        if value is None:
            continue
        if not isinstance(value, str):
            raise DataError(f"{path}: {key} is {type(value).__name__}, not a token's name: mend or remove it")
        names[key] = value
    return names


def _speaks_of(folder: Path, token: str) -> bool:
    """Whether a file beside the vocabulary names a token."""
    return any(token in (_read(folder / name) or "") for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, CHAT_TEMPLATE))


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    content = _read(path)
    if content is None:
        return {}
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise DataError(f"{path} is not valid JSON ({reason}): mend or remove it") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is not a JSON object: mend or remove it")
    return config


def _read(path: Path) -> str | None:
    """The file as text; None where it is not there."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make it a file that can be read, or remove it") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: mend or remove it") from error
