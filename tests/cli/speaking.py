"""Folders that `infer` and `chat` can open, of random weights: a run, and one as it is downloaded, with a chat template.

Their models say readable things: tokens that are no printable ASCII have logits of 0, and the likeliest is above that.
"""

import json
from pathlib import Path

import torch

from model import Hunyuan, HunyuanConfig
from model.checkpoint.run import save_weights
from model.tokenizer.bpe import Tokenizer, load_tokenizer, train_tokenizer
from tests.oracles.released import CASES, random_tensors, write_folder

WORDS = "the router sends each token to one expert and every expert learns its part"
CONTEXT = 64
SIZES = {
    "vocab_size": 300, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "moe_topk": 2, "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
}  # fmt: skip
SPECIAL = ("<|startoftext|>", "<|extra_0|>", "<|extra_4|>", "<|eos|>")  # as Hunyuan-Large's template uses them
TEMPLATE = """\
{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{{ '<|startoftext|>' + messages[0].content + '<|extra_4|>' }}
{%- else %}{% set rest = messages %}{{ '<|startoftext|>' }}{% endif %}
{% for message in rest %}
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('speak in turns') }}{% endif %}
{{- message.content + ('<|extra_0|>' if message.role == 'user' else '<|eos|>') }}
{%- endfor %}"""
FILES = {
    "chat_template.jinja": TEMPLATE,
    "tokenizer_config.json": json.dumps({"eos_token": "<|eos|>", "bos_token": "<|startoftext|>"}),
}


def write_run(folder: Path, **changes: object) -> Path:
    """A run with its newest checkpoint at step 0."""
    folder.mkdir(parents=True)
    config = HunyuanConfig.from_name("toy", **(SIZES | changes))
    net, tokenizer = Hunyuan(config, torch.Generator().manual_seed(1)).eval(), train_tokenizer([WORDS] * 9, 300)
    with torch.no_grad():
        net.embed_tokens.weight[unreadable(tokenizer, config.vocab_size)] = 0
    save_weights(folder, net)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "run.toml").touch()
    tokenizer.save(folder / "tokenizer.json")
    return folder


def write_released(folder: Path, files: dict[str, str] | None = None, context: int = CONTEXT) -> Path:
    """A folder of Hunyuan-Large's layout in two shards; `files` are written beside it, or instead of what is there."""
    content = json.loads(train_tokenizer([WORDS] * 9, 300).to_json())
    for name in SPECIAL:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        content["added_tokens"].append({"id": len(content["model"]["vocab"]), "content": name, **flags})
        content["model"]["vocab"][name] = len(content["model"]["vocab"])
    tokenizer = json.dumps(content)
    sizes = {"vocab_size": len(content["model"]["vocab"]), "max_position_embeddings": context}
    config = CASES["large-top2"] | sizes
    tensors = random_tensors(config, seed=2)
    write_folder(folder, config, tensors, 2, FILES | {"tokenizer.json": tokenizer} | (files or {}))
    readable = load_tokenizer(folder / "tokenizer.json")
    tensors["lm_head.weight"][unreadable(readable, config["vocab_size"])] = 0
    return write_folder(folder, config, tensors, 2)


def unreadable(tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    texts = [tokenizer.decode([token]) for token in range(vocab_size)]
    return [token for token, text in enumerate(texts) if not (text.isascii() and text.isprintable() and text)]
