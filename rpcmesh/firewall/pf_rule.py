"""The grammar of one pf pass or block rule, and what pf would take otherwise than meant though it can be read."""

from __future__ import annotations

import ipaddress
import re

from rpcmesh.firewall.pf_tokens import Token
from rpcmesh.firewall.pf_words import Words, WrongError, unknown

# PF_RULE_LABEL_SIZE, less the closing NUL.
_LABEL_MAX = 63

_RANGES = {"<", ">", "!"}
# Options of a state: how many numbers follow, written N or N/N.
_STATE_NUMBERS = {
    "max": 1,
    "max-src-nodes": 1,
    "max-src-states": 1,
    "max-src-conn": 1,
    "max-src-conn-rate": 2,
}
_INTERFACE = re.compile(r"[A-Za-z]+[0-9]+", re.ASCII)


class Rule:
    """One pass or block rule, in the order that pf reads its parts."""

    def __init__(self, words: Words, action: str, tables: set[str]) -> None:
        self._words = words
        self._action = action
        self._tables = tables
        self._protocols: list[str] = []
        self._flags = ""
        self._keeps_state = False
        self._no_state = False
        self._inbound = False
        self._names_table = False
        self._own_port = False
        self._has_ports_or_user = False

    def read(self) -> None:
        words = self._words
        if self._action == "block":
            words.skip("drop") or words.skip("return") or words.skip("return-rst")
        self._inbound = words.skip("in")
        self._inbound or words.skip("out")
        while self._log() or words.skip("quick"):
            pass
        if words.skip("on"):
            words.each("an interface", self._interface)
        words.skip("inet") or words.skip("inet6")
        if words.skip("proto"):
            words.each("a protocol", self._protocol)
        self._hosts()
        while (token := words.peek()) is not None:
            self._option(token)
        self._judge()

    def _log(self) -> bool:
        words = self._words
        if not words.skip("log"):
            return False
        if words.skip("("):
            while not words.skip(")"):
                if not (words.skip("all") or words.skip("user") or words.skip(",")):
                    raise unknown(words.word("')'"), "all, user or ')'")
        return True

    def _interface(self) -> None:
        self._words.skip("!")
        name = self._words.word("an interface")
        if not _INTERFACE.fullmatch(name):
            raise WrongError(f"{name!r} is not the name of one interface, as en0")

    def _protocol(self) -> None:
        name = self._words.word("a protocol")
        if name not in {"tcp", "udp", "icmp", "icmp6"}:
            raise unknown(name, "tcp, udp, icmp or icmp6")
        self._protocols.append(name)

    def _hosts(self) -> None:
        words = self._words
        if words.skip("all"):
            return
        if words.skip("from"):
            token = words.peek()
            words.each("a host", lambda: host(words, self._tables))
            self._names_table = token == Token("<")
            source_port = self._port()
            self._own_port = source_port and not self._inbound
        if words.skip("to"):
            self._names_table |= words.peek() == Token("<")
            words.each("a host", lambda: host(words, self._tables))
            self._own_port |= self._port() and self._inbound

    def _port(self) -> bool:
        if not self._words.skip("port"):
            return False
        self._has_ports_or_user = True
        self._words.each("a port", self._one_port)
        return True

    def _one_port(self) -> None:
        self._words.skip("=")
        text = self._words.word("a port")
        coming = self._words.peek()
        if text in _RANGES or ":" in text or (coming is not None and coming.text in _RANGES | {":"}):
            raise WrongError(f"a range of ports at {text!r}: name exact ports")
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
            raise WrongError(f"{text!r} is not a port number")

    def _user(self) -> None:
        self._words.skip("=")
        text = self._words.word("a user id")
        if not (text.isascii() and text.isdigit()):
            raise WrongError(f"{text!r} is not a numeric id: an unknown name fails the whole load")
        if int(text) > 2**31 - 1:
            raise WrongError(f"{text!r} is too large for a user id")

    def _option(self, token: Token) -> None:
        words = self._words
        match words.word("an option"):
            case "flags":
                self._flags = words.word("flags")
                if self._flags not in {"S", "A"} or not words.skip("/", "SA"):
                    raise WrongError("write flags S/SA: a rule for other packets breaks connections it does not mean")
            case "user" | "group":
                self._has_ports_or_user = True
                words.each("a user id", self._user)
            case "keep" | "modulate" | "synproxy":
                words.need("state")
                self._keeps_state = True
                if words.skip("("):
                    _state_options(words, self._tables)
            case "no":
                words.need("state")
                self._no_state = True
            case "label":
                label = words.take()
                if label is None or len(label.text.encode()) > _LABEL_MAX:
                    raise WrongError(f"a label has 1 to {_LABEL_MAX} bytes")
            case _:
                raise unknown(token.text, "an option of a rule")

    def _judge(self) -> None:
        """What pf refuses, or takes otherwise than meant, though each part can be read."""
        tcp = self._protocols == ["tcp"]
        if self._flags and not tcp:
            raise WrongError("flags belong to proto tcp only")
        if self._has_ports_or_user and not (self._protocols and set(self._protocols) <= {"tcp", "udp"}):
            raise WrongError("port, user and group belong to proto tcp or udp")
        if self._keeps_state and self._action == "block":
            raise WrongError("a block rule keeps no state")
        if self._flags == "S" or (self._protocols and "tcp" not in self._protocols):
            return
        if self._action == "pass" and tcp and not self._no_state:
            raise WrongError("pass without flags S/SA makes states in the middle of connections")
        # Two kinds of packets are no reply to somebody's connection: to or from addresses that are to be cut off, and
        # what comes in to the port of a service, or goes out from it.
        if self._action == "block" and not (tcp and (self._names_table or self._own_port)):
            raise WrongError("block without proto tcp and flags S/SA also drops replies to connections of others")


def host(words: Words, tables: set[str], *, in_rule: bool = True) -> None:
    words.skip("!")
    if words.peek() == Token("<") and in_rule:
        name = words.table_name()
        if name not in tables:
            raise WrongError(f"table {name!r} is not defined above")
        return
    text = words.word("an address")
    if text == "any" and in_rule:
        return
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise WrongError(
            f"{text!r} is not an address: a name that cannot be resolved, or an interface that does not exist, "
            "fails the whole load"
        ) from None
    if words.skip("/"):
        words.number("a prefix length", address.max_prefixlen)


def _state_options(words: Words, tables: set[str]) -> None:
    given: set[str] = set()
    while True:
        option = words.word("an option of a state")
        given.add(option)
        if option in _STATE_NUMBERS:
            words.number(f"the number of {option}")
            if _STATE_NUMBERS[option] == 2:
                words.need("/")
                words.number("seconds")
        elif option == "source-track":
            words.skip("rule") or words.skip("global")
        elif option == "overload":
            name = words.table_name()
            if name not in tables:
                raise WrongError(f"table {name!r} is not defined above")
            if words.skip("flush"):
                words.skip("global")
        elif option not in {"no-sync", "if-bound", "floating"}:
            raise unknown(option, "an option of a state")
        if words.skip(")"):
            break
        words.skip(",")
    if "overload" in given and not given & {"max-src-conn", "max-src-conn-rate"}:
        raise WrongError("overload needs max-src-conn or max-src-conn-rate")
    if "max-src-nodes" in given and "source-track" not in given:
        raise WrongError("max-src-nodes needs source-track rule")
