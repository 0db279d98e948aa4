"""What meshes, nodes and their certificates are called. Text only: no certificate is read here."""

from __future__ import annotations

import re

import msgspec

from rpcmesh.errors import RpcmeshError

# Both a DNS label and a file name, so that names can stand in socket paths, routes and URIs without quoting.
NAME = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
NAME_MAX = 32
_NAME = re.compile(NAME, re.ASCII)
_URI = re.compile(rf"spiffe://(?P<mesh>{NAME})/(?:coordinator|node/(?P<node>{NAME}))", re.ASCII)


class Principal(msgspec.Struct, frozen=True):
    """Who a leaf speaks for: the coordinator of a mesh (``node`` is None) or one of its nodes."""

    mesh: str
    node: str | None = None

    @property
    def uri(self) -> str:
        return f"spiffe://{self.mesh}/coordinator" if self.node is None else f"spiffe://{self.mesh}/node/{self.node}"


def coordinator_uri(mesh: str) -> str:
    return Principal(check_name(mesh, "mesh")).uri


def node_uri(mesh: str, node: str) -> str:
    return Principal(check_name(mesh, "mesh"), check_name(node, "node")).uri


def parse_uri(uri: str) -> Principal:
    """The inverse of ``Principal.uri``. Raises :class:`RpcmeshError` on anything that is not exactly of that form."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise RpcmeshError(f"{uri!r} does not name a coordinator or a node of a mesh")
    return Principal(mesh=match["mesh"], node=match["node"])


def check_name(name: str, what: str) -> str:
    """``name`` itself. Raises :class:`RpcmeshError` if a ``what`` ("mesh" or "node") cannot be called that."""
    if _NAME.fullmatch(name) is None:
        raise RpcmeshError(
            f"{name!r} is not a {what} name",
            hint=f"use 1 to {NAME_MAX} lower-case letters, digits and inner dashes, for example {suggest(name)!r}",
        )
    return name


def suggest(text: str) -> str:
    """A valid name as close to ``text`` (a host name, say) as the rules allow."""
    dashed = re.sub(r"[^a-z0-9]+", "-", text.partition(".")[0].lower())
    return dashed.strip("-")[:NAME_MAX].strip("-") or "node"
