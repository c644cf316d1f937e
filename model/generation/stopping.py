"""Stop strings in a text that comes in pieces: what may be shown already, and where the text ends.

The text is read a character at a time. It is over as soon as it ends with a stop string; where several end at the same
character, with the longest. So the answer does not depend on where the text was cut into pieces. A trie of the stop strings
with the links of Aho and Corasick (1975) says after each character how much of the text could still become one.
"""

from collections.abc import Sequence

from model.errors import ConfigError


class StopStrings:
    """Give each piece to push and show what it returns. Stop once `found` is set; otherwise call finish at the end.

    found: the stop string that ended the text, or None until then. Neither it nor what follows it is shown.
    """

    def __init__(self, stops: str | Sequence[str]) -> None:
        stops = [stops] if isinstance(stops, str) else stops
        if "" in stops:
            raise ConfigError(["a stop string is empty: every text ends with it, so give at least one character"])
        self.found: str | None = None
        self._held = ""  # the end of the text so far that is the longest beginning of a stop string
        self._state = 0  # the node of the trie that spells _held; 0 is the root
        self._next: list[dict[str, int]] = [{}]  # of a node: the node one character further
        self._depth = [0]  # how many characters it spells
        self._link = [0]  # the node that spells the longest proper suffix of it
        self._match: list[str | None] = [None]  # the longest stop string that it ends with
        for stop in stops:
            self._add(stop)
        self._connect()

    def push(self, piece: str) -> str:
        """The text that is safe to show once this piece is there; what could begin a stop string is held back."""
        if self.found is not None:
            return ""
        text = self._held + piece
        for end in range(len(self._held), len(text)):
            self._state = self._step(self._state, text[end])
            self.found = self._match[self._state]
            if self.found is not None:
                self._held, self._state = "", 0
                return text[: end + 1 - len(self.found)]
        safe = len(text) - self._depth[self._state]
        self._held = text[safe:]
        return text[:safe]

    def finish(self) -> str:
        """What was held back, once the text is over: no stop string came of it."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _step(self, node: int, character: str) -> int:
        while node and character not in self._next[node]:
            node = self._link[node]
        return self._next[node].get(character, 0)

    def _add(self, stop: str) -> None:
        node = 0
        for depth, character in enumerate(stop, start=1):
            if character not in self._next[node]:
                self._next[node][character] = len(self._next)
                self._next.append({})
                self._depth.append(depth)
                self._link.append(0)
                self._match.append(None)
            node = self._next[node][character]
        self._match[node] = stop

    def _connect(self) -> None:
        """Sets links and matches. Shorter nodes come first: those of a node follow from the shorter one it is linked to."""
        nodes = [0]
        for node in nodes:  # grows as it is read: breadth first
            for character, child in self._next[node].items():
                if node:
                    self._link[child] = self._step(self._link[node], character)
                self._match[child] = self._match[child] or self._match[self._link[child]]
                nodes.append(child)
