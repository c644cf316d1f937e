"""How much an instruction tells a model about its response: log p(response | instruction) - log p(response), nats a token.

Both are read in the model's own form of a conversation; for the second the question is empty. Around 0, or below, the
response does not depend on what was asked. It measures that, and not whether the response is right.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from model.device import pick_device
from model.generation.engine import Engine
from model.posttraining.logps import token_logps


class LikelihoodRatio:
    """A critic (filter_run.py): nats a token by the model of a run folder or Hugging Face folder."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self._engine = Engine.from_folder(folder, device=pick_device(device))
        self._room = self._engine.net.config.max_position_embeddings

    def __call__(self, pairs: Iterable[tuple[int, str, str]]) -> Iterator[tuple[int, float]]:
        for number, instruction, response in pairs:
            yield number, self.score(instruction, response)

    def reason(self, score: float | None) -> str:
        return f"its instruction makes it {score:.3f} nats a token likelier: that is too little"

    def score(self, instruction: str, response: str) -> float:
        """The end of a conversation that is too long for the model is not read; 0 where no token is left to be scored."""
        asked, empty = (self._engine.reply([{"role": "user", "content": text}], max_new_tokens=1, fit=True).prompt
                        for text in (instruction, ""))  # fmt: skip
        answer = self._engine.tokenizer.encode(response)[: self._room - max(len(asked), len(empty))]
        if not answer or len(asked) >= self._room:
            return 0.0
        return (self._logp(asked, answer) - self._logp(empty, answer)) / len(answer)

    @torch.inference_mode()
    def _logp(self, prompt: list[int], answer: list[int]) -> float:
        net = self._engine.net.eval()
        input_ids = torch.tensor([[*prompt, *answer]], device=net.embed_tokens.weight.device)  # (1, S)
        mask = torch.arange(input_ids.shape[1], device=input_ids.device)[None] >= len(prompt)
        return float(token_logps(net, input_ids, mask).logps.double().sum())
