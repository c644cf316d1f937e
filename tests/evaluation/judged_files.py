"""Small files of the judged benchmarks, of the shapes that their authors publish."""

import json

from tests.evaluation.folders import write_lines

CATEGORIES = ("数学计算", "逻辑推理", "文本写作", "角色扮演")


def write_judged(folder, flat=False):
    """In folders of their own, or as NAME.jsonl."""

    def place(task, name):
        return folder / f"{task}.jsonl" if flat else folder / task / name

    write_lines(
        place("alignbench", "data_v1.1_release.jsonl"),
        [
            {"question_id": n, "category": c, "question": f"问题 {n}", "reference": "四"}
            for n, c in enumerate(CATEGORIES)
        ],
    )
    turns = [
        {"question_id": 81 + n, "category": "math", "turns": [f"first of {n}", f"second of {n}"]} for n in range(3)
    ]
    write_lines(place("mt_bench", "question.jsonl"), turns)
    answer = {"question_id": 82, "model": "gpt-4", "choices": [{"index": 0, "turns": ["right 1", "right 2"]}]}
    write_lines(folder / "mt_bench" / "reference_answer" / "gpt-4.jsonl", [answer])
    tasks = [{"question_id": f"q{n}", "category": "c", "turns": [{"content": f"task {n}"}]} for n in range(4)]
    write_lines(place("arena_hard", "question.jsonl"), tasks)
    answers = [
        {"question_id": f"q{n}", "choices": [{"index": 0, "turns": [{"content": f"baseline {n}", "token_len": 2}]}]}
        for n in range(4)
    ]
    baseline = folder / "baseline.jsonl" if flat else folder / "arena_hard" / "model_answer" / "gpt-4-0314.jsonl"
    write_lines(baseline, answers)
    write_lines(folder / "arena_hard" / "model_answer" / "other.jsonl", answers[:1])
    pairs = [{"instruction": f"do {n}", "output": f"their answer {n}", "dataset": "koala"} for n in range(12)]
    if flat:
        write_lines(folder / "alpaca_eval.jsonl", pairs)
    else:
        (folder / "alpaca_eval").mkdir(parents=True, exist_ok=True)
        (folder / "alpaca_eval" / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(pairs))
    groups = ("Information Extraction", "Numerical Reasoning")
    items = [
        {
            "input_md5": f"m{n}", "first_level_tag": groups[n % 2], "question": f"what {n}", "prompt": f"text {n}\nwhat {n}",
            "answer": "so", "is_subjective": False, "token_count": 9,
        }
        for n in range(4)
    ]  # fmt: skip
    write_lines(place("penguinscrolls", "test.jsonl"), items)
    return folder
