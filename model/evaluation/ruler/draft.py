"""What a task makes: a text in parts, with its answers; and where the randomness of a sample comes from."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Items = dict[str, int]  # how much of each thing a text holds, such as {"keys": 4}


@dataclass(frozen=True)
class Draft:
    """A text: opening, the pieces of its long part, closing with the question and the beginning of an answer."""

    opening: str
    pieces: Sequence[str]
    closing: str
    answers: Sequence[str]
    marks: Sequence[int] = ()  # places in `pieces` of what the answers need
    joint: str = " "

    def text(self, padding: int = 0) -> str:
        """The prompt, with so many words of padding after the pieces."""
        words = " ".join(_PADDING[i % len(_PADDING)] for i in range(padding))
        pad = [f"{words.capitalize()}."] if padding else []
        return self.opening + self.joint.join([*self.pieces, *pad]) + self.closing

    def depths(self) -> tuple[float, ...]:
        """Where the marked pieces begin, 0 at the beginning of the long part and 1 at its end, by characters."""
        starts, place = [], 0
        for piece in self.pieces:
            starts.append(place)
            place += len(piece) + len(self.joint)
        last = max(1, place - len(self.joint))
        return tuple(round(starts[mark] / last, 4) for mark in self.marks)


_PADDING = ("and", "so", "it", "goes", "on")


@dataclass(frozen=True)
class Source:
    """The randomness of one sample: a stream for each purpose, so that more filler changes nothing else."""

    seed: int
    task: str
    index: int

    def __call__(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{self.task}/{self.index}/{purpose}")

    def depths(self, count: int) -> list[float]:
        """Depths of `count` needles, in order.

        Over the samples the first goes through the multiples of the golden ratio, which cover 0 to 1 evenly however many
        samples there are; the others stand at even distances from it.
        """
        start = random.Random(f"{self.seed}/{self.task}/depth").random()
        first = start + self.index * 0.6180339887498949
        return sorted((first + k / count) % 1.0 for k in range(count))


@dataclass(frozen=True)
class Task:
    """One of the 13: how a text is built, and with how much of what, from the most to the least that makes sense."""

    build: Callable[[Items, int, Source], Draft]  # of the items, and a number of pieces of filler
    items: Sequence[Items]
    room: int  # tokens that NVIDIA leaves for an answer


def insert(filler: list[str], needles: Sequence[tuple[float, str]]) -> tuple[list[str], list[int]]:
    """The filler with each needle at its depth, and the places where they are; needles are in order of depth."""
    pieces: list[str] = []
    places: list[int] = []
    used = 0
    for depth, needle in needles:
        place = min(len(filler), int(depth * (len(filler) + 1)))
        pieces += filler[used:place]
        used = place
        places.append(len(pieces))
        pieces.append(needle)
    return pieces + filler[used:], places
