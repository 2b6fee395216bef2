"""Stop strings: found across token boundaries, never shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through until one of `stops` appears.

    Text that may be the beginning of a stop string is held back until the next piece decides. `found`
    becomes true with the piece that completes a stop string; where one piece completes several, the one
    that begins first counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that may be shown now."""
        text = self._held + piece
        begins = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        if begins:
            self.found = True
            self._held = ""
            return text[: min(begins)]
        num_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        shown = len(text) - num_held
        self._held = text[shown:]
        return text[:shown]

    def flush(self) -> str:
        """What was held back, once no further text can come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest tail of `text` that begins `stop` without completing it."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
