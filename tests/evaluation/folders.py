"""A model that can be asked, and the files of two tasks."""

import json
import random

import torch

from model import Hunyuan, HunyuanConfig
from model.evaluation.asking import Model
from model.generation.defaults import GenerationDefaults
from model.generation.engine import Engine
from model.tokenizer.bpe import train_tokenizer
from model.tokenizer.chat_template import plain_template

WORDS = "the router sends each token to one expert and every expert learns its part of the language".split()
SIZES = {
    "vocab_size": 300, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "max_position_embeddings": 256, "initializer_range": 0.3,
}  # fmt: skip


def small_engine(seed=1, **changes):
    net = Hunyuan(HunyuanConfig.from_name("toy", **(SIZES | changes)), torch.Generator().manual_seed(seed)).eval()
    tokenizer = train_tokenizer([" ".join(WORDS)] * 9, 300)
    return Engine(net, tokenizer, plain_template(), False, GenerationDefaults(), trained_here=True)


def small_model(ledger=None, seed=1, context=256, **options):
    return Model(small_engine(seed, max_position_embeddings=context), ledger, **options)


def words(generator, count):
    return " ".join(generator.choice(WORDS) for _ in range(count))


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_arc(folder, count=10, name="arc_easy", seed=0):
    generator = random.Random(seed)
    for split, size in (("test", count), ("train", 4)):
        rows = [
            {
                "question": words(generator, generator.randint(3, 12)) + "?",
                "choices": {
                    "text": [words(generator, generator.randint(1, 4)) for _ in range(4)],
                    "label": list("ABCD"),
                },
                "answerKey": generator.choice("ABCD"),
            }
            for _ in range(size)
        ]
        write_lines(folder / name / f"{split}.jsonl", rows)
    return folder


def write_gsm8k(folder, count=6):
    rows = [
        {"question": f"What is {n} and {n + 1}?", "answer": f"{n} + {n + 1} = {2 * n + 1}\n#### {2 * n + 1}"}
        for n in range(count)
    ]
    for split in ("test", "train"):
        write_lines(folder / "gsm8k" / f"{split}.jsonl", rows)
    return folder
