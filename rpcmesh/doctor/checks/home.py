"""This home, what it needs to run, and the repairs that are always safe."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rpcmesh.doctor.facts import BuildSeen, Entry, Facts, Leaf, Listening, ModelFile, Native, Unknown
from rpcmesh.doctor.findings import Said
from rpcmesh.words import size, span

LEAF_WORN = 0.75


class Chmod(msgspec.Struct, frozen=True):
    """A repair that is always safe: it takes rights away from others and from nobody else."""

    entry: Entry
    mode: int

    @property
    def command(self) -> str:
        return f"chmod {self.mode:o} {self.entry.path}"


def repairs(facts: Facts) -> tuple[Chmod, ...]:
    """What ``--fix`` does."""
    if facts.entries is None or isinstance(facts.entries, Unknown):
        return ()
    open_entries = (entry for entry in facts.entries if entry.uid == facts.uid and entry.mode & 0o077)
    return tuple(Chmod(entry, 0o700 if entry.kind == "directory" else 0o600) for entry in open_entries)


def permissions(entries: tuple[Entry, ...], facts: Facts) -> Iterable[Said]:
    for entry in entries:
        if entry.uid != facts.uid:
            owner = f"{str(entry.path)!r} belongs to uid {entry.uid}, not to you"
            yield Said("fail", owner, f"sudo chown {facts.uid} {entry.path}")
    for repair in repairs(facts):
        path, mode = str(repair.entry.path), repair.entry.mode
        yield Said("fail", f"{path!r} has mode {mode:04o}: others can reach it", repair.command)
    if all(entry.uid == facts.uid and not entry.mode & 0o077 for entry in entries):
        yield Said("ok", "home, keys and sockets are yours alone")


def mesh(_: Facts, facts: Facts) -> Iterable[Said]:
    if isinstance(facts.leaf, Unknown):
        return  # what this home is could not be seen; the certificate's row says why
    if facts.role == "none":
        yield Said("warn", f"{str(facts.home)!r} holds no mesh yet", "rpcmesh init, or on a node: rpcmesh join STRING")
    else:
        yield Said("ok", f"{str(facts.home)!r} is a {facts.role}'s home")


def own_certificate(leaf: Leaf, facts: Facts) -> Iterable[Said]:
    if leaf.problem:
        yield Said("fail", leaf.problem, leaf.fix)
        return
    renew = "rpcmesh serve" if facts.role == "coordinator" else "on the coordinator: rpcmesh serve"
    identity = facts.home / "identity"
    # An expired node is refused by its coordinator, so it cannot be renewed any more.
    again = f"mv {identity} {identity}.old && rpcmesh join STRING"
    expired_fix = renew if facts.role == "coordinator" else again
    yield expiry("this home's certificate", leaf.not_before, leaf.not_after, facts.now, renew, expired_fix)


def expiry(whose: str, not_before: float, not_after: float, now: float, renew: str, anew: str) -> Said:
    if now >= not_after:
        return Said("fail", f"{whose} expired {span(now - not_after)} ago", anew)
    if now < not_before:
        return Said("fail", f"{whose} is valid only in {span(not_before - now)}: is the clock right?", "date -u")
    left = f"{whose} is good for {span(not_after - now)} more"
    if now - not_before > LEAF_WORN * (not_after - not_before):
        return Said("warn", f"{left}: it should have been renewed by now", renew)
    return Said("ok", left)


def binaries(builds: tuple[BuildSeen, ...], _: Facts) -> Iterable[Said]:
    if not builds:
        yield Said("warn", "nothing is built for this version of rpcmesh yet", "rpcmesh build")
    for build in builds:
        if build.problem:
            yield Said("fail", build.problem, f"rm -r {build.dir} && rpcmesh build")
        else:
            yield Said("ok", f"build {build.build_id} is as it was built")


def native_build(native: Native, _: Facts) -> Iterable[Said]:
    if native.missing:
        yield Said("fail", f"the native build needs {' and '.join(native.missing)}", native.install)
    else:
        yield Said("ok", "compiler, cmake and the OpenSSL headers are there")


def model_file(model: ModelFile, _: Facts) -> Iterable[Said]:
    if not model.name:
        yield Said("warn", "no model is chosen", "rpcmesh serve --model NAME, or [engine] model in config.toml")
    elif model.problem:
        yield Said("fail", model.problem, model.fix)
    else:
        yield Said("ok", f"model {model.name!r} is a GGUF file of {size(model.size_bytes)}")


def bind_address(listening: Listening, _: Facts) -> Iterable[Said]:
    if listening.problem:
        yield Said("fail", listening.problem, listening.fix)
    else:
        yield Said("ok", f"this machine can listen on {listening.address}")
