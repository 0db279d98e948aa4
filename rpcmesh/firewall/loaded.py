"""What each tool is asked, and what its answers say about the rules that are loaded. Nothing here runs a tool."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from rpcmesh.firewall import nft, pf
from rpcmesh.firewall.policy import Policy, Role, Tables
from rpcmesh.firewall.rules import Rules

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
    """What ``apply`` left behind: which rules it was given, and what the tool then said is loaded."""

    backend: Backend
    frame_sha256: str
    tables: dict[str, tuple[str, ...]]
    node_ports: tuple[int, ...]
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
    # Put these addresses into the loaded tables.
    exchange: Callable[[Tables], tuple[Command, ...]]
    # End what these addresses still have open, where leaving a table does not do that by itself.
    cut: Callable[[tuple[str, ...]], tuple[Command, ...]]
    # Asked in this order.
    questions: Mapping[str, Question]
    read: Callable[[Answers], Loaded | None]
    # The text that was read, without the addresses that `exchange` replaces.
    frame: Callable[[str], str]
    # Turn the filter on, see which tokens hold it on, give one back. Empty where the filter is always on.
    enable: Argv = ()
    holders: Argv = ()
    release: Argv = ()
    # Run now and then, where the kernel does not forget abusers by itself.
    expire: Argv = ()


class Verdict(msgspec.Struct, frozen=True):
    # One clause for the admin, or empty: the rules are as meant.
    problem: str
    hint: str = ""
    # Somebody changed what was applied here, or took it away, other than by our verbs.
    drift: bool = False


AS_MEANT = Verdict("")


def judge(found: Loaded | None, record: Record | None, rules: Rules) -> Verdict:
    """Compare what is loaded with ``rules``, which the settings and the mesh's addresses mean now."""
    again = "rpcmesh firewall apply"
    if found is None and record is None:
        return Verdict("the firewall rules are not loaded", again)
    if found is None:
        return Verdict("the firewall rules are no longer loaded, though nobody removed them here", again, drift=True)
    if record is None:
        return Verdict("firewall rules are loaded, but `rpcmesh firewall apply` did not load them for this home", again)
    if found.text != record.loaded:
        return Verdict("the loaded firewall rules were changed since they were applied (drift)", again, drift=True)
    if record.frame_sha256 != rules.frame_sha256:
        return Verdict("the loaded firewall rules are from older settings", again)
    if (record.tables, record.node_ports) != (rules.tables, rules.node_ports):
        return Verdict("the loaded firewall rules name older addresses", again)
    if found.obstacles:
        return Verdict(f"the firewall rules are loaded, but {found.obstacles[0]}", again, drift=True)
    return AS_MEANT


def after_exchange(how: Tool, record: Record, rules: Rules, found: Loaded | None) -> Record:
    """What to remember once the addresses of ``rules`` are in place of those in ``record``, and ``found`` is loaded.

    Rules that somebody else changed while the addresses were exchanged are not remembered: to the next look they are
    drift.
    """
    text = found.text if found else ""
    # Rules that name ports were loaded anew with these, and are as the tool then lists them.
    ours = record.node_ports != rules.node_ports or how.frame(text) == how.frame(record.loaded)
    return msgspec.structs.replace(
        record, tables=rules.tables, node_ports=rules.node_ports, loaded=text if ours else record.loaded
    )


def cut_off(former: Tables, now: Tables) -> tuple[str, ...]:
    """The addresses that may keep nothing open: those that left the peers, and those that were revoked."""
    gone = [one for one in former.get("peers", ()) if one not in now.get("peers", ())]
    revoked = [one for one in now.get("revoked", ()) if one not in former.get("revoked", ())]
    return tuple(gone + revoked)


# nft

_NFT_SET = re.compile(r"^\tset [^\n]* \{\n.*?^\t\}\n", re.MULTILINE | re.DOTALL)
_NFT_DYNAMIC = re.compile(r"^\t\tflags [^\n]*\bdynamic\b", re.MULTILINE)
_NFT_ELEMENTS = re.compile(r"^\t\telements = \{[^}]*\}\n", re.MULTILINE)


def _nft(role: Role) -> Tool:
    table = nft.TABLES[role]
    # `table` first: what is deleted exists in any case, and all of it is one transaction.
    empty = f"table {table}\ndelete table {table}\n"

    def load(text: str) -> Command:
        return Command(("nft", "-f", "-"), text)

    def read(answers: Answers) -> Loaded | None:
        # The listing in JSON is no better: nft 1.0.6 leaves the flag "dynamic" out of it.
        if f"table {table}" not in answers["tables"].splitlines():
            return None
        return Loaded(_NFT_SET.sub(_without_passing_elements, answers["table"]))

    return Tool(
        check=lambda text: Command(("nft", "-c", "-f", "-"), text),
        load=load,
        restore=lambda former: load(empty + (former.text if former else "")),
        exchange=lambda tables: (load(nft.replacement(role, tables)),),
        # What is open has no rights of its own in our chains.
        cut=lambda _: (),
        questions={
            "tables": Question(("nft", "list", "tables", "inet")),
            "table": Question(("nft", "--stateless", "list", "table", *table.split()), may_fail=True),
        },
        read=read,
        frame=lambda text: _NFT_ELEMENTS.sub("", text),
    )


def _without_passing_elements(found: re.Match[str]) -> str:
    block = found[0]
    return _NFT_ELEMENTS.sub("", block) if _NFT_DYNAMIC.search(block) else block


# pf

# As a coordinator that was caught by mistake would wait for it.
_PF_ABUSE_S = 600
_PF_MEMBERS = re.compile(r"^(table <\w+> persist) \{[^}\n]*\}$", re.MULTILINE)
_PF_TOKEN = re.compile(r"^Token : ([0-9]+)\s*$", re.MULTILINE)


def _pf(role: Role) -> Tool:
    anchor = ("pfctl", "-a", pf.ANCHORS[role])
    names = ("peers", "revoked") if role == "coordinator" else ("peers",)

    def load(text: str) -> Command:
        return Command((*anchor, "-f", "-"), text)

    def read(answers: Answers) -> Loaded | None:
        rules = answers["rules"]
        if not rules.strip():
            return None
        tables = "".join(
            _pf_table(name, sorted(answers.get(name, "").split()))
            for name in (*names, "abuse")
            if f"<rpcmesh_{name}>" in rules
        )
        return Loaded(tables + rules, tuple(_pf_obstacles(answers)))

    def exchange(tables: Tables) -> tuple[Command, ...]:
        return tuple(
            Command((*anchor, "-t", f"rpcmesh_{name}", "-T", *(("replace", *members) if members else ("flush",))))
            for name, members in tables.items()
            # Where anybody may come there is no table of peers.
            if members or name != "peers"
        )

    def cut(addresses: tuple[str, ...]) -> tuple[Command, ...]:
        # States pass without a look at the rules. Those of a connection may have begun at either end.
        return tuple(
            Command(("pfctl", *ends))
            for one in addresses
            for ends in (("-k", one), ("-k", "::/0" if ":" in one else "0.0.0.0/0", "-k", one))
        )

    return Tool(
        check=lambda text: Command((*anchor, "-nf", "-"), text),
        load=load,
        restore=lambda former: load(former.text) if former else Command((*anchor, "-F", "all")),
        exchange=exchange,
        cut=cut,
        questions={
            "rules": Question((*anchor, "-s", "rules")),
            **{name: Question((*anchor, "-t", f"rpcmesh_{name}", "-T", "show"), may_fail=True) for name in names},
            "info": Question(("pfctl", "-s", "info")),
            "main": Question(("pfctl", "-s", "rules")),
            "interfaces": Question(("pfctl", "-vv", "-s", "Interfaces")),
        },
        read=read,
        frame=lambda text: _PF_MEMBERS.sub(r"\1", text),
        enable=("pfctl", "-E"),
        holders=("pfctl", "-s", "References"),
        release=("pfctl", "-X"),
        expire=(*anchor, "-t", "rpcmesh_abuse", "-T", "expire", str(_PF_ABUSE_S)),
    )


def _pf_table(name: str, addresses: list[str]) -> str:
    # Who was caught as an abuser is no part of the rules.
    listed = f" {{ {', '.join(addresses)} }}" if addresses and name != "abuse" else ""
    return f"table <rpcmesh_{name}> persist{listed}\n"


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


_TOOLS: Mapping[Backend, Callable[[Role], Tool]] = {"nft": _nft, "pf": _pf}
MAKE: Mapping[Backend, Callable[[Policy], Rules]] = {"nft": nft.make, "pf": pf.make}


def tool(backend: Backend, role: Role) -> Tool:
    return _TOOLS[backend](role)
