"""LV-Eval: eleven sets of questions at 16k to 256k words with confusing facts; its authors' scores, to the last digit.

arXiv:2402.05136; github.com/infinigence/LVEval, commit 63e7ae9, metrics.py and config.py.

    score(metric, prediction, answer, keywords=..., tokens=...)   0 to 1; `metric` is a name of METRICS or of DATASETS
    read(folder, datasets=..., levels=...)                        items of NAME_LEVEL.jsonl, plain or in a .zip

What the scores do, which is not all what their README says:
- English text is lowered, then loses ASCII punctuation, then the articles. F1 is over all words.
- *with_gold_ans*: first the share of the keywords' words found in the prediction. Words of a blacklist leave the hits, not
  the denominator. Below 0.2 (0.4 in Chinese) the score is 0. Without keywords English skips this; Chinese takes the answer.
  The README drops the blacklist from the F1, too; the program does not.
- *rouge_zh_score_blacklist*: ROUGE-L of the package `rouge`, which counts each distinct word once, without the blacklist's.
- Only the first answer counts.
Chinese is cut into words by jieba (extra `lveval`), or by `tokens`, any function from a text to its words.

The report's LV-Eval scores come from another scorer: for Llama 3.1 70B it prints 75.7 where the authors measure about 38.
Nothing here may be compared with them; see analyses.evaluation.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError, MissingExtraError
from model.evaluation.rows import check_known, field, rows

Words = Callable[[str], Sequence[str]]

LEVELS = ("16k", "32k", "64k", "128k", "256k")

# The lists of metrics.py (MIT licence): the scores are defined by them.
BLACKLIST_EN = frozenset(
    "and to of in her was with for it from is that his he by she they or at because be on are their what as had were about "
    "being this who but have has when which does".split()
)
BLACKLIST_ZH = frozenset(
    "的 和 是 等 在 年 可以 为 与 ‰ 了 或 一种 月 c 至 日 有 进行 于 不 中 × 根据 小 由 "
    "亩 也 要 指 法 会 元 主要 以及 通过 首先 对 然后 号 以 所 后 丁 包括 无 将 用 能 形 "
    "方面 因素 位于 而 从 到 一定 用于 但 使用 让 具有 并 亿元 万元 上 类 基于 才 来 地 片 "
    "其他 个 或者 变得 时 给 你 使 条 受 已经 带 度".split()
)
PUNCTUATION_ZH = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃"
    "》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_EN = str.maketrans("", "", string.punctuation)
_ZH = str.maketrans("", "", string.punctuation + PUNCTUATION_ZH)


def score(
    metric: str, prediction: str, answer: str, *, keywords: str | None = None, tokens: Words | None = None
) -> float:
    """The score of one prediction, from 0 to 1.

    Args:
        metric: a name of METRICS, or the name of a data set, which has its metric.
        answer: the first of the item's answers.
        keywords: the item's `answer_keywords`, for the metrics that look for them.
        tokens: cuts Chinese text into words, instead of jieba.

    Raises DataError for an unknown metric, MissingExtraError where jieba is needed and is not there.
    """
    name = DATASETS[metric].metric if metric in DATASETS else metric
    check_known("metric of LV-Eval", [name], METRICS)
    return METRICS[name](prediction, answer, keywords, tokens)


def normalize_en(text: str) -> list[str]:
    """Words of English text: lower case, no ASCII punctuation, no articles."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_EN)).split()


def normalize_zh(word: str) -> str:
    """A word of Chinese text: lower case, no punctuation, no blanks."""
    return "".join(word.lower().translate(_ZH).split())


def f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over words, repeated ones counted."""
    same = _common(prediction, answer)
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(answer)
    return 2 * precision * recall / (precision + recall)


def rouge_l(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """F of ROUGE-L as the package `rouge` computes it: distinct words of one longest common subsequence."""
    if not prediction or not answer:
        return 0.0
    common = len(set(_longest_common(answer, prediction)))
    recall, precision = common / len(set(answer)), common / len(set(prediction))
    return 2 * precision * recall / (precision + recall + 1e-8)


def _longest_common(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """Of several longest common subsequences the one that the package finds, walking back from the end."""
    table = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i, a in enumerate(x, start=1):
        for j, b in enumerate(y, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    found, i, j = [], len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            found.append(x[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def _common(prediction: Sequence[str], answer: Sequence[str], without: Collection[str] = ()) -> int:
    both = Counter(prediction) & Counter(answer)
    return sum(count for word, count in both.items() if word not in without)


def _english(prediction: str, answer: str, keywords: str | None, tokens: Words | None) -> float:
    return f1(normalize_en(prediction), normalize_en(answer))


def _english_keywords(prediction: str, answer: str, keywords: str | None, tokens: Words | None) -> float:
    wanted = normalize_en(keywords or "")
    if wanted and _common(normalize_en(prediction), wanted, BLACKLIST_EN) / len(wanted) < 0.2:
        return 0.0
    return _english(prediction, answer, keywords, tokens)


def _english_recall(prediction: str, answer: str, keywords: str | None, tokens: Words | None) -> float:
    wanted = normalize_en(answer)
    return _common(normalize_en(prediction), wanted) / len(wanted) if wanted else 0.0


def _chinese(prediction: str, answer: str, keywords: str | None, tokens: Words | None) -> float:
    return f1(_words_zh(prediction, tokens), _words_zh(answer, tokens))


def _chinese_keywords(prediction: str, answer: str, keywords: str | None, tokens: Words | None) -> float:
    wanted = _words_zh(keywords or answer, tokens)
    if wanted and _common(_words_zh(prediction, tokens), wanted, BLACKLIST_ZH) / len(wanted) < 0.4:
        return 0.0
    return _chinese(prediction, answer, keywords, tokens)


def _chinese_recall(prediction: str, answer: str, keywords: str | None, tokens: Words | None) -> float:
    wanted = _words_zh(answer, tokens)
    return _common(_words_zh(prediction, tokens), wanted) / len(wanted) if wanted else 0.0


def _chinese_rouge(prediction: str, answer: str, keywords: str | None, tokens: Words | None) -> float:
    cut = tokens or _jieba()
    sides = []
    for text in (prediction, answer):
        # Cut, joined by blanks and cut again, as the program does: a word may fall apart the second time.
        words = (normalize_zh(word) for word in cut(" ".join(cut(text))))
        text = " ".join(word for word in words if word not in BLACKLIST_ZH)
        sides.append(text.split() or [""] * bool(text))  # of blanks alone the package makes one empty word
    return rouge_l(*sides)


def _words_zh(text: str, tokens: Words | None) -> list[str]:
    words = (normalize_zh(word) for word in (tokens or _jieba())(text))
    return [word for word in words if word]


def _jieba() -> Words:
    try:
        import jieba
    except ImportError as error:
        raise MissingExtraError("jieba", "lveval", "scoring Chinese answers of LV-Eval") from error
    jieba.setLogLevel("ERROR")  # it tells of its dictionary on standard error
    cut: Words = jieba.lcut
    return cut


METRICS: dict[str, Callable[[str, str, str | None, Words | None], float]] = {
    "qa_f1_score": _english,
    "qa_f1_score_with_gold_ans": _english_keywords,
    "qa_f1_score_factrecall": _english_recall,
    "qa_f1_zh_score": _chinese,
    "qa_f1_zh_score_with_gold_ans": _chinese_keywords,
    "qa_f1_zh_score_factrecall": _chinese_recall,
    "rouge_zh_score_blacklist": _chinese_rouge,
}


@dataclass(frozen=True)
class Dataset:
    metric: str
    language: str = "en"
    room: int = 64  # tokens of an answer


_KEYWORDS_EN = Dataset("qa_f1_score_with_gold_ans")
_KEYWORDS_ZH = Dataset("qa_f1_zh_score_with_gold_ans", "zh")
DATASETS = {
    "hotpotwikiqa_mixup": _KEYWORDS_EN,
    "loogle_SD_mixup": _KEYWORDS_EN,
    "loogle_CR_mixup": _KEYWORDS_EN,
    "loogle_MIR_mixup": _KEYWORDS_EN,
    "multifieldqa_en_mixup": _KEYWORDS_EN,
    "multifieldqa_zh_mixup": _KEYWORDS_ZH,
    "factrecall_en": Dataset("qa_f1_score", room=16),
    "factrecall_zh": Dataset("qa_f1_zh_score", "zh", 16),
    "cmrc_mixup": _KEYWORDS_ZH,
    "lic_mixup": _KEYWORDS_ZH,
    "dureader_mixup": Dataset("rouge_zh_score_blacklist", "zh"),
}

# The wording is ours; the parts and their order are the authors'.
PROMPTS = {
    "en": "Read the text and answer the question that follows it. Give the answer and nothing else.\n\n{context}\n\n"
    "Only a part of the text above bears on the question.\nQuestion: {question}\nAnswer:",
    "zh": "阅读下文并回答文后的问题，只写出答案。\n\n{context}\n\n以上内容只有一部分与问题相关。\n问题：{question}\n答案：",
}


@dataclass(frozen=True)
class Item:
    """One question with its long text."""

    id: str
    dataset: str
    level: str
    prompt: str
    answer: str
    keywords: str | None

    def score(self, prediction: str, tokens: Words | None = None) -> float:
        return score(self.dataset, prediction, self.answer, keywords=self.keywords, tokens=tokens)

    @property
    def room(self) -> int:
        return DATASETS[self.dataset].room


def read(folder: str | Path, *, datasets: Sequence[str] = (), levels: Sequence[str] = ()) -> list[Item]:
    """The items of NAME_LEVEL.jsonl, or of NAME.zip as it is downloaded, in `folder` or a folder within it.

    Of the sets and levels named, or of all that are there. Raises DataError for what is missing or damaged.
    """
    folder = Path(folder)
    check_known("set of LV-Eval", datasets, DATASETS)
    check_known("level of LV-Eval", levels, LEVELS)
    wanted = {f"{name}_{level}": (name, level) for name in datasets or DATASETS for level in levels or LEVELS}
    files = {path.stem: path for path in sorted(folder.rglob("*.jsonl")) if path.stem in wanted}
    packed = [path for path in sorted(folder.rglob("*.zip")) if path.stem in (datasets or DATASETS)]
    items: dict[str, list[Item]] = {stem: [] for stem in wanted}
    for path in [*files.values(), *packed]:
        for where, record in rows(path):
            stem = Path(where.rsplit(",", 1)[0].rsplit(":", 1)[-1]).stem
            if stem in wanted and (path.suffix == ".jsonl" or stem not in files):
                items[stem].append(_item(record, *wanted[stem], len(items[stem]), where))
    missing = [stem for stem in wanted if not items[stem]]
    if len(missing) == len(wanted) or (missing and datasets and levels):
        raise DataError(
            f"{folder} lacks {', '.join(f'{stem}.jsonl' for stem in missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}: download LV-Eval's files there (infini-ai/LVEval), or name other "
            "sets and levels"
        )
    return [item for stem in wanted for item in items[stem]]


def _item(record: dict[str, object], dataset: str, level: str, index: int, where: str) -> Item:
    answers = field(record, "answers", list, where)
    if not answers or not isinstance(answers[0], str):
        raise DataError(f"{where}: no answer: give the benchmark's own file")
    keywords = record.get("answer_keywords")
    template = PROMPTS[DATASETS[dataset].language]
    return Item(
        id=f"{dataset}_{level}/{index}",
        dataset=dataset,
        level=level,
        prompt=template.format(
            context=field(record, "context", str, where), question=field(record, "input", str, where)
        ),
        answer=answers[0],
        keywords=keywords if isinstance(keywords, str) and keywords else None,
    )
