"""The tokenizer and the chat template of a model's folder, as Hugging Face lays it out.

hy.tiktoken             Hunyuan's own vocabulary, taken where it is there   tiktoken_vocab.py
tokenizer.json          otherwise                                           bpe.py
tokenizer_config.json   the name of the end-of-text token, and of others that a template may use
chat_template.jinja     the chat template; older folders keep it in tokenizer_config.json
"""

import json
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.tokenizer.bpe import load_tokenizer
from model.tokenizer.chat_template import ChatTemplate
from model.tokenizer.interface import TextTokenizer
from model.tokenizer.tiktoken_vocab import TIKTOKEN_FILE, load_tiktoken_vocab

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"

# What goes along when a checkpoint is converted.
TOKENIZER_FILES = (
    TOKENIZER_JSON,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TIKTOKEN_FILE,
    CHAT_TEMPLATE,
    "generation_config.json",
)
TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_folder_tokenizer(folder: str | Path) -> TextTokenizer:
    """The tokenizer of the folder, ending texts with the `eos_token` of its tokenizer_config.json where that names one."""
    folder = Path(folder)
    eos_name = _token_names(folder).get("eos_token")
    if (folder / TIKTOKEN_FILE).exists():
        return load_tiktoken_vocab(folder / TIKTOKEN_FILE, eos_name=eos_name)
    if (folder / TOKENIZER_JSON).exists():
        return load_tokenizer(folder / TOKENIZER_JSON, eos_name=eos_name)
    raise DataError(
        f"{folder} holds no tokenizer, neither {TIKTOKEN_FILE} nor {TOKENIZER_JSON}: "
        "copy the one that the model was trained with into it"
    )


def load_chat_template(folder: str | Path) -> ChatTemplate | None:
    """The chat template of the folder; None where it has none, as base models do."""
    folder = Path(folder)
    path = folder / CHAT_TEMPLATE
    source = _read(path)
    if source is None:
        path = folder / TOKENIZER_CONFIG
        source = _template_of(_config(folder).get("chat_template"), path)
    if source is None:
        return None
    return ChatTemplate(source, _token_names(folder), name=f"the chat template of {path}")


def check_tokenizer_fits(tokenizer: TextTokenizer, vocab_size: int) -> None:
    """Refuses a tokenizer with ids that a model of `vocab_size` embedding rows has no row for."""
    if tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1:,}, but the model's vocab_size is {vocab_size:,}: "
            "use the tokenizer that the model was trained with"
        )


def _template_of(value: Any, path: Path) -> str | None:
    """`chat_template` is a template, or a list of named ones of which "default" is for plain conversations."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(_is_named_template(entry) for entry in value):
        raise DataError(f"{path}: chat_template is neither a string nor a list of named templates: mend or remove it")
    named = {entry["name"]: entry["template"] for entry in value}
    if named and "default" not in named:
        raise DataError(f"{path}: no chat_template is named 'default', only {', '.join(named)}: rename one of them")
    return named.get("default")


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def _token_names(folder: Path) -> dict[str, str]:
    """The special tokens that the configuration names, each as a string or as {"content": ...}."""
    names = {}
    config = _config(folder)
    for key in TOKEN_KEYS:
        value = config.get(key)
        if isinstance(value, dict):
            value = value.get("content", value)
        if value is None:
            continue
        if not isinstance(value, str):
            raise DataError(
                f"{folder / TOKENIZER_CONFIG}: {key} is {type(value).__name__}, not a token's name: mend or remove it"
            )
        names[key] = value
    return names


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, empty where there is none."""
    path = folder / TOKENIZER_CONFIG
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
