"""Filters that only read the text of a response: its length, repetition, script, and whether it refuses.

Each is a function of a record: (score, reason); the reason is "" where the record stays.
"""

import re
from collections.abc import Mapping
from typing import Any

from model.data.synthesis.shingles import words

Record = Mapping[str, Any]
Judgement = tuple[float, str]

SHORT = 50  # words of a response up to which nothing is called repetition
RUN = 5
# Unicode blocks by script, and the scripts of languages by their codes.
SCRIPTS = {
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff", "han": "\u3400-\u9fff\uf900-\ufaff", "kana": "\u3040-\u30ff",
    "hangul": "\uac00-\ud7af\u1100-\u11ff", "cyrillic": "\u0400-\u052f", "greek": "\u0370-\u03ff",
    "arabic": "\u0600-\u06ff\u0750-\u077f", "hebrew": "\u0590-\u05ff", "devanagari": "\u0900-\u097f", "thai": "\u0e00-\u0e7f",
}  # fmt: skip
LANGUAGES = {
    "zh": ("han",), "ja": ("han", "kana"), "ko": ("hangul", "han"), "ru": ("cyrillic",), "uk": ("cyrillic",),
    "bg": ("cyrillic",), "el": ("greek",), "ar": ("arabic",), "fa": ("arabic",), "he": ("hebrew",), "hi": ("devanagari",),
    "th": ("thai",),
    **dict.fromkeys("en de fr es it pt nl sv da no fi pl cs ro hu tr vi id".split(), ("latin",)),
}  # fmt: skip
_SCRIPT = {name: re.compile(f"[{block}]") for name, block in SCRIPTS.items()}
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b|\bi(?:'|’)?m (?:just )?an ai\b"
    r"|\bi(?:'m| am)? (?:cannot|can(?:'|’)t|can not|unable to|not able to|won(?:'|’)t) (?:\w+ )?"
    r"(?:help|assist|provide|fulfil|fulfill|comply|answer|complete|do) (?:\w+ )?(?:with )?"
    r"(?:that|this|you|your|the request|such)"
    r"|^\s*(?:i(?:'|’)?m |i am )?(?:so |very )?sorry, (?:but )?i\b|^\s*i (?:must|have to) decline\b"
    r"|作为(?:一个|一名)?(?:人工智能|ai|语言模型|大语言模型)|^\s*(?:很)?抱歉[，,]?.{0,6}(?:无法|不能)|^\s*我(?:无法|不能)(?:回答|提供|协助)",
    re.IGNORECASE,
)
REFUSED_IN = 300  # characters of a response, within which a refusal shows


def length(record: Record, least: int, most: int) -> Judgement:
    """Characters of a response; an empty instruction asks for nothing."""
    count = len(record["response"].strip())
    if not record["instruction"].strip():
        return 0.0, "the instruction is empty"
    if count < least:
        return float(count), f"the response has {count} characters, fewer than {least}"
    return float(count), f"the response has {count} characters, more than {most}" if count > most else ""


def repetition(record: Record, most: float) -> Judgement:
    """Share of the runs of five words that stood in the response before."""
    found = words(record["response"])
    if len(found) <= SHORT:
        return 0.0, ""
    count = len(found) - RUN + 1
    score = 1 - len(set(zip(*(found[start:] for start in range(RUN)), strict=False))) / count
    return score, f"{score:.0%} of the response repeats itself" if score > most else ""


def language(record: Record, languages: tuple[str, ...], least: float) -> Judgement:
    """Share of the letters, code apart, in a script of the languages; any text with characters that were lost is damaged."""
    response = record["response"]
    if (lost := response.count("\ufffd")) > len(response) / 200:
        return 0.0, f"{lost} characters of the response were lost in decoding"
    if not languages:
        return 1.0, ""
    text = _CODE.sub(" ", response)
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPT.items()}
    total = sum(counts.values())
    wanted = {script for code in languages for script in LANGUAGES[code]}
    score = sum(counts[script] for script in wanted) / total if total else 1.0
    main = max(counts, key=lambda name: counts[name])
    return score, f"{1 - score:.0%} of the letters are of other scripts, most of them {main}" if score < least else ""


def refusal(record: Record) -> Judgement:
    """Whether the beginning of a response declines to answer."""
    found = _REFUSAL.search(record["response"][:REFUSED_IN])
    return (1.0, f"the response refuses: '{' '.join(found[0].split())}'") if found else (0.0, "")
