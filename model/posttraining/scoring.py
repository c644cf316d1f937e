"""A reward model that is ready to judge: answers to questions in, a number for each out.

scorer = load_reward(RUN)
scorer.score(questions, ["4", "5"])    one answer to the question at its place
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from model.checkpoint.run import MODEL, REWARD_HEAD, checkpoint_of, config_of
from model.data.instructions.preferences import Question
from model.data.instructions.rendering import Renderer
from model.device import autocast, compute_dtype
from model.errors import CheckpointError, ConfigError
from model.posttraining.reward import RewardModel
from model.transformer import Hunyuan

HEAD = f"{REWARD_HEAD}weight"


class RewardScorer:
    """A reward model with the tokenizer and the chat template that it was trained with."""

    def __init__(self, model: RewardModel, renderer: Renderer, name: str) -> None:
        self.model, self.renderer, self.name = model.eval(), renderer, name
        self.device = model.head.weight.device

    def score(self, questions: Sequence[Question], answers: Sequence[str], *, batch_size: int = 16) -> list[float]:
        """The reward of each answer to the question at its place; ConfigError where one is longer than the model's context."""
        parts = (self.renderer.answer(*asked) for asked in zip(questions, answers, strict=True))
        return self.score_ids([prompt + answer for prompt, answer in parts], batch_size=batch_size)

    @torch.no_grad()
    def score_ids(self, rows: Sequence[Sequence[int]], *, batch_size: int = 16) -> list[float]:
        """The rewards of question and answer as token ids, in the order given; rows of like length are scored together."""
        context, longest = self.model.net.config.max_position_embeddings, max(map(len, rows), default=0)
        if longest > context:
            sizes = f"a question with its answer has {longest:,} tokens and the context of {self.name} is {context:,}"
            raise ConfigError([f"{sizes}: ask for shorter answers"])
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        scores = [0.0] * len(rows)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            lengths = torch.tensor([len(rows[index]) for index in chosen])
            ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.int64)
            for place, index in enumerate(chosen):
                ids[place, : len(rows[index])] = torch.tensor(rows[index])
            with autocast(self.device, compute_dtype("auto", self.device)):
                rewards = self.model(ids.to(self.device), lengths.to(self.device))
            for index, reward in zip(chosen, rewards.tolist(), strict=True):
                scores[index] = reward
        return scores


def load_reward(folder: str | Path, device: torch.device | str = "cpu") -> RewardScorer:
    """The reward model of a run of `hunyuan reward`, or of one of its checkpoints; CheckpointError where it is another."""
    home, checkpoint = checkpoint_of(Path(folder).expanduser())
    weights = load_file(checkpoint / MODEL)
    if HEAD not in weights:
        raise CheckpointError(f"{folder} is no reward model: give the folder that hunyuan reward --out named")
    net = Hunyuan(config_of(home, checkpoint))
    model = RewardModel(net)
    net.load_state_dict({name: weight for name, weight in weights.items() if name != HEAD})
    model.head.load_state_dict({"weight": weights[HEAD]})
    return RewardScorer(model.to(device), Renderer.from_folder(home), str(folder))
