"""Which token may come next under a grammar, and what has come so far. No llama.cpp, and no grammar's notation.

A pushdown automaton that follows all readings of the text at once, as llama.cpp's does. A reading is a stack of places
in the rules; stacks share their lower ends and are numbered, so that equal ones are the same number and a state is a
set of numbers. Everything a grammar can make it do is bounded: see the limits below.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from rpcmesh.engine.gbnf import GrammarError, Rules

# Readings of one text at the same time. JSON needs a handful; a grammar that doubles them with each letter has no end.
READINGS_MAX = 1_000
# Stacks that are looked at for one token, and that one answer may leave behind: some 0.1 s, and 60 MB.
WORK_MAX = 100_000
STACKS_MAX = 300_000
# Readings that are held against a character for one token, most of which lead nowhere: some 0.8 s.
LOOKS_MAX = 5_000_000
# Readings in the states that are remembered: some 60 MB.
REMEMBERED_MAX = 500_000

EMPTY = 0
State = frozenset[int]
NOWHERE: State = frozenset()


class Words:
    """The vocabulary's texts, sorted, so that those with one beginning lie together. Built once for a model."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        whole: list[tuple[str, int]] = []
        # Tokens that are no text by themselves: single bytes, for the most part.
        self.fragments: list[tuple[int, bytes]] = []
        for token, piece in pieces:
            if not piece:
                continue
            try:
                whole.append((piece.decode(), token))
            except UnicodeDecodeError:
                self.fragments.append((token, piece))
        whole.sort()
        self.texts = [text for text, _ in whole]
        self.tokens = [token for _, token in whole]


class Matcher:
    """One answer under one grammar. Raises :class:`GrammarError` where following it would take too much."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        # A stack is a place in the rules' symbols and the stack below it. Number 0 is the empty one: the text may end.
        self._stacks: list[tuple[int, int]] = [(-1, -1)]
        self._numbers: dict[tuple[int, int], int] = {}
        self._next: dict[tuple[State, str], State] = {}
        self._n_remembered = 0
        self._work = 0
        self._looks = 0
        self._state = self._settled(self._pushed(start, EMPTY) for start in rules.starts[rules.root])
        # The bytes of a code point that is not complete.
        self._pending = b""

    @property
    def may_end(self) -> bool:
        """Whether what has come is a whole text of the grammar."""
        return EMPTY in self._state and not self._pending

    def allows(self, piece: bytes) -> bool:
        """Whether these bytes may come next. None at all are not allowed: an answer of such would not end."""
        return bool(piece) and bool(self._after(piece)[0])

    def accept(self, piece: bytes) -> None:
        """Go on behind these bytes. Raises :class:`GrammarError` when the grammar does not allow them."""
        state, pending = self._after(piece)
        if not piece or not state:
            raise GrammarError(f"the grammar does not allow {piece!r} here")
        self._state, self._pending = state, pending
        self._work = self._looks = 0

    def allowed(self, words: Words) -> list[int]:
        """All tokens of a vocabulary that may come next, in no order."""
        tokens = [token for token, piece in words.fragments if self.allows(piece)]
        if self._pending:
            # What completes a code point is a fragment. A text would have to begin with a continuation byte.
            return tokens
        tokens += self._walk(words.texts, words.tokens)
        return tokens

    def _walk(self, texts: Sequence[str], tokens: Sequence[int]) -> Iterator[int]:
        """Sorted texts share beginnings: each is followed from where it departs from the one before it."""
        path = [self._state]
        before = ""
        at = 0
        while at < len(texts):
            text = texts[at]
            shared = _n_shared(before, text)
            del path[shared + 1 :]
            before = text
            for depth in range(len(path) - 1, len(text)):
                state = self._step(path[-1], text[depth])
                if not state:
                    # Nothing that begins like this is allowed.
                    at = _behind(texts, text[: depth + 1], at)
                    break
                path.append(state)
            else:
                yield tokens[at]
                at += 1

    def _after(self, piece: bytes) -> tuple[State, bytes]:
        data = self._pending + piece
        try:
            text, n_whole = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError:
            return NOWHERE, b""
        state = self._state
        for character in text:
            state = self._step(state, character)
            if not state:
                return NOWHERE, b""
        pending = data[n_whole:]
        if pending and not self._meets(state, *_completions(pending)):
            return NOWHERE, b""
        return state, pending

    def _step(self, state: State, character: str) -> State:
        known = self._next.get((state, character))
        if known is not None:
            return known
        code = ord(character)
        following = self._settled(
            self._pushed(place + 1, below) for place, below in self._tops(state) if self._matches(place, code, code)
        )
        self._n_remembered += 1 + len(following)
        if self._n_remembered > REMEMBERED_MAX:
            self._next.clear()
            self._n_remembered = 0
        self._next[state, character] = following
        return following

    def _meets(self, state: State, low: int, high: int) -> bool:
        return any(self._matches(place, low, high) for place, _ in self._tops(state))

    def _tops(self, state: State) -> Iterator[tuple[int, int]]:
        self._looks += len(state)
        if self._looks > LOOKS_MAX:
            raise GrammarError("the grammar is too ambiguous: too many readings are held against every token")
        return (self._stacks[stack] for stack in state if stack != EMPTY)

    def _matches(self, place: int, low: int, high: int) -> bool:
        symbol = self._rules.symbols[place]
        return not isinstance(symbol, int) and symbol is not None and symbol.meets(low, high)

    def _settled(self, stacks: Iterable[int]) -> State:
        """Rules on top are opened until each stack has characters on top or is empty."""
        todo = list(stacks)
        seen: set[int] = set()
        settled: set[int] = set()
        while todo:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            self._work += 1
            if self._work > WORK_MAX or len(settled) > READINGS_MAX:
                raise GrammarError("the grammar is too ambiguous: a text can be read in too many ways at once")
            place, below = self._stacks[stack]
            symbol = self._rules.symbols[place] if stack != EMPTY else None
            if isinstance(symbol, int):
                rest = self._pushed(place + 1, below)
                todo += [self._pushed(start, rest) for start in self._rules.starts[symbol]]
            else:
                settled.add(stack)
        return frozenset(settled)

    def _pushed(self, place: int, below: int) -> int:
        """The stack with this place on top. The end of an alternative leaves what is below: loops stay flat."""
        if self._rules.symbols[place] is None:
            return below
        number = self._numbers.get((place, below))
        if number is None:
            if len(self._stacks) >= STACKS_MAX:
                raise GrammarError("the answer is too deep for its grammar: no more can be kept of it")
            number = self._numbers[place, below] = len(self._stacks)
            self._stacks.append((place, below))
        return number


def _behind(texts: Sequence[str], beginning: str, start: int) -> int:
    """The place behind the texts that begin so: sorted, they lie together from ``start`` on."""
    return bisect_right(texts, beginning, start, key=lambda text: text[: len(beginning)])


def _n_shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    n_least = min(len(one), len(other))
    return next((n for n in range(n_least) if one[n] != other[n]), n_least)


def _completions(pending: bytes) -> tuple[int, int]:
    """The lowest and the highest code point that begin with these bytes: one to three of a valid UTF-8 sequence."""
    lead = pending[0]
    n_bytes, bits, least = (2, lead & 0x1F, 0x80) if lead < 0xE0 else (3, lead & 0x0F, 0x800)
    if lead >= 0xF0:
        n_bytes, bits, least = 4, lead & 0x07, 0x10000
    for byte in pending[1:]:
        bits = bits << 6 | byte & 0x3F
    shift = 6 * (n_bytes - len(pending))
    low = bits << shift
    return max(low, least), low | (1 << shift) - 1
