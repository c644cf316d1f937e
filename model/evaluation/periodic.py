"""Small tasks that a training run is asked as it goes: RULER's, at a length that costs seconds.

The samples are drawn once, from the run's seed, and asked greedily: nothing of the training changes, and a resumed run has the
same scores.
"""

from collections.abc import Sequence

import torch

from model.errors import ConfigError
from model.evaluation import ruler
from model.evaluation.asking import Model
from model.evaluation.documents import Document, ask_documents
from model.evaluation.long_context import RULER_METRIC, ruler_documents
from model.generation.defaults import GenerationDefaults
from model.generation.engine import Engine
from model.generation.session import Session
from model.parallel.agree import together
from model.parallel.start import Ranks
from model.tokenizer.chat_template import plain_template
from model.tokenizer.interface import TextTokenizer
from model.transformer import Hunyuan

PREFIX = "score_"  # of the keys in metrics.jsonl, such as score_vt_256


class PeriodicTasks:
    """`tasks` are names with lengths in tokens, such as niah_single_1@256; "ruler" is the mean of the 13."""

    def __init__(
        self,
        tasks: Sequence[str],
        tokenizer: TextTokenizer,
        *,
        length: int,
        context: int,
        samples: int,
        seed: int,
    ) -> None:
        """`length` is of tasks that name none. ConfigError or DataError, before training, for what cannot be asked."""
        self.tokenizer = tokenizer
        self.asked: dict[str, list[list[Document]]] = {}  # by key: of each task its documents
        for text in tasks:
            name, at, size = text.partition("@")
            if name not in ("ruler", *ruler.NAMES) or (at and not size.isdigit()):
                known = f"ruler or one of {', '.join(ruler.NAMES)}"
                raise ConfigError(
                    [f"training.evaluate_tasks has {text!r}: write {known}, with its tokens, such as niah_single_1@256"]
                )
            names = ruler.NAMES if name == "ruler" else [name]
            drawn = ruler_documents(
                tokenizer, names, lengths=[int(size or length)], context=context, samples=samples, seed=seed
            )
            self.asked[f"{PREFIX}{name}_{size or length}"] = list(drawn)

    def scores(self, net: Hunyuan, ranks: Ranks | None = None) -> dict[str, float]:
        """Percent by key; blocks that are compiled for training's shapes are not compiled again for these.

        Of several processes, all of which call it with a whole model each, one asks a task: they take turns, and meet
        after each turn, so that none waits long for the others.
        """
        engine = Engine(net, self.tokenizer, plain_template(), False, GenerationDefaults(), trained_here=True)
        model = Model(engine, session=Session(net, records=False))
        tasks = [documents for of_key in self.asked.values() for documents in of_key]
        means = torch.zeros(len(tasks), dtype=torch.float64)
        processes, rank = (1, 0) if ranks is None else (ranks.layout.processes, ranks.rank)
        with torch.compiler.set_stance("force_eager"):
            for turn in range(0, len(tasks), processes):
                with together(ranks):
                    if turn + rank < len(tasks):
                        values = [sample.scores[RULER_METRIC] for sample in ask_documents(model, tasks[turn + rank])]
                        means[turn + rank] = sum(values) / len(values)
        if ranks is not None:
            ranks.sum_(means)
        by_key = means.split([len(of_key) for of_key in self.asked.values()])
        return {key: 100 * sum(of_key.tolist()) / len(of_key) for key, of_key in zip(self.asked, by_key, strict=True)}
