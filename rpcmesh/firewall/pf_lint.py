"""What macOS's pf would refuse, or take otherwise than meant, in the text of our anchor. Reads text; runs nothing.

The grammar is OpenBSD 4.3's as far as an anchor of filter rules needs it; what it does not know is a finding.
"""

from __future__ import annotations

import re

import msgspec

from rpcmesh.firewall.pf_rule import Rule, host
from rpcmesh.firewall.pf_tokens import Token, expand, statements, tokenize
from rpcmesh.firewall.pf_words import NAME, NOT_HERE, Words, WrongError

_KEYWORDS = {"pass", "block", "in", "out", "on", "proto", "from", "to", "any", "all", "port", "user", "table", "anchor"}


class Finding(msgspec.Struct, frozen=True):
    line: int
    message: str


def lint(text: str) -> list[Finding]:
    """All that is wrong with ``text``, in its order, one finding a statement at most. Empty means acceptable."""
    anchor = _Anchor()
    found = []
    for statement in statements(text):
        try:
            if statement.wrong:
                raise WrongError(statement.wrong)
            anchor.take(statement.tokens)
        except WrongError as wrong:
            found.append(Finding(statement.line, str(wrong)))
    return found


class _Anchor:
    """What the lines so far have defined."""

    def __init__(self) -> None:
        self._macros: dict[str, tuple[Token, ...]] = {}
        self._tables: set[str] = set()
        self._filtering = False

    def take(self, tokens: tuple[Token, ...]) -> None:
        if len(tokens) > 1 and tokens[1] == Token("="):
            self._macro(tokens)
            return
        expanded, wrong = expand(tokens, self._macros)
        if wrong:
            raise WrongError(wrong)
        words = Words(expanded)
        first = words.word("a rule")
        if first in NOT_HERE:
            late = ", and it comes after a filter rule" if self._filtering and first in {"nat", "rdr", "binat"} else ""
            raise WrongError(NOT_HERE[first] + late)
        match first:
            case "table":
                self._table(words)
            case "anchor":
                self._filtering = True
                _anchor(words)
            case "pass" | "block":
                self._filtering = True
                Rule(words, first, self._tables).read()
            case _:
                raise WrongError(f"unknown word {first!r} at the start of a line")

    def _macro(self, tokens: tuple[Token, ...]) -> None:
        name = tokens[0].text
        if not NAME.fullmatch(name) or name in _KEYWORDS | NOT_HERE.keys():
            raise WrongError(f"{name!r} cannot be the name of a macro")
        value, wrong = expand(tokens[2:], self._macros)
        if wrong:
            raise WrongError(wrong)
        if not value or not all(token.quoted or re.fullmatch(r"[\w.:-]+", token.text) for token in value):
            raise WrongError(f"the value of macro {name!r} must be quoted")
        # pf reads the value again wherever the macro is used.
        inner = [_retokenize(token.text) for token in value]
        self._macros[name] = tuple(token for part in inner for token in part)

    def _table(self, words: Words) -> None:
        if self._filtering:
            raise WrongError("tables come before filter rules")
        name = words.table_name()
        while (token := words.peek()) is not None and token.text in {"persist", "const"}:
            if token.text == "const":
                raise WrongError(f"table {name!r} is const: its addresses could not be replaced")
            words.take()
        if words.peek() is not None:
            words.each("an address", lambda: host(words, self._tables, in_rule=False))
        words.end()
        self._tables.add(name)


def _anchor(words: Words) -> None:
    name = words.take()
    if name is None or not name.quoted:
        raise WrongError("the name of an anchor is quoted")
    if words.peek() == Token("{"):
        raise WrongError("rules in braces after an anchor's name are not in macOS's pf: load them with \"pfctl -a\"")
    words.end()


def _retokenize(text: str) -> tuple[Token, ...]:
    tokens, wrong = tokenize(text)
    if wrong:
        raise WrongError(wrong)
    return tokens
