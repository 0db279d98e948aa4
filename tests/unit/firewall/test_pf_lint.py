"""What macOS's pf would refuse, or take otherwise than meant, is found on its line; what it accepts is not."""

from __future__ import annotations

import firewall_policies
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.firewall import pf
from rpcmesh.firewall.pf_lint import Finding, lint

TABLES = "table <peers> persist { 10.0.0.1 }\ntable <abuse> persist\n"
RULE = "pass in quick on en0 proto tcp from <peers> to any port 7443 flags S/SA keep state"


@pytest.mark.parametrize(
    "rule",
    [
        RULE,
        RULE.replace("on en0", "on { en0, bridge0 }"),
        RULE.replace("on en0", "on ! lo0"),
        RULE.replace("quick", "log (all, user) quick"),
        RULE.replace("quick", "quick log"),
        RULE.replace("<peers>", "{ 10.0.0.0/8 fd00::1 }"),
        RULE.replace("<peers>", "! <peers>"),
        RULE.replace("port 7443", "port = 7443"),
        RULE.replace("port 7443", "port { 7443, 8443 }"),
        RULE.replace("proto tcp", "inet6 proto tcp"),
        RULE + ' (max-src-conn-rate 30/10, overload <abuse> flush global) label "of a sloppy match"',
        RULE + " (source-track rule max-src-nodes 64 if-bound)",
        RULE + " # match nothing once",
        "block return in proto tcp from any to any port 7443 user 478 flags S/SA",
        "block drop in quick proto tcp from <abuse> to any port 7443",
        "block drop in proto udp from any to any port 7443",
        "block drop in quick proto tcp from any to any port 7443",
        "block return out quick proto tcp from any to <peers> port { 7443 7444 }",
        "block return out quick proto tcp from any port 7443 to ! <peers>",
        "pass in quick proto tcp from <peers> to any port 7443 flags A/SA no state",
        "pass quick on lo0 all",
        'anchor "rpcmesh/more"',
    ],
)
def test_what_pf_accepts_is_not_found(rule: str) -> None:
    assert lint(f"{TABLES}{rule}\n") == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        # Words of other pf's.
        ("match in all", "'match' is not in macOS's pf"),
        (RULE + " rdr-to 10.0.0.2", "'rdr-to' is not in macOS's pf"),
        (RULE + " nat-to en0", "'nat-to' is not in macOS's pf"),
        (RULE + " received-on en0", "'received-on' is not in macOS's pf"),
        (RULE + " once", "'once' is not in macOS's pf"),
        (RULE + " max-pkt-rate 100/10", "'max-pkt-rate' is not in macOS's pf"),
        (RULE + " divert-to 127.0.0.1 port 700", "'divert-to' is not in macOS's pf"),
        (RULE + " (sloppy)", "'sloppy' is not in macOS's pf"),
        (RULE + " (max-src-conn 5, pflow)", "unknown word 'pflow'"),
        ('anchor "x" { pass all }', "braces"),
        ("anchor x", "quoted"),
        (RULE + " reply-to en0", "unknown word 'reply-to'"),
        ("reject in all", "unknown word 'reject'"),
        ("pass inn all", "unknown word 'inn'"),
        ("pass in en0 all", "unknown word 'en0'"),
        # Not in an anchor of filter rules.
        ("set skip on lo0", "'set' changes the options of the whole machine"),
        ("rdr pass on lo0 proto tcp from any to any port 80 -> 127.0.0.1", "'rdr' translates"),
        ("nat on en0 from any to any -> (en0)", "'nat' translates"),
        ("scrub in all", "'scrub' normalizes"),
        ('load anchor "x" from "/etc/x"', "another file"),
        # Taken otherwise than meant.
        (RULE.replace(" flags S/SA", ""), "pass without flags S/SA"),
        (RULE.replace("S/SA", "any"), "write flags S/SA"),
        (RULE.replace("S/SA", "S/SAFR"), "write flags S/SA"),
        ("block out proto tcp from any to any port 7443", "drops replies"),
        ("block in all", "drops replies"),
        ("block in from <abuse> to any", "drops replies"),
        (RULE.replace("on en0", "on en"), "'en' is not the name of one interface"),
        # Whole loads fail.
        (RULE.replace("7443", "7000:7100"), "range"),
        (RULE.replace("7443", "7000 >< 7100"), "range"),
        (RULE.replace("7443", "> 1023"), "range"),
        (RULE.replace("7443", "!= 22"), "range"),
        (RULE.replace("7443", "https"), "'https' is not a port number"),
        (RULE.replace("7443", "65536"), "'65536' is not a port number"),
        (RULE + " user _rpcmesh", "'_rpcmesh' is not a numeric id"),
        (RULE + " user { 478, root }", "'root' is not a numeric id"),
        (RULE.replace("any port", "bridge9 port"), "'bridge9' is not an address"),
        (RULE.replace("<peers>", "coordinator.lan"), "'coordinator.lan' is not an address"),
        (RULE.replace("<peers>", "10.0.0.0/33"), "prefix length"),
        (RULE.replace("<peers>", "<friends>"), "table 'friends' is not defined"),
        (RULE + " (max-src-conn 5, overload <bad>)", "table 'bad' is not defined"),
        (RULE.replace("7443", "$tls_port"), "macro '$tls_port' is not defined"),
        (RULE.replace("proto tcp ", ""), "belong to proto tcp"),
        (RULE + " (overload <abuse>)", "overload needs"),
        (RULE + " (max-src-nodes 5)", "needs source-track"),
        (RULE + " (max-src-conn 5", "the line ends"),
        (RULE + " (max-src-conn many)", "unknown word 'many'"),
        (RULE.replace("pass", "block drop"), "keeps no state"),
        (RULE + f' label "{"x" * 64}"', "label"),
        (RULE + ' label "x', "not closed"),
        (RULE.replace("on en0", "on { en0"), "'proto' is not the name of one interface"),
        (RULE + " ; pass all", "unknown word ';'"),
        ("pass = 7", "cannot be the name of a macro"),
        ("port = { 7443 }", "cannot be the name of a macro"),
        ("mesh_if = { en0 en1 }", "must be quoted"),
        ("table <new> persist", "tables come before filter rules"),
    ],
)
def test_what_people_get_wrong_is_found_on_its_line(rule: str, said: str) -> None:
    found = lint(f"{TABLES}{RULE}\n{rule}\n")
    assert [finding.line for finding in found] == [4]
    assert said in found[0].message


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("table peers persist", "'peers'"),
        (f"table <{'x' * 32}> persist", "cannot be the name of a table"),
        ("table <peers> const { 10.0.0.1 }", "const"),
        ("table <peers> counters", "'counters'"),
        ("table <peers> { 10.0.0.1, }", "'}'"),
        ("table <peers> { 10.0.0.1", "the line ends"),
        ("table <peers> { node.lan }", "'node.lan'"),
        ("table <peers> { <abuse> }", "'<'"),
    ],
)
def test_a_wrong_table_is_found(table: str, said: str) -> None:
    found = lint(f"{table}\n")
    assert len(found) == 1
    assert said in found[0].message


def test_a_macro_stands_for_what_its_value_reads_as() -> None:
    macros = 'ifs = "{ en0 en1 }"\nport_a = 7443\n'
    assert lint(TABLES + macros + RULE.replace("en0", "$ifs").replace("7443", "$port_a")) == []
    assert lint(TABLES + 'p = "1:9"\n' + RULE.replace("7443", "$p"))[0].line == 4


def test_a_macro_in_quotes_is_only_text() -> None:
    assert lint(f'{TABLES}{RULE} label "$nobody"') == []


def test_a_continued_rule_is_found_on_its_first_line() -> None:
    assert [finding.line for finding in lint("\n# pf\npass in \\\n  quick \\\n  once\n\nmatch\n")] == [3, 7]


def test_a_comment_that_swallows_the_next_line_is_found() -> None:
    found = lint("# the mesh \\\nblock in all\n")
    assert found == [Finding(1, "the comment's last character is a backslash: the next line is comment too")]


def test_each_wrong_statement_is_one_finding() -> None:
    assert [finding.line for finding in lint("match once\nset skip on lo0\npass quick on lo0 all\nnat\n")] == [1, 2, 4]


PIECES = [
    *'{}()<>!=/,$#"\\\n 17',
    "pass ",
    "in ",
    "proto tcp ",
    "from ",
    "port ",
    "user ",
    "table ",
    "any ",
    "keep state ",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_at_all_is_a_crash(text: str) -> None:
    for finding in lint(text):
        assert 1 <= finding.line <= text.count("\n") + 1
        assert finding.message


@given(st.data())
def test_a_rule_file_cut_anywhere_is_no_crash(data: st.DataObject) -> None:
    text = pf.render(firewall_policies.KNOWN["node-stock-worker"])
    lint(text[: data.draw(st.integers(0, len(text)))])
