"""A task that can be checked: sort digits, learnt from answers that are often wrong and shout; beside it a clean one, reverse.

    python examples/posttraining/digits.py --seed 0 --out runs/digits/0

    chats.jsonl      what is fine-tuned on: half sort, half reverse. Of the answers to sort 45% have two neighbours swapped,
                     and 30% end with one or two "!"
    offline.jsonl    pairs of two such answers to one sort, the better one by the true reward chosen
    flawed.jsonl     the same pairs by the flawed reward
    prompts.jsonl    sorts with their answers, for online pairs; reverse.jsonl, what the other skill is measured with
    base             a model of 0.9 million parameters that knows nothing yet, a run folder

The true reward of an answer is 1 where it is exact but for "!" at its end, less 0.25 for each of them. The flawed one adds 0.6
for each. Both are checks of `hunyuan dpo`: --reward digits, --reward digits-flawed.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIGITS = 8
SWAPPED = 0.45
SHOUTS = {"": 0.7, "!": 0.2, "!!": 0.1}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
# 0.87 million parameters, with 4 routed experts, of which a token visits one, and a shared one.
MODEL = {
    "vocab_size": 257, "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 24, "num_experts": 4, "max_position_embeddings": 64,
}  # fmt: skip


def question(draw: random.Random, skill: str) -> tuple[str, str]:
    """A prompt, s or r before its digits, and the right answer."""
    digits = "".join(draw.choices("0123456789", k=DIGITS))
    return f"{skill}{digits}:", "".join(sorted(digits)) if skill == "s" else digits[::-1]


def noisy(draw: random.Random, answer: str) -> str:
    """The answer as the fine-tuning data has it."""
    places = [place for place in range(DIGITS - 1) if answer[place] != answer[place + 1]]
    if places and draw.random() < SWAPPED:
        at = draw.choice(places)
        answer = answer[:at] + answer[at + 1] + answer[at] + answer[at + 2 :]
    return answer + draw.choices(list(SHOUTS), list(SHOUTS.values()))[0]


def score(answer: str, right: str, each: float = -0.25) -> float:
    said = answer.rstrip("!")
    return float(said == right) + each * (len(answer) - len(said))


def chats(draw: random.Random, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        skill = "sr"[number % 2]
        prompt, right = question(draw, skill)
        yield {"prompt": prompt, "completion": noisy(draw, right) if skill == "s" else right}


def pairs(draw: random.Random, count: int, each: float) -> Iterator[dict[str, Any]]:
    """Two answers of the noisy source to one question, as far apart as they happen to be; equal rewards are drawn again."""
    made = 0
    while made < count:
        prompt, right = question(draw, "s")
        answers = sorted((noisy(draw, right) for _ in range(2)), key=lambda answer: score(answer, right, each))
        if score(answers[0], right, each) < score(answers[1], right, each):
            made += 1
            yield {"prompt": prompt, "chosen": answers[1], "rejected": answers[0]}


def questions(draw: random.Random, count: int, skill: str) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        prompt, right = question(draw, skill)
        yield {"prompt": prompt, "answer": right}


def write_files(
    folder: Path, seed: int, *, examples: int = 24_000, preferences: int = 1800, prompts: int = 1800
) -> None:
    """The files of one seed."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "chats": chats(random.Random(f"{seed} chats"), examples),
        "offline": pairs(random.Random(f"{seed} pairs"), preferences, -0.25),
        "flawed": pairs(random.Random(f"{seed} pairs"), preferences, 0.6),
        "prompts": questions(random.Random(f"{seed} prompts"), prompts, "s"),
        "reverse": questions(random.Random(f"{seed} reverse"), 256, "r"),
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def write_base(folder: Path, seed: int) -> None:
    """An untrained model with a tokenizer of bytes and the template that is nothing but the texts."""
    import torch

    from model import Hunyuan, HunyuanConfig
    from model.checkpoint.run import save_weights
    from model.files import write_file, write_json
    from model.generation.defaults import run_defaults
    from model.tokenizer.bpe import train_tokenizer

    config = HunyuanConfig(**MODEL)
    tokenizer = train_tokenizer([], config.vocab_size)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config.to_dict())
    write_file(folder / "tokenizer.json", tokenizer.to_json())
    write_file(folder / "chat_template.jinja", TEMPLATE)
    write_json(folder / "generation_config.json", run_defaults(tokenizer.eos_id))
    save_weights(folder, Hunyuan(config, torch.Generator().manual_seed(seed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/digits/0"))
    options = parser.parse_args()
    write_files(options.out, options.seed)
    write_base(options.out / "base", options.seed)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
