"""No rule of the guard refuses a legitimate graph: a stock client runs many architectures through the tunnel.

The models are tiny and the same script is run on a worker behind egress, TLS, ingress and guard, and on a bare one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import meshed_engine
import pytest
from recordings import client, models, variants
from recordings.models import Model
from tunnel_harness import COORDINATOR, NODE, Tunnel, founded

from rpcmesh.native_build import Build
from rpcmesh.tunnel.routes import EgressRoute, IngressRoute, rpc_alpn

# Thirty-two layers are for benchmarks; what they do, two layers of the same kind do as well.
SMALL = [model for model in models.BY_NAME.values() if len(model.layers) <= 2]


class Ways(NamedTuple):
    """Endpoints of two workers: one through the tunnel, one without, and the ingress in front of the first."""

    guarded: str
    bare: str
    ingress: Tunnel

    def refused(self) -> tuple[dict[str, int], list[str]]:
        """So far: how many frames for which reason, and each in words."""
        words = [f"{line['reason']}: {line['detail']}" for line in self.ingress.log("frame_refused")]
        return self.ingress.status().totals.refused, words


@pytest.fixture(scope="module")
def ways(build: Build, tunnel_binary: Path) -> Iterator[Ways]:
    alpn = rpc_alpn("w0")
    with (
        founded(tunnel_binary) as mesh,
        meshed_engine.worker(build, "node") as (guarded, _),
        meshed_engine.worker(build, "node") as (bare, _),
    ):
        inner = IngressRoute(alpn, Path(guarded.endpoint.removesuffix(":1")), COORDINATOR)
        with mesh.ingress([inner], mesh.identity("node", mesh.leaf(NODE))) as ingress:
            outer = EgressRoute(mesh.path("w0.sock"), f"127.0.0.1:{ingress.port}", alpn, NODE)
            with mesh.egress([outer], mesh.identity("coordinator", mesh.leaf(COORDINATOR))):
                yield Ways(f"{outer.listen}:1", bare.endpoint, ingress)


@pytest.mark.parametrize("model", SMALL, ids=[model.name for model in SMALL])
def test_a_model_runs_through_the_guard_as_it_runs_on_a_bare_worker(
    model: Model, ways: Ways, build: Build, tmp_path: Path
) -> None:
    few = variants.FEW[model.kind]
    refused = ways.refused()
    try:
        heard = client.run(build.lib_dir, model.write(tmp_path), model.kind, few, ways.guarded, ways.bare)
    finally:
        # A client whose connection is cut does not live to tell why.
        assert ways.refused() == refused

    guarded, bare = (
        [one._replace(endpoint="") for one in heard if one.endpoint == end] for end in (ways.guarded, ways.bare)
    )
    # The same kernels on the same numbers: not one bit may differ.
    assert guarded == bare
    assert [one.variant for one in guarded] == [variant.name for variant in few]
    assert all(says_something(one.outputs) for one in guarded)


def says_something(outputs: list[list[float]]) -> bool:
    """Numbers, and not the same ones for each token."""
    return (
        all(math.isfinite(number) for number in itertools.chain(*outputs)) and len({tuple(one) for one in outputs}) > 1
    )
