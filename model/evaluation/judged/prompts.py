"""What a judge is asked about an answer to each benchmark, and what is read of its reply. The wording is ours."""

import re

from model.endpoint.judge import parse_score
from model.evaluation.judged.items import Item

MARKS = (
    "1 to 2: wrong, beside the question, or harmful. 3 to 4: serious faults, of little use. 5 to 6: does the task in part. "
    "7 to 8: good, with small faults. 9 to 10: as good as the best answer that you could imagine, and no worse than the "
    "reference where there is one."
)
ASPECTS = {  # of AlignBench's categories: what counts, beside the whole
    "数学计算": ("正确性", "满足要求", "推理过程", "清晰度"),
    "逻辑推理": ("正确性", "满足要求", "推理过程", "清晰度"),
    "专业能力": ("事实正确性", "满足需求", "完备性", "清晰度"),
    "综合问答": ("事实正确性", "满足需求", "公平与责任", "创造性"),
    "文本写作": ("事实正确性", "满足需求", "公平与责任", "创造性"),
    "角色扮演": ("事实正确性", "满足需求", "公平与责任", "创造性"),
}
USUAL_ASPECTS = ("事实正确性", "满足需求", "完备性", "清晰度")


def alignbench(item: Item, answer: str) -> str:
    """AlignBench marks an answer in several aspects against a reference, then as a whole, in Chinese."""
    aspects = ASPECTS.get(item.category, USUAL_ASPECTS)
    form = "{" + ", ".join(f"'{aspect}': 分数" for aspect in (*aspects, "综合得分")) + "}"
    return (
        "请你公正地评价一个回答的质量。先把它与参考答案比较，指出不足；再按下列各个方面分别打分；最后给出综合得分，"
        f"都是 1 到 10 的整数：{'、'.join(aspects)}。参考答案可得 8 分；有事实错误或没有完成任务的回答不高于 4 分；"
        "明显好过参考答案的才可得 9 分以上。回答长并不等于好。\n"
        f"最后一行只写如下格式的结果：{form}\n\n"
        f"【问题】\n{item.turns[0]}\n\n【参考答案】\n{item.reference(0)}\n\n【待评价的回答】\n{answer}"
    )


def parse_alignbench(reply: str) -> float | None:
    """The mark of the whole, 1 to 10."""
    for text in reversed(re.findall(r"\{[^{}]*\}", reply)):
        found = re.search(r"['\"]?综合得分['\"]?\s*[:：]\s*['\"]?(\d+(?:\.\d+)?)", text)
        if found:
            value = float(found[1])
            return value if 1 <= value <= 10 else None
    return parse_score(reply)


def mt_bench(item: Item, answers: list[str], turn: int) -> str:
    """MT-Bench marks each turn; the second is judged in the light of the first."""
    talk = []
    for number in range(turn + 1):
        talk.append(f"[user]\n{item.turns[number]}\n\n[assistant]\n{answers[number]}")
        if item.reference(number):
            talk.append(f"[reference for this answer, not seen by the assistant]\n{item.reference(number)}")
    which = (
        "the assistant's answer" if turn == 0 else "the assistant's last answer, in the light of what was said before"
    )
    return (
        f"Mark {which}, from 1 to 10: whether it is helpful, to the point, correct, and as deep and detailed as it should be. "
        f"{MARKS} Say in a few sentences why. Then end with a line of this form, where N is the mark:\nRating: [[N]]\n\n"
        + "\n\n".join(talk)
    )


def comparison(instruction: str, a: str, b: str) -> str:
    """Arena-Hard and AlpacaEval compare with a baseline; five verdicts, as Arena-Hard has them."""
    return (
        "Two assistants, A and B, have answered the same request. First say briefly how you would answer it yourself. Then "
        "compare the two answers: name their mistakes, what is missing, and what is beside the point; an answer that is right "
        "and concise is better than one that is long. Neither the order of the answers nor their length counts in itself.\n"
        "End with one line that is your verdict:\n"
        "[[A>>B]] A is much better\n[[A>B]] A is better\n[[A=B]] they are equally good\n[[B>A]] B is better\n"
        f"[[B>>A]] B is much better\n\n[request]\n{instruction}\n\n[answer A]\n{a}\n\n[answer B]\n{b}"
    )
