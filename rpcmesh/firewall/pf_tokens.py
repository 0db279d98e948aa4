"""pf's lexer: a rule file as statements of tokens, with macros put in. What a statement means is not known here."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_TOKEN = re.compile(
    r'(?P<space>(?:[ \t]|\\\n)+)|"(?P<text>[^"\n]*)"|(?P<mark>[{}()<>!=/,])|(?P<word>[^\s{}()<>!=/,"#\\]+)'
)


class Token(msgspec.Struct, frozen=True):
    """``quoted`` text is never a keyword."""

    text: str
    quoted: bool = False


class Statement(msgspec.Struct, frozen=True):
    """One logical line. ``line`` is where it begins; ``wrong`` says why it could not be read to its end."""

    line: int
    tokens: tuple[Token, ...]
    wrong: str = ""


def statements(text: str) -> Iterator[Statement]:
    """Every line that says something, joined where it ends in a backslash. Macros are not put in yet."""
    for line, joined in _joined(text):
        tokens, wrong = tokenize(joined)
        if tokens or wrong:
            yield Statement(line=line, tokens=tokens, wrong=wrong)


def tokenize(text: str) -> tuple[tuple[Token, ...], str]:
    """The tokens of one logical line up to its comment, and what stopped the reading if something did."""
    found: list[Token] = []
    at = 0
    while at < len(text) and text[at] != "#":
        match = _TOKEN.match(text, at)
        if match is None:
            return tuple(found), 'a quote is not closed: "' if text[at] == '"' else f"unreadable character {text[at]!r}"
        if match["text"] is not None:
            found.append(Token(match["text"], quoted=True))
        elif match["space"] is None:
            found.append(Token(match["mark"] or match["word"]))
        at = match.end()
    if at < len(text) and "\\\n" in text[at:]:
        return tuple(found), "the comment's last character is a backslash: the next line is comment too"
    return tuple(found), ""


def expand(tokens: tuple[Token, ...], macros: dict[str, tuple[Token, ...]]) -> tuple[tuple[Token, ...], str]:
    """Put macros in place of ``$name``, and name the first one that is not defined."""
    found: list[Token] = []
    for token in tokens:
        if token.quoted or not token.text.startswith("$"):
            found.append(token)
        elif token.text[1:] in macros:
            found.extend(macros[token.text[1:]])
        else:
            return tuple(found), f"macro {token.text!r} is not defined above"
    return tuple(found), ""


def _joined(text: str) -> Iterator[tuple[int, str]]:
    first, held = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        if not held:
            first = number
        held += line
        if line.endswith("\\"):
            held += "\n"
            continue
        yield first, held
        held = ""
    if held:
        yield first, held
