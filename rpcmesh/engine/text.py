"""Token bytes become text here: whole code points, and nothing of a stop string. No tokenizer, no I/O."""

from __future__ import annotations

import codecs


class TextAssembler:
    """Turns the byte pieces of one completion into text that may be sent at once and never taken back.

    Held back: the bytes of an unfinished code point, and text that could be the start of a stop string. Which stop
    string wins, and so what is emitted, does not depend on how the bytes were cut: the one that is complete first,
    and among those the longest.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        # Bytes that cannot become UTF-8 turn into U+FFFD once that is certain, an open sequence only in finish().
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """The text that is now certain. After a stop string, ``stopped`` is set and nothing more comes."""
        return self._release(self._utf8.decode(piece))

    def finish(self) -> str:
        """What was held back, for the end of a completion that no stop string ended."""
        emitted = self._release(self._utf8.decode(b"", final=True))
        held, self._held = self._held, ""
        return emitted + held

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        start = self._stop_start()
        if start is not None:
            emitted, self._held = self._held[:start], ""
            self.stopped = True
            return emitted
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        emitted, self._held = self._held[:cut], self._held[cut:]
        return emitted

    def _stop_start(self) -> int | None:
        """Where the stop string that was complete first begins."""
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
