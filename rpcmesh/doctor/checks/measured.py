"""What the coordinator just measured of its mesh: round trips, speeds, clocks, and who reaches whom."""

from __future__ import annotations

from collections.abc import Iterable

from rpcmesh.doctor.facts import Clock, Facts, Link, Measured, Tried, Unknown
from rpcmesh.doctor.findings import Level, Said, each
from rpcmesh.words import span

ROUND_TRIP_SLOW_S = 0.005
SPEED_LOW_BIT_S = 0.5e9
# A certificate is dated back by five minutes: see ``pki.authority``. A minute off is a fifth of that gone.
CLOCK_OFF_S, CLOCK_WRONG_S = 1.0, 60.0


def links(measured: Measured, _: Facts) -> Iterable[Said]:
    return each(measured.links, _link)


def _link(link: Link) -> Iterable[Said]:
    there, back = _speed(link.there_bit_s), _speed(link.back_bit_s)
    found = f"{link.node}: {_span(link.round_trip_s)} round trip, {there} there, {back} back"
    if link.round_trip_s > ROUND_TRIP_SLOW_S:
        why = "each token waits for it"
    elif min(link.there_bit_s, link.back_bit_s) < SPEED_LOW_BIT_S:
        why = "models load and long prompts run slowly over it"
    else:
        yield Said("ok", found)
        return
    yield Said("warn", f"{found}: {why}", "use a cable in place of Wi-Fi, or look again when the mesh is not busy")


def clocks(seen: tuple[Clock | Unknown, ...], _: Facts) -> Iterable[Said]:
    return each(seen, _clock)


def _clock(clock: Clock) -> Iterable[Said]:
    # What is certain: the rest may be the network's doing.
    off_s = abs(clock.ahead_s) - clock.uncertainty_s
    if off_s <= CLOCK_OFF_S:
        at_most = _span(abs(clock.ahead_s) + clock.uncertainty_s)
        yield Said("ok", f"{clock.node}'s clock is within {at_most} of this one")
        return
    level: Level = "fail" if off_s > CLOCK_WRONG_S else "warn"
    direction = "ahead of" if clock.ahead_s > 0 else "behind"
    command = "sudo sntp -sS time.apple.com" if clock.os.startswith("macOS") else "sudo timedatectl set-ntp true"
    yield Said(
        level,
        f"{clock.node}'s clock is {_span(abs(clock.ahead_s))} {direction} this one: certificates go by the clock",
        f"on {clock.node}: {command}; unless this one is wrong",
    )


def strangers(tried: tuple[Tried | Unknown, ...], _: Facts) -> Iterable[Said]:
    return each(tried, _stranger)


def _stranger(tried: Tried) -> Iterable[Said]:
    """Nodes have nothing to say to each other, so each stands for any stranger on the network."""
    fix = f"on {tried.node}: rpcmesh firewall apply"
    port = tried.address.rpartition(":")[2]
    match tried.result:
        case "silent":
            yield Said("ok", f"{tried.node}'s firewall drops {tried.stranger}")
        case "unreachable":
            yield Said("ok", f"{tried.stranger} has no way to {tried.node}")
        case "connected":
            reaches = f"{tried.stranger} reaches {tried.node}'s port {port}: its firewall lets strangers in"
            yield Said("warn", reaches, fix)
        case "refused":
            # The tunnel was there a moment ago: a firewall that rejects, or none and a tunnel that starts again.
            answers = f"{tried.node} answers {tried.stranger} on port {port} with a refusal: a firewall would be silent"
            yield Said("warn", answers, fix)


def _span(seconds: float) -> str:
    """``0.0004`` → ``0.4 ms``; from a second on in seconds, from a minute on as everywhere."""
    if seconds >= 60:
        return span(seconds)
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def _speed(bit_s: float) -> str:
    return f"{bit_s / 1e9:.1f} Gbit/s" if bit_s >= 1e9 else f"{bit_s / 1e6:.0f} Mbit/s"
