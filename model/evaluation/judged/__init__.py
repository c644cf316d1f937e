"""Benchmarks that a judge marks, from local files: AlignBench, MT-Bench, Arena-Hard, AlpacaEval 2.0, PenguinScrolls.

    items     the questions, references and baseline answers       prompts   what the judge is asked, and what is read
    run       answers of the model, verdicts and samples           rows      scores of the whole and of its parts
    lengths   a win rate with length taken out

The judge is any OpenAI-compatible endpoint (model/endpoint). Its wording here is ours and the judge is the user's choice: a
score stands beside a published one and is no repetition of it. Two answers are always compared in both orders.
"""
