"""`make attack-stock`: every attack on a stock server over plaintext, as the table that docs/threat-model.md holds.

Each attack meets a fresh process; then an honest client comes. Arguments are names of attacks, none means all of them.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import stock_server
from attack_kinds import SPACE_BYTES, Attack, Conduct, Loot, session
from attacks import ALL
from rpc_worker import Client, Command, frame, get_tensor, reply, u32
from stock_server import Stock

from rpcmesh import native_build, paths

HEADER = ("| weakness | attack | stock server | through the guard |", "|---|---|---|---|")
# Below this, growth is a server's own.
NOTICED_BYTES = 48 << 20
ANSWERED_WITHIN_S = 1.5
SURVIVES = {"answered": "survives: takes it", "refused": "survives: hangs up", "waits": "survives: waits for more"}


@dataclass(frozen=True)
class Outcome:
    """What became of the server, and what of its attacker's request: ``answered``, ``refused`` or ``waits``.

    ``ended_by`` is how it had ended when the honest client came, ``ended_after`` when that one had gone.
    """

    ended_by: str
    served: bool
    ended_after: str
    grown_bytes: int
    loot: Loot
    request: str


def main(names: list[str]) -> None:
    build = native_build.stock(
        cache=paths.default_cache(), native=paths.shipped("native"), backend="cpu", progress=lambda *_: None
    )
    _say(*HEADER)
    for attack in ALL:
        if not names or attack.name in names:
            options, space = (attack.options, attack.space_bytes) if isinstance(attack, Conduct) else ((), SPACE_BYTES)
            with (
                tempfile.TemporaryDirectory(prefix="rm-") as scratch,
                stock_server.running(build, Path(scratch), options, space) as stock,
            ):
                outcome = suffer(stock, attack)
            _say(f"| {attack.weakness} | `{attack.name}` | {words(outcome)} | {guarded(attack)} |")


def suffer(stock: Stock, attack: Attack | Conduct) -> Outcome:
    return _suffer_conduct(stock, attack) if isinstance(attack, Conduct) else _suffer_frame(stock, attack)


def _suffer_conduct(stock: Stock, conduct: Conduct) -> Outcome:
    before = stock.resident_bytes()
    # A server may end under its attacker's hands, who then has nothing to show.
    with contextlib.suppress(ConnectionError, AssertionError), conduct.act(stock) as loot:
        return _aftermath(stock, loot, "answered", stock.resident_bytes() - before)
    return _aftermath(stock, Loot(), "refused", 0)


def _suffer_frame(stock: Stock, attack: Attack) -> Outcome:
    before, loot, request, grown = stock.resident_bytes(), Loot(), "refused", 0
    with contextlib.suppress(ConnectionError, AssertionError), session(stock) as attacker:
        buffer = attacker.alloc(attack.size)
        attacker.send(attack.frame_for(buffer))
        request = _answer(attacker)
        grown = stock.resident_bytes() - before
        if request == "answered" and attack.loot_bytes:
            attacker.send(get_tensor(buffer.bytes_at(0, attack.loot_bytes), 0, attack.loot_bytes))
            loot = Loot(disclosed_bytes=sum(byte != 0 for byte in attacker.answer()))
    return _aftermath(stock, loot, request, grown)


def _aftermath(stock: Stock, loot: Loot, request: str, grown: int) -> Outcome:
    ended_by = stock.ended_by(stock_server.END_WITHIN_S if request == "refused" else 0.1)
    served = not ended_by and stock.serves()
    return Outcome(ended_by, served, stock.ended_by(0.1), grown, loot, request)


def _answer(attacker: Client) -> str:
    """What a question right behind the attack meets; its answer may have others before it."""
    attacker.connection.settimeout(ANSWERED_WITHIN_S)
    received = b""
    try:
        attacker.send(frame(Command.DEVICE_COUNT))
        while more := attacker.connection.recv(1 << 16):
            received += more
            if received.endswith(reply(u32(1))):
                return "answered"
    except TimeoutError:
        return "waits"
    except OSError:
        return "refused"
    return "refused"


def words(outcome: Outcome) -> str:
    said = []
    if outcome.loot.disclosed_bytes:
        said.append(f"**discloses {outcome.loot.disclosed_bytes} bytes**")
    if outcome.loot.granted_bytes:
        said.append(f"grants {outcome.loot.granted_bytes >> 30} GiB of {stock_server.host_gib()}")
    if outcome.grown_bytes > NOTICED_BYTES:
        said.append(f"**{outcome.grown_bytes >> 20} MiB more resident**")
    if outcome.ended_by:
        said.append(f"**ends with {outcome.ended_by}**")
    elif not outcome.served:
        said.append("**next client not served within 2 s**")
    if outcome.ended_after != outcome.ended_by:
        said.append(f"then **ends with {outcome.ended_after}**")
    return ", ".join(said) or SURVIVES[outcome.request]


def guarded(attack: Attack | Conduct) -> str:
    if isinstance(attack, Conduct):
        return attack.stopped_by
    return f"refused: `{attack.word}`" if attack.word else "passes; the worker is started again"


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
