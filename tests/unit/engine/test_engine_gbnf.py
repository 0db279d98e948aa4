"""Grammars in GBNF: what they match, and that a bad or a boundless one is refused with its reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcmesh.engine.gbnf import SYMBOLS_MAX, TEXT_CHARS_MAX, GrammarError, literal, parse_gbnf
from rpcmesh.engine.grammar import Matcher, Words

CHESS = """# as llama.cpp's own examples have them
root   ::= "1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")+
move   ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn   ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?"""


def reads(grammar: str, data: bytes, at_once: int = 1) -> bool:
    """Whether the grammar describes the text, given in pieces of so many bytes."""
    matcher = Matcher(parse_gbnf(grammar))
    for start in range(0, len(data), at_once):
        piece = data[start : start + at_once]
        if not matcher.allows(piece):
            return False
        matcher.accept(piece)
    return matcher.may_end


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        ('root ::= "abc"', ["abc"], ["", "ab", "abcd", "abd"]),
        ('root ::= ""', [""], ["a"]),
        ('root ::= "a" | "ab" | ', ["", "a", "ab"], ["b", "abb"]),
        ("root ::= [a-cx]", ["a", "b", "c", "x"], ["d", "aa"]),
        ("root ::= [^a-c]", ["d", "é", "\n"], ["a", "b", ""]),
        ("root ::= [a-]", ["a", "-"], ["b"]),
        ("root ::= [^]", ["a"], [""]),
        ("root ::= .", ["a", "\U0010ffff"], ["", "ab"]),
        ('root ::= "a"*', ["", "a", "aaaa"], ["b", "aab"]),
        ('root ::= "ab"+', ["ab", "abab"], ["", "aba"]),
        ('root ::= "a"?', ["", "a"], ["aa"]),
        ('root ::= "ab"{2}', ["abab"], ["ab", "ababab"]),
        ('root ::= "a"{2,}', ["aa", "aaaaa"], ["a"]),
        ('root ::= "a"{1,3} "b"', ["ab", "aaab"], ["b", "aaaab"]),
        ('root ::= "a"{0,0} "b"', ["b"], ["ab"]),
        ('root ::= ("a" | "b")* "c"', ["c", "abac"], ["ab"]),
        ('root ::= (\n "a" # why\n | "b"\n) x\nx ::= "c"', ["ac", "bc"], ["a"]),
        ('root ::= "(" root ")" | ""', ["", "(())"], ["(()", "())"]),
        (r'root ::= "\x41\u00e9\U0001F44B\t\n\r\\\"\[\]"', ['Aé👋\t\n\r\\"[]'], ["A"]),
        (r"root ::= [\]\\]", ["]", "\\"], ["["]),
        ("root ::= [a-c-e]", ["a", "-", "e"], ["d"]),
        (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n"], ["1. e4 e5\n", "1. e9"]),
        # Alternatives that differ only later.
        ('root ::= "ab" "c" | "a" "bd"', ["abc", "abd"], ["ab"]),
    ],
)
def test_a_grammar_describes_its_texts_and_no_others(grammar: str, yes: list[str], no: list[str]) -> None:
    for at_once in (1, 2, 100):
        assert [reads(grammar, text.encode(), at_once) for text in yes] == [True] * len(yes)
        assert [reads(grammar, text.encode(), at_once) for text in no] == [False] * len(no)


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ("", "no rule 'root'"),
        ('x ::= "a"', "no rule 'root'"),
        ("root ::= y", "'y' and does not define it"),
        ('root = "a"', "line 1"),
        ('root ::= "a"\nx ::= )', "line 2"),
        ('root ::= "a', "its end"),
        ('root ::= ("a"', "')'"),
        ("root ::= [a", "closing"),
        ("root ::= []", "empty set"),
        ("root ::= [z-a]", "'z-a'"),
        (r'root ::= "\q"', "escape"),
        ("root ::= *", "the end of the rule"),
        ('root ::= "a"{2,1}', "'{2,1}'"),
        ('root ::= "a"{x}', "repetition"),
        ("root ::= <[5]>", "not supported"),
        ("root ::= !<think>", "not supported"),
        ('root ::= root "a" | "b"', "begins with itself"),
        ('root ::= x "a"\nx ::= y\ny ::= root | "b"', "begins with itself"),
        # Behind rules that match nothing, seen only at the third look.
        ('root ::= x root "a" | "b"\nx ::= y\ny ::= z z\nz ::= ""', "begins with itself"),
        ('root ::= ("a"*)*', "begins with itself"),
        ('root ::= "a"{0,100000}', "exceeds 2000"),
        ('root ::= "a"{100000}', "exceeds 2000"),
        ("root ::= " + '"a"{2000} ' * 26, f"more than {SYMBOLS_MAX} symbols"),
        ("root ::= " + '"a"{0,2000} ' * 13, f"more than {SYMBOLS_MAX} symbols"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "groups in each other"),
        ("root ::= " + "(" * 100_000, f"at most {TEXT_CHARS_MAX}"),
    ],
)
def test_a_grammar_that_is_not_valid_or_has_no_bound_is_refused_with_its_reason(grammar: str, says: str) -> None:
    with pytest.raises(GrammarError) as caught:
        Matcher(parse_gbnf(grammar))
    assert says in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "-" root "x" | "-" root "y" | "-"',
        'root ::= ("-"? "-"? "-"? "-"?){2000}',
        "\n".join(f'r{n} ::= r{n + 1} "x" | r{n + 1} "y"' for n in range(40)) + '\nr40 ::= "-"\nroot ::= r0',
    ],
)
def test_a_grammar_whose_readings_double_is_given_up_before_it_fills_the_memory(grammar: str) -> None:
    with pytest.raises(GrammarError, match="too ambiguous"):
        reads(grammar, b"-" * 64)


def test_readings_that_lead_nowhere_are_not_held_against_a_whole_vocabulary() -> None:
    names = [f"r{n}" for n in range(450)]
    rules = [f'{name} ::= "b" {name} | "a"' for name in names]
    matcher = Matcher(parse_gbnf("\n".join((f'root ::= "-" ({" | ".join(names)})', *rules))))
    matcher.accept(b"-")
    words = Words((n, chr(0x4E00 + n).encode()) for n in range(20_000))

    with pytest.raises(GrammarError, match="too many readings"):
        matcher.allowed(words)


def test_the_last_code_point_of_all_may_be_a_token() -> None:
    last = "\U0010ffff".encode()
    matcher = Matcher(parse_gbnf('root ::= "a"'))
    assert matcher.allowed(Words([(1, last), (2, b"a"), (3, last * 2)])) == [2]


def test_a_loop_keeps_no_stack_however_long_it_runs() -> None:
    matcher = Matcher(parse_gbnf('root ::= ("a" | "b")*'))
    for _ in range(100_000):
        matcher.accept(b"ab")
    assert matcher.may_end


def test_an_answer_that_nests_without_end_is_given_up() -> None:
    with pytest.raises(GrammarError, match="too deep"):
        reads('root ::= "(" root ")" | "x"', b"(" * 1_000_000, at_once=1_000)


def test_bytes_that_are_not_allowed_change_nothing() -> None:
    matcher = Matcher(parse_gbnf('root ::= "ab"'))
    with pytest.raises(GrammarError, match="does not allow b'x'"):
        matcher.accept(b"x")
    matcher.accept(b"ab")
    assert matcher.may_end


@pytest.mark.parametrize(
    ("grammar", "before", "piece", "allowed"),
    [
        ('root ::= "é"', b"", b"\xc3", True),
        ('root ::= "é"', b"", b"\xc4", False),
        ('root ::= "é"', b"\xc3", b"\xa9", True),
        ('root ::= "é"', b"\xc3", b"\xa8", False),
        ('root ::= "é"', b"\xc3", b"a", False),
        ('root ::= "a"', b"", b"\xc3", False),
        ("root ::= [^a]", b"", b"\xf0\x9f", True),
        ("root ::= [\U0001f44b]", b"\xf0\x9f", b"\x91", True),
        ("root ::= [\U0001f44b]", b"\xf0\x9f", b"\x92", False),
        ("root ::= [\u0800-\u0900]", b"", b"\xe0", True),
        ("root ::= [\x00-\u07ff]", b"", b"\xe0", False),
        ("root ::= .", b"", b"\xff", False),
        ("root ::= .", b"", b"", False),
    ],
)
def test_half_a_code_point_is_allowed_where_the_rest_could_be(
    grammar: str, before: bytes, piece: bytes, allowed: bool
) -> None:
    matcher = Matcher(parse_gbnf(grammar))
    if before:
        matcher.accept(before)
    assert matcher.allows(piece) is allowed


def test_half_a_code_point_is_no_end() -> None:
    matcher = Matcher(parse_gbnf("root ::= .*"))
    matcher.accept(b"a\xc3")
    assert not matcher.may_end


PIECES = st.lists(
    st.sampled_from([b"a", b"b", b"ab", b"aab", b"ba", b"c", b"\xc3", b"\xa9", "é".encode(), "éa".encode(), b"", b"("]),
    unique=True,
)
GRAMMARS = st.sampled_from(
    ['root ::= "a"* "b"', "root ::= [^b]+", 'root ::= "é" "a" | "ab"', 'root ::= "(" root ")" | "a"', "root ::= .*"]
)


@given(GRAMMARS, PIECES, st.lists(st.sampled_from([b"a", b"ab", b"\xc3", b"\xa9", b"("]), max_size=3))
def test_going_through_the_vocabulary_finds_what_trying_each_token_finds(
    grammar: str, pieces: list[bytes], before: list[bytes]
) -> None:
    matcher = Matcher(parse_gbnf(grammar))
    for piece in before:
        if matcher.allows(piece):
            matcher.accept(piece)
    tried = [token for token, piece in enumerate(pieces) if matcher.allows(piece)]
    assert sorted(matcher.allowed(Words(enumerate(pieces)))) == tried


@given(st.text(st.characters(codec="utf-8")))
def test_a_literal_matches_its_text(text: str) -> None:
    assert reads(f"root ::= {literal(text)}", text.encode(), at_once=7)


@settings(deadline=None)
@given(st.text(alphabet='root:=|()[]{}*+?"\\^-.,a1 \n#', max_size=60))
def test_any_text_is_a_grammar_or_refused(text: str) -> None:
    try:
        matcher = Matcher(parse_gbnf("root ::= " + text))
    except GrammarError:
        return
    assert matcher.allows(b"a") in (True, False)


def test_limits_leave_room_for_what_people_write() -> None:
    assert reads('root ::= ([a-z]{1,20} " "){1,200}', b"hello world " * 50, 12)
    assert reads('root ::= ([^ ]+ " "?)+', b"hello world " * 500, 12)
