"""What a joining node and the coordinator say to each other, parsed once. JSON on the wire, bytes as base64."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec

from rpcmesh import config
from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import names, tokens

CA_PATH = "/join/ca"
JOIN_PATH = "/join"

# \A and \Z because "$" lets a newline through, and these values end up in routes files, paths and terminals.
TokenId = Annotated[str, msgspec.Meta(pattern=rf"\A{tokens.ID}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=rf"\A{names.NAME}\Z")]
BuildId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{1,64}\Z")]
# HOST:PORT or [v6]:PORT, as in a routes file. No zone: an interface's name means nothing on another machine.
Address = Annotated[str, msgspec.Meta(pattern=r"\A(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[1-9][0-9]{0,4}\Z")]
Printable = Annotated[str, msgspec.Meta(pattern=r"\A[ -~]{0,128}\Z")]


def is_dialable(address: str) -> bool:
    """Whether another machine could open a connection to ``HOST:PORT``: one host, not "all interfaces", and a port."""
    try:
        host, port = config.parse_address(address)
        msgspec.convert(address, Address)
    except (RpcmeshError, msgspec.ValidationError):
        return False
    try:
        unspecified = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        unspecified = address.startswith("[")  # brackets around what is no IPv6 address
    return port > 0 and not unspecified


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /join``. ``mac`` is :func:`mac_of` all the rest, with the token's key."""

    token_id: TokenId
    node: Name
    address: Address  # where the coordinator will reach this node's tunnel
    build_id: BuildId
    os: Printable
    csr: Annotated[bytes, msgspec.Meta(max_length=4096)]  # DER
    mac: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


def mac_of(request: JoinRequest, key: bytes) -> bytes:
    """What ``request.mac`` must be when the token's key is ``key``."""
    return tokens.mac(
        key,
        token_id=request.token_id,
        node=request.node,
        address=request.address,
        build_id=request.build_id,
        os=request.os,
        csr_der=request.csr,
    )


class JoinGranted(msgspec.Struct, frozen=True):
    """The answer, 200."""

    cert_pem: str
    ca_pem: str
    crl_pem: str
    mesh: str
    node: str
    coordinator_uri: str
    # Where the coordinator's connections to this node will come from, for its firewall.
    coordinator_addresses: tuple[str, ...] = ()


class JoinRefused(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer, 4xx. ``message`` and ``hint`` only for those who proved that they hold the token's secret."""

    error: str
    message: str | None = None
    hint: str | None = None
