"""One statement of pf, read word by word. What a word means is its reader's; what macOS's pf lacks is named here."""

from __future__ import annotations

import re
from collections.abc import Callable

from rpcmesh.firewall.pf_tokens import Token

# PF_TABLE_NAME_SIZE, less the closing NUL.
_TABLE_NAME_MAX = 31

# Words of later or other pf's, and ours that do not belong in an anchor: why each is refused.
NOT_HERE = {
    "match": "'match' is not in macOS's pf",
    "rdr-to": "'rdr-to' is not in macOS's pf",
    "nat-to": "'nat-to' is not in macOS's pf",
    "af-to": "'af-to' is not in macOS's pf",
    "received-on": "'received-on' is not in macOS's pf",
    "once": "'once' is not in macOS's pf",
    "max-pkt-rate": "'max-pkt-rate' is not in macOS's pf",
    "divert-to": "'divert-to' is not in macOS's pf",
    "sloppy": "'sloppy' is not in macOS's pf",
    "set": "'set' changes the options of the whole machine: not in an anchor",
    "include": "'include' makes the rules depend on another file",
    "nat": "'nat' translates addresses: the anchor is for filter rules",
    "rdr": "'rdr' translates addresses: the anchor is for filter rules",
    "binat": "'binat' translates addresses: the anchor is for filter rules",
    "scrub": "'scrub' normalizes packets: the anchor is for filter rules",
    "load": "'load anchor' makes the rules depend on another file",
}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class WrongError(Exception):
    """Why one statement cannot stand."""


class Words:
    """A cursor over one statement's tokens."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def take(self) -> Token | None:
        token = self.peek()
        self._at += 1
        return token

    def skip(self, *texts: str) -> bool:
        """Step over ``texts`` if they come next."""
        coming = self._tokens[self._at : self._at + len(texts)]
        if coming != tuple(map(Token, texts)):
            return False
        self._at += len(texts)
        return True

    def word(self, wanted: str) -> str:
        token = self.take()
        if token is None:
            raise WrongError(f"the line ends where {wanted} is wanted")
        if token.quoted:
            raise WrongError(f"a quoted {token.text!r} where {wanted} is wanted")
        return token.text

    def need(self, text: str) -> None:
        found = self.word(repr(text))
        if found != text:
            raise unknown(found, repr(text))

    def number(self, wanted: str, most: int = 2**32 - 1) -> int:
        text = self.word(wanted)
        if not (text.isascii() and text.isdigit()) or int(text) > most:
            raise unknown(text, wanted)
        return int(text)

    def table_name(self) -> str:
        self.need("<")
        name = self.word("the name of a table")
        if not NAME.fullmatch(name) or len(name) > _TABLE_NAME_MAX:
            raise WrongError(f"{name!r} cannot be the name of a table")
        self.need(">")
        return name

    def each(self, wanted: str, read: Callable[[], object]) -> None:
        """One item, or several in braces with or without commas."""
        if not self.skip("{"):
            read()
            return
        read()
        while not self.skip("}"):
            self.skip(",")
            if self.peek() is None:
                raise WrongError(f"the line ends inside a list where {wanted} or '}}' is wanted")
            read()

    def end(self) -> None:
        if (token := self.peek()) is not None:
            raise unknown(token.text, "the end of the line")


def unknown(text: str, wanted: str) -> WrongError:
    return WrongError(NOT_HERE.get(text, f"unknown word {text!r} where {wanted} is wanted"))
