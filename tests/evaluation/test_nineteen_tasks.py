"""Each of lm-eval's nineteen tasks of the report's tables, on documents of its data set's shape, from files to scores."""

import pytest

from model.evaluation.benchmarks import BENCHMARKS
from model.evaluation.evaluate import Evaluation, evaluate
from tests.evaluation.folders import small_model, write_lines

pytest.importorskip("lm_eval", reason="the extra eval is not installed")

LETTERS = {"A": "one", "B": "two", "C": "three", "D": "four"}
DOCUMENTS = {
    "mmlu": {"question": "Which?", "choices": ["one", "two", "three", "four"], "answer": 1, "subject": "anatomy"},
    "mmlu_pro": {"question": "Which?", "options": ["one", "two"], "answer": "A", "category": "math",
                 "cot_content": "A: Let's think step by step. The answer is (A)."},
    "bbh": {"input": "True and False is", "target": "False"},
    "hellaswag": {"activity_label": "Routing", "ctx_a": "A token", "ctx_b": "it", "ctx": "A token it", "label": "2",
                  "endings": ["goes", "stays", "runs", "waits"]},
    "commonsense_qa": {"question": "Where?", "answerKey": "C",
                       "choices": {"label": list("ABCDE"), "text": ["here", "there", "home", "away", "out"]}},
    "winogrande": {"sentence": "The token met the expert because _ was free.", "option1": "token", "option2": "expert",
                   "answer": "2"},
    "piqa": {"goal": "Route a token", "sol1": "ask", "sol2": "guess", "label": 0},
    "nq_open": {"question": "who routes tokens", "answer": ["the router", "a router"]},
    "drop": {"passage": "Two experts met.", "question": "How many?", "query_id": "q", "section_id": "s",
             "answer": {"number": "2", "date": dict.fromkeys(("day", "month", "year"), ""), "spans": [], "worker_id": "",
                        "hit_id": ""},
             "validated_answers": {"number": [], "date": [], "spans": [], "worker_id": [], "hit_id": []}},
    "arc_challenge": {"question": "Which?", "answerKey": "B",
                      "choices": {"text": list(LETTERS.values()), "label": list("ABCD")}},
    "triviaqa": {"question": "Who routes?", "answer": {"value": "router", "aliases": ["router", "the router"]}},
    "cmmlu": {"Question": "哪个？", **LETTERS, "Answer": "B"},
    "ceval-valid": {"question": "哪个？", **LETTERS, "answer": "B", "explanation": ""},
    "gsm8k": {"question": "1 and 1?", "answer": "1 + 1 = 2\n#### 2"},
    "hendrycks_math": {"problem": "1+1?", "solution": "It is $\\boxed{2}$.", "level": "Level 1", "type": "Algebra"},
    "humaneval": {"prompt": "def f():\n", "test": "def check(f):\n    assert f() is None\n", "entry_point": "f",
                  "task_id": "HumanEval/0", "canonical_solution": "    return None\n"},
    "mbpp": {"text": "Add.", "code": "", "test_list": ["assert 1", "assert 1", "assert 1"], "task_id": 11},
    "gpqa_diamond_zeroshot": {"Question": "Which?", "Correct Answer": "one", "Incorrect Answer 1": "two",
                              "Incorrect Answer 2": "three", "Incorrect Answer 3": "four"},
    "ifeval": {"key": 1, "prompt": "Say it without commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
}  # fmt: skip
CATEGORIES = (
    "biology business chemistry economics engineering health history law math other philosophy physics psychology"
)
SPLITS = ("train", "validation", "test", "dev", "val")


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [each for each in BENCHMARKS if each.folders], ids=lambda each: each.task)
def test_it_runs_on_local_files(benchmark, tmp_path):
    """One file a split stands for every subject of a group."""
    documents = [DOCUMENTS[benchmark.task]] * 2
    if benchmark.task == "mmlu_pro":  # its tasks pick their own
        documents = [documents[0] | {"category": name} for name in [*CATEGORIES.split(), "computer science"]]
    for split in SPLITS:
        write_lines(tmp_path / benchmark.task / f"{split}.jsonl", documents)
    asked = Evaluation((benchmark.task,), task_data=tmp_path, limit=1, shots=0, max_new_tokens=4)
    try:
        rows = evaluate(small_model(context=2048), asked)
    except Exception as error:
        if "needs the package" in str(error) or "nltk" in str(error).lower():
            pytest.skip(str(error))
        raise
    row = next(row for row in rows if row.task == benchmark.task and row.metric.startswith(benchmark.metric))
    assert row.unit == "percent" and 0 <= row.score <= 100 and row.n >= 1 and row.shots == 0
