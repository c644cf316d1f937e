"""The benchmarks of the report's tables 3 and 4, and which task measures each: lm-eval's for 19 of 25, ours for six.

arXiv:2411.02265. The report does not say which program scored it, with which prompts, nor always how many examples: a score of
ours stands beside one of the report, and is no repetition of it.
"""

from typing import NamedTuple


class Benchmark(NamedTuple):
    """A name of the tables, and how it is measured here."""

    name: str
    task: str
    metric: str  # the first of the task's that is a share of what is right
    folders: tuple[str, ...] = ()  # of lm-eval's task files; () for our own tasks
    chat: bool = False  # in table 4 alone: for models that follow instructions
    judged: bool = False  # needs --judge


BENCHMARKS = (
    Benchmark("MMLU", "mmlu", "acc", ("mmlu/default",)),
    Benchmark("MMLU-Pro", "mmlu_pro", "exact_match", ("mmlu_pro",)),
    Benchmark("BBH", "bbh", "exact_match", ("bbh/cot_fewshot",)),
    Benchmark("HellaSwag", "hellaswag", "acc_norm", ("hellaswag",)),
    Benchmark("CommonsenseQA", "commonsense_qa", "acc", ("commonsense_qa",)),
    Benchmark("WinoGrande", "winogrande", "acc", ("winogrande",)),
    Benchmark("PIQA", "piqa", "acc", ("piqa",)),
    Benchmark("NaturalQuestions", "nq_open", "exact_match", ("nq_open",)),
    Benchmark("DROP", "drop", "f1", ("drop",)),
    Benchmark("ARC-C", "arc_challenge", "acc_norm", ("arc",)),
    Benchmark("TriviaQA", "triviaqa", "exact_match", ("triviaqa",)),
    Benchmark("CMMLU", "cmmlu", "acc", ("cmmlu",)),
    Benchmark("C-Eval", "ceval-valid", "acc", ("ceval",)),
    Benchmark("C3", "c3", "acc"),
    Benchmark("GSM8K", "gsm8k", "exact_match", ("gsm8k",)),
    Benchmark("MATH", "hendrycks_math", "exact_match", ("hendrycks_math",)),
    Benchmark("CMATH", "cmath", "exact_match"),
    Benchmark("HumanEval", "humaneval", "pass@1", ("humaneval",)),
    Benchmark("MBPP", "mbpp", "pass_at_1", ("mbpp",)),
    Benchmark("GPQA_diamond", "gpqa_diamond_zeroshot", "acc", ("gpqa/zeroshot",), chat=True),
    Benchmark("IFEval strict-prompt", "ifeval", "prompt_level_strict_acc", ("ifeval",), chat=True),
    Benchmark("AlignBench", "alignbench", "rating", chat=True, judged=True),
    Benchmark("MT-Bench", "mt_bench", "rating", chat=True, judged=True),
    Benchmark("Arena-Hard", "arena_hard", "win_rate", chat=True, judged=True),
    Benchmark("AlpacaEval-2.0", "alpaca_eval", "win_rate", chat=True, judged=True),
)
FOLDERS = {each.task: each.folders for each in BENCHMARKS if each.folders} | {
    "minerva_math": ("benchmarks", "minerva_math"),
    "arc_easy": ("arc",),
}
