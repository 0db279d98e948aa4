"""llama-server is started with what our own engine is given, and nothing that would slow it down."""

from __future__ import annotations

from pathlib import Path

from rpcmesh import config
from rpcmesh.bench import rival_server


def test_its_context_is_all_slots_together() -> None:
    engine = config.Engine(model="small", n_ctx=1024, n_seq_max=16)

    arguments = rival_server.arguments(Path("/m.gguf"), 8080, ["127.0.0.1:1", "127.0.0.1:2"], engine)

    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options == {
        "--model": "/m.gguf",
        "--alias": "small",
        "--host": "127.0.0.1",
        "--port": "8080",
        "--rpc": "127.0.0.1:1,127.0.0.1:2",
        "--gpu-layers": "999",
        "--ctx-size": "16384",
        "--parallel": "16",
        "--threads": "1",
        "--threads-batch": "1",
    }
