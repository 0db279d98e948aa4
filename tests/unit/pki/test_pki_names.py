"""What may be called what, and the URIs made from it."""

from __future__ import annotations

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import names
from rpcmesh.pki.names import Principal


@pytest.mark.parametrize("name", ["a", "0", "node-1", "a--b", "a" * 32])
def test_good_names(name: str) -> None:
    assert names.check_name(name, "node") == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "a b", "a\n", "ä", "a" * 33, "a/b", "..", "٣"])
def test_bad_names_are_quoted_and_a_good_one_is_proposed(name: str) -> None:
    with pytest.raises(RpcmeshError) as caught:
        names.check_name(name, "node")
    assert caught.value.message == f"{name!r} is not a node name"
    assert caught.value.hint is not None


def test_uris() -> None:
    assert names.coordinator_uri("m") == "spiffe://m/coordinator"
    assert names.node_uri("m", "node-1") == "spiffe://m/node/node-1"


@pytest.mark.parametrize("principal", [Principal("m"), Principal("m", "n"), Principal("m", "coordinator")])
def test_uris_are_read_back(principal: Principal) -> None:
    assert names.parse_uri(principal.uri) == principal


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://m",
        "spiffe://m/",
        "spiffe://m/node",
        "spiffe://m/node/",
        "spiffe://m/node/a/b",
        "spiffe://m/node/a ",
        "spiffe://m/node/a\n",
        "spiffe://m/Node/a",
        "spiffe://M/node/a",
        "SPIFFE://m/node/a",
        "spiffe:///node/a",
        "spiffe://m/coordinator/",
        "spiffe://m/node/a%20",
        "spiffe://u@m/node/a",
        "spiffe://m:1/node/a",
        "xspiffe://m/node/a",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(RpcmeshError, match="does not name"):
        names.parse_uri(uri)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Studio.local", "studio"),
        ("Ada's Mac Studio", "ada-s-mac-studio"),
        ("-x-", "x"),
        ("x" * 31 + "-y", "x" * 31),
        ("日本", "node"),
        ("", "node"),
    ],
)
def test_names_made_from_host_names_are_valid(text: str, name: str) -> None:
    assert names.check_name(names.suggest(text), "node") == name
