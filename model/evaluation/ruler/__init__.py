"""RULER: thirteen tasks that show how far into a long text a model can look; arXiv:2404.06654.

score("vt", replies, references)                      (percent, empty replies), as NVIDIA's program
generate("niah_single_2", tokenizer, length=8192)     a Sample: prompt, references, depth
"""

from model.evaluation.ruler.generator import TASKS, Sample, generate
from model.evaluation.ruler.scoring import FAMILIES, NAMES, score, score_one

__all__ = ["FAMILIES", "NAMES", "TASKS", "Sample", "generate", "score", "score_one"]
