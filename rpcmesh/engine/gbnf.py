"""GBNF, llama.cpp's notation for grammars, becomes flat rules. What a text matches is not decided here.

llama.cpp's own parser is not used, nor its matcher: both run in the process that serves everybody, and a grammar of
forty bytes ends it there (a rule that begins with itself behind an empty one) or fills its memory (two alternatives
that differ in their last letter only). Sizes are bounded here, and :mod:`rpcmesh.engine.grammar` bounds the matching.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import NoReturn

from rpcmesh.errors import RpcmeshError

TEXT_CHARS_MAX = 64 << 10
# After the repetitions are written out.
SYMBOLS_MAX = 50_000
REPEATS_MAX = 2_000
NESTING_MAX = 100

ROOT = "root"
CODE_POINT_MAX = 0x10FFFF

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([trn\\\"\[\]]))")
_REPEATS = re.compile(r"\{[ \t]*(\d{1,9})[ \t]*(?:(,)[ \t]*(\d{1,9})?[ \t]*)?\}")
_PLAIN_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}


class GrammarError(RpcmeshError):
    """The grammar is not valid, or more than what is allowed here."""


class Characters:
    """A set of code points, as ranges that neither touch nor overlap."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]], *, negated: bool = False) -> None:
        """``ranges`` include both ends."""
        merged: list[list[int]] = []
        for start, end in sorted(ranges):
            if merged and start <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        if negated:
            edges = [-1, *(edge for each in merged for edge in each), CODE_POINT_MAX + 1]
            gaps = zip(edges[::2], edges[1::2], strict=True)
            merged = [[before + 1, after - 1] for before, after in gaps if before + 1 < after]
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]

    def meets(self, low: int, high: int) -> bool:
        """Whether one of the code points from ``low`` to ``high`` is in the set."""
        before = bisect_right(self._starts, high)
        return before > 0 and self._ends[before - 1] >= low


# A rule's number, or the code points that one character may have.
Symbol = int | Characters


@dataclass(frozen=True, slots=True)
class Rules:
    """``symbols`` holds all alternatives one behind the other, each ended by None; ``starts`` where a rule's begin."""

    symbols: tuple[Symbol | None, ...]
    starts: tuple[tuple[int, ...], ...]
    root: int


def parse_gbnf(text: str) -> Rules:
    """The rules of a grammar. Raises :class:`GrammarError`, which says where the text is wrong, or which rule is."""
    if len(text) > TEXT_CHARS_MAX:
        raise GrammarError(f"the grammar has {len(text)} characters: at most {TEXT_CHARS_MAX} are allowed")
    parser = _Parser(text)
    parser.parse()
    return _flat(parser)


def literal(text: str) -> str:
    """``text`` as GBNF writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


class _Parser:
    """Recursive descent; ``alternatives`` of a rule are None until it is defined."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._nesting = 0
        self._n_symbols = 0
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.alternatives: list[list[list[Symbol]] | None] = []

    def parse(self) -> None:
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            self._rule()
            self._skip(_SPACE_AND_LINES)

    def _rule(self) -> None:
        name = self._take(_NAME, "a rule's name")[0]
        rule = self._named(name)
        self._skip(_SPACE)
        self._take(re.compile("::="), "'::='")
        self._skip(_SPACE_AND_LINES)
        self.alternatives[rule] = self._alternatives(_SPACE)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            self._refuse("the end of the rule")

    def _alternatives(self, space: re.Pattern[str]) -> list[list[Symbol]]:
        found = [self._sequence(space)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            found.append(self._sequence(space))
        return found

    def _sequence(self, space: re.Pattern[str]) -> list[Symbol]:
        sequence: list[Symbol] = []
        while (item := self._item()) is not None:
            self._skip(space)
            while (repeats := self._repeats()) is not None:
                item = self._repeated(item, *repeats)
                self._skip(space)
            sequence += item
            self._count(len(item))
        return sequence

    def _item(self) -> list[Symbol] | None:
        """What a repetition sign behind it would repeat. None at the end of a sequence."""
        match self._text[self._at : self._at + 1]:
            case '"':
                self._at += 1
                return [Characters([(code, code)]) for code in self._until('"')]
            case "[":
                return [self._set()]
            case ".":
                self._at += 1
                return [Characters([(0, CODE_POINT_MAX)])]
            case "(":
                return [self._group()]
            case "<" | "!":
                raise GrammarError(f"tokens in a grammar, as in {self._here()}, are not supported here: write text")
            case _:
                name = _NAME.match(self._text, self._at)
                if name is None:
                    return None
                self._at = name.end()
                return [self._named(name[0])]

    def _group(self) -> int:
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            raise GrammarError(f"the grammar has more than {NESTING_MAX} groups in each other")
        self._at += 1
        self._skip(_SPACE_AND_LINES)
        rule = self._added(self._alternatives(_SPACE_AND_LINES))
        self._take(re.compile(r"\)"), "')'")
        self._nesting -= 1
        return rule

    def _set(self) -> Characters:
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        ranges: list[tuple[int, int]] = []
        start = self._at
        while not self._text.startswith("]", self._at):
            first = last = self._character()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._character()
            if last < first:
                raise GrammarError(f"the range {self._text[start : self._at]!r} in the grammar is empty")
            ranges.append((first, last))
        self._at += 1
        if not ranges and not negated:
            raise GrammarError("an empty set '[]' in the grammar matches nothing")
        return Characters(ranges, negated=negated)

    def _until(self, quote: str) -> list[int]:
        codes: list[int] = []
        while not self._text.startswith(quote, self._at):
            codes.append(self._character())
        self._at += 1
        return codes

    def _character(self) -> int:
        if self._at >= len(self._text):
            self._refuse("a closing quote or bracket")
        if self._text[self._at] != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        escape = self._take(_ESCAPE, "a known escape")
        plain = escape[4]
        return ord(_PLAIN_ESCAPES.get(plain, plain)) if plain else int(escape[1] or escape[2] or escape[3], 16)

    def _repeats(self) -> tuple[int, int | None] | None:
        match self._text[self._at : self._at + 1]:
            case "*":
                bounds: tuple[int, int | None] = (0, None)
            case "+":
                bounds = (1, None)
            case "?":
                bounds = (0, 1)
            case "{":
                found = self._take(_REPEATS, "a repetition such as '{2,5}'")
                least = int(found[1])
                most = least if found[2] is None else None if found[3] is None else int(found[3])
                if max(least, most or 0) > REPEATS_MAX:
                    raise GrammarError(f"the grammar's repetition {found[0]!r} exceeds {REPEATS_MAX}")
                if most is not None and most < least:
                    raise GrammarError(f"the grammar's repetition {found[0]!r} is empty")
                return least, most
            case _:
                return None
        self._at += 1
        return bounds

    def _repeated(self, item: list[Symbol], least: int, most: int | None) -> list[Symbol]:
        """``x{2,4}`` is ``x x (x (x)?)?`` and ``x*`` is a rule that may go on with itself."""
        one = item if len(item) == 1 else [self._added([item])]
        self._count(len(item) + least + 2 * ((most or 1) - least if most is not None else 1))
        tail: list[Symbol] = []
        if most is None:
            rule = self._added([])
            self.alternatives[rule] = [[*one, rule], []]
            tail = [rule]
        else:
            for _ in range(most - least):
                tail = [self._added([[*one, *tail], []])]
        return one * least + tail

    def _named(self, name: str) -> int:
        number = self.numbers.get(name)
        if number is None:
            number = self.numbers[name] = len(self.names)
            self.names.append(name)
            self.alternatives.append(None)
        return number

    def _added(self, alternatives: list[list[Symbol]]) -> int:
        self.names.append(f"a group before character {self._at}")
        self.alternatives.append(alternatives)
        return len(self.names) - 1

    def _count(self, n_symbols: int) -> None:
        self._n_symbols += n_symbols
        if self._n_symbols > SYMBOLS_MAX:
            raise GrammarError(f"the grammar has more than {SYMBOLS_MAX} symbols once its repetitions are written out")

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _take(self, pattern: re.Pattern[str], wanted: str) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._refuse(wanted)
        self._at = found.end()
        return found

    def _refuse(self, wanted: str) -> NoReturn:
        line = self._text.count("\n", 0, self._at) + 1
        raise GrammarError(f"line {line} of the grammar has {self._here()} where {wanted} is expected")

    def _here(self) -> str:
        return repr(self._text[self._at : self._at + 20]) if self._at < len(self._text) else "its end"


def _flat(parser: _Parser) -> Rules:
    if ROOT not in parser.numbers:
        raise GrammarError(f"the grammar has no rule {ROOT!r}")
    alternatives: list[list[list[Symbol]]] = []
    for name, defined in zip(parser.names, parser.alternatives, strict=True):
        if defined is None:
            raise GrammarError(f"the grammar names a rule {name!r} and does not define it")
        alternatives.append(defined)
    _refuse_left_recursion(parser.names, alternatives)
    symbols: list[Symbol | None] = []
    starts: list[tuple[int, ...]] = []
    for rule in alternatives:
        begins: list[int] = []
        for alternative in rule:
            begins.append(len(symbols))
            symbols += [*alternative, None]
        starts.append(tuple(begins))
    return Rules(tuple(symbols), tuple(starts), parser.numbers[ROOT])


def _refuse_left_recursion(names: Sequence[str], rules: Sequence[list[list[Symbol]]]) -> None:
    """A rule that begins with itself, perhaps behind rules that match nothing, could be expanded without end."""
    empty = _may_be_empty(rules)
    begins = TopologicalSorter[int]()
    for number, rule in enumerate(rules):
        for alternative in rule:
            for symbol in alternative:
                if not isinstance(symbol, int):
                    break
                begins.add(number, symbol)
                if symbol not in empty:
                    break
    try:
        begins.prepare()
    except CycleError as error:
        cycle: list[int] = error.args[1]
        named = next((names[rule] for rule in cycle if " " not in names[rule]), names[cycle[0]])
        raise GrammarError(f"the grammar's rule {named!r} begins with itself, which is not supported") from error


def _may_be_empty(rules: Sequence[list[list[Symbol]]]) -> set[int]:
    """The rules that can match the empty text, found by going from those that plainly do to those that name them."""
    users: dict[int, list[tuple[int, int]]] = {}
    # How many symbols of an alternative are not yet known to be possibly empty.
    missing: dict[tuple[int, int], int] = {}
    todo: list[int] = []
    for number, rule in enumerate(rules):
        for place, alternative in enumerate(rule):
            missing[number, place] = len(alternative)
            if not alternative:
                todo.append(number)
            for symbol in alternative:
                if isinstance(symbol, int):
                    users.setdefault(symbol, []).append((number, place))
    empty: set[int] = set()
    while todo:
        rule_number = todo.pop()
        if rule_number in empty:
            continue
        empty.add(rule_number)
        for user in users.get(rule_number, ()):
            missing[user] -= 1
            if missing[user] == 0:
                todo.append(user[0])
    return empty
