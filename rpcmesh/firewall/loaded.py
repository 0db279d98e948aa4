"""What each tool is asked, and what its answers say about the rules that are loaded. Nothing here runs a tool."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from rpcmesh.firewall import nft, pf

Backend = Literal["pf", "nft"]
Argv = tuple[str, ...]
Answers = Mapping[str, str]


class Command(msgspec.Struct, frozen=True):
    argv: Argv
    stdin: str = ""


class Loaded(msgspec.Struct, frozen=True):
    """The rules in the kernel, as text that the tool would load again; without counters and addresses seen lately."""

    text: str
    # Why they have no effect, or not all of it, though they are there.
    obstacles: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``apply`` left behind: the digest of the rules it was given, and what the tool then said is loaded."""

    backend: Backend
    rules_sha256: str
    loaded: str
    # What pf gave for turning it on; it stays on until every such token is handed back.
    token: str = ""


class Question(msgspec.Struct, frozen=True):
    argv: Argv
    # A tool fails when what it is asked about does not exist; the answer is then empty.
    may_fail: bool = False


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """How one backend is loaded, read back and taken away."""

    check: Callable[[str], Command]
    load: Callable[[str], Command]
    # Loads what `read` found, in place of all that is there now.
    restore: Callable[[Loaded | None], Command]
    # Asked in this order.
    questions: Mapping[str, Question]
    read: Callable[[Answers], Loaded | None]
    # Turn the filter on, see which tokens hold it on, give one back. Empty where the filter is always on.
    enable: Argv = ()
    holders: Argv = ()
    release: Argv = ()


class Verdict(msgspec.Struct, frozen=True):
    # One clause for the admin, or empty: the rules are as meant.
    problem: str
    hint: str = ""


AS_MEANT = Verdict("")


def judge(found: Loaded | None, record: Record | None, rules: str) -> Verdict:
    """Compare what is loaded with ``rules``, the text that the settings mean now."""
    again = "rpcmesh firewall apply"
    if found is None:
        return Verdict("the firewall rules are not loaded", again)
    if record is None:
        return Verdict("firewall rules are loaded, but `rpcmesh firewall apply` did not load them for this home", again)
    if found.text != record.loaded:
        return Verdict("the loaded firewall rules were changed since they were applied (drift)", again)
    if record.rules_sha256 != digest(rules):
        return Verdict("the loaded firewall rules are from older settings", again)
    if found.obstacles:
        return Verdict(f"the firewall rules are loaded, but {found.obstacles[0]}", again)
    return AS_MEANT


def digest(rules: str) -> str:
    return hashlib.sha256(rules.encode()).hexdigest()


# nft

_NFT_TABLE = nft.TABLE.split()
# `add` first: the table that is deleted exists in any case, and all of it is one transaction.
_NFT_EMPTY = f"table {nft.TABLE}\ndelete table {nft.TABLE}\n"
_NFT_SET = re.compile(r"^\tset [^\n]* \{\n.*?^\t\}\n", re.MULTILINE | re.DOTALL)
_NFT_DYNAMIC = re.compile(r"^\t\tflags [^\n]*\bdynamic\b", re.MULTILINE)
_NFT_ELEMENTS = re.compile(r"^\t\telements = \{[^}]*\}\n", re.MULTILINE)


def nft_load(text: str) -> Command:
    return Command(("nft", "-f", "-"), text)


def nft_check(text: str) -> Command:
    return Command(("nft", "-c", "-f", "-"), text)


def nft_restore(former: Loaded | None) -> Command:
    return nft_load(_NFT_EMPTY + (former.text if former else ""))


def nft_read(answers: Answers) -> Loaded | None:
    # The listing in JSON is no better: nft 1.0.6 leaves the flag "dynamic" out of it.
    if f"table {nft.TABLE}" not in answers["tables"].splitlines():
        return None
    return Loaded(_NFT_SET.sub(_without_passing_elements, answers["table"]))


def _without_passing_elements(found: re.Match[str]) -> str:
    block = found[0]
    return _NFT_ELEMENTS.sub("", block) if _NFT_DYNAMIC.search(block) else block


# pf

_PF = ("pfctl", "-a", pf.ANCHOR)
_PF_PEERS, _PF_ABUSE = "rpcmesh_peers", "rpcmesh_abuse"
_PF_TOKEN = re.compile(r"^Token : ([0-9]+)\s*$", re.MULTILINE)


def pf_load(text: str) -> Command:
    return Command((*_PF, "-f", "-"), text)


def pf_check(text: str) -> Command:
    return Command((*_PF, "-nf", "-"), text)


def pf_restore(former: Loaded | None) -> Command:
    return pf_load(former.text) if former else Command((*_PF, "-F", "all"))


def pf_read(answers: Answers) -> Loaded | None:
    rules = answers["rules"]
    if not rules.strip():
        return None
    peers = sorted(answers["peers"].split())
    tables = f"table <{_PF_PEERS}> persist {{ {', '.join(peers)} }}\n" if peers else ""
    return Loaded(f"{tables}table <{_PF_ABUSE}> persist\n{rules}", tuple(_pf_obstacles(answers)))


def _pf_obstacles(answers: Answers) -> list[str]:
    found = []
    if not re.search(r"^Status: Enabled\b", answers["info"], re.MULTILINE):
        found.append("pf is off")
    if not re.search(r'^anchor "com\.apple/\*"', answers["main"], re.MULTILINE):
        found.append('the main rules of pf no longer have the line anchor "com.apple/*", which reaches them')
    # Many a pf.conf has "set skip on lo0". Only the rules for a stock worker keep anybody out there.
    if 'label "rpcmesh:worker-' in answers["rules"] and re.search(
        r"^lo0 \(skip\)", answers["interfaces"], re.MULTILINE
    ):
        found.append("pf skips lo0")
    return found


def pf_token(said: str) -> str:
    """The token in what ``pfctl -E`` printed, or nothing."""
    found = _PF_TOKEN.search(said)
    return found[1] if found else ""


def pf_holds(token: str, said: str) -> bool:
    """Whether ``token`` is among those that ``pfctl -s References`` printed."""
    return bool(token) and token in said.split()


TOOLS: Mapping[Backend, Tool] = {
    "nft": Tool(
        check=nft_check,
        load=nft_load,
        restore=nft_restore,
        questions={
            "tables": Question(("nft", "list", "tables", "inet")),
            "table": Question(("nft", "--stateless", "list", "table", *_NFT_TABLE), may_fail=True),
        },
        read=nft_read,
    ),
    "pf": Tool(
        check=pf_check,
        load=pf_load,
        restore=pf_restore,
        questions={
            "rules": Question((*_PF, "-s", "rules")),
            "peers": Question((*_PF, "-t", _PF_PEERS, "-T", "show"), may_fail=True),
            "info": Question(("pfctl", "-s", "info")),
            "main": Question(("pfctl", "-s", "rules")),
            "interfaces": Question(("pfctl", "-vv", "-s", "Interfaces")),
        },
        read=pf_read,
        enable=("pfctl", "-E"),
        holders=("pfctl", "-s", "References"),
        release=("pfctl", "-X"),
    ),
}
