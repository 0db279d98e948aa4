"""The TOML file, read once into typed structs. Nothing else in the package reads settings."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rpcmesh.errors import RpcmeshError

Backend = Literal["auto", "cpu", "metal", "cuda", "vulkan"]
Sandbox = Literal["auto", "required", "off"]
Rebalance = Literal["idle", "eager"]

TUNNEL_PORT = 7443
GATEWAY_PORT = 8443
MAX_BYTES = 1 << 20
DRAIN_MAX_S = 60.0
# llama.cpp knows 256 sequences (its LLAMA_MAX_SEQ), of which one is lent to whoever saves cells.
N_SEQ_MAX = 255
# So that all sequences together have fewer cells than llama.cpp can count in 32 bits.
N_CTX_MAX = 1 << 24
# ggml's GGML_MAX_N_THREADS.
N_THREADS_MAX = 512


class Mesh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[mesh]``: which mesh this home belongs to."""

    name: str = "mesh"


class Coordinator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[coordinator]``: the HTTPS endpoint that clients and joining nodes reach."""

    listen: str = f"127.0.0.1:{GATEWAY_PORT}"
    # More names or addresses that clients use for this machine; they go into the gateway's certificate.
    names: tuple[str, ...] = ()
    agent_poll_s: float = 1.0
    # The coordinator's own CPU takes layers too, when true; the default leaves it to scheduling and sampling.
    use_local_device: bool = False
    # How long open answers may go on when the coordinator is stopped. The service files allow for a minute and no more.
    drain_s: Annotated[float, msgspec.Meta(ge=0, le=DRAIN_MAX_S)] = 30.0


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node]``: one worker machine."""

    name: str = ""
    listen: str = f"127.0.0.1:{TUNNEL_PORT}"
    # 0 lets ggml choose: one thread per performance core.
    worker_threads: Annotated[int, msgspec.Meta(ge=0, le=N_THREADS_MAX)] = 0
    # What all buffers of one session may take, in MiB. 0: all of this machine's memory, or, where workers compute on
    # cards with a memory of their own, no limit but theirs.
    memory_limit_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 30)] = 0
    # How long a worker may take over one answer before its session is cut and it is started again.
    compute_timeout_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 120
    # How long a client may leave a frame unfinished or its answers unread.
    stall_timeout_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 30
    # Ops for which the guard has no rule, let through unchecked by their names in ggml, as "OPT_STEP_SGD". Better none.
    allow_ops: tuple[str, ...] = ()
    # "required" keeps the node from starting before `rpcmesh firewall keep` has verified the rules.
    firewall: Literal["watched", "required"] = "watched"
    # "auto" confines the workers as far as this system can, and `rpcmesh status` says what it cannot. "required" starts
    # none unless everything is in force, "off" confines none.
    sandbox: Sandbox = "auto"


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[engine]``: how the model is run."""

    model: str = ""
    # The model is loaded once this many workers are ready: a mesh that is half there says so and waits.
    min_workers: Annotated[int, msgspec.Meta(ge=0)] = 1
    # Tokens per sequence, the prompt's and at least one more.
    n_ctx: Annotated[int, msgspec.Meta(ge=2, le=N_CTX_MAX)] = 4096
    # How few of them will do where memory is short: the most that fit are taken. 0: never fewer than n_ctx.
    n_ctx_min: Annotated[int, msgspec.Meta(ge=0, le=N_CTX_MAX)] = 0
    # How many sequences decode at the same time; further requests wait their turn.
    n_seq_max: Annotated[int, msgspec.Meta(ge=1, le=N_SEQ_MAX)] = 8
    # How many requests wait for that at most. When it is full, the key that fills it is refused first.
    queue_max: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 64
    # How many requests of one API key are in the engine at the same time; its others wait. 0: no limit.
    per_key_max: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    # How many tokens one step takes at most, those that decode among them.
    n_batch: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 512
    # KV cells that stay for prompts which begin as earlier ones did. Decoding slows down by 3 to 5 % for each 1,000.
    idle_tokens_max: Annotated[int, msgspec.Meta(ge=0)] = 4096
    # Of a batch, how many tokens go through the workers at a time: they work on one piece each. 0: 64 over several
    # workers, all at once over one, and 512 where all of them compute on cards.
    n_ubatch: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0
    # 0: one, or one for each core where the model is on this machine alone.
    n_threads: Annotated[int, msgspec.Meta(ge=0, le=N_THREADS_MAX)] = 0
    # How long open answers and new requests wait for an engine after one was lost, before their clients are told that
    # there is none.
    failover_wait_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 60.0
    # When a node that comes, or comes back, takes its share: "idle" once nobody asks, "eager" at once. Open answers go
    # on in either case; with "eager" they pause while the model is loaded anew.
    rebalance: Rebalance = "idle"
    # How long a node that is lost again and again may be held out. 0: not at all.
    hold_out_max_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 300.0
    # The KV cells of prompts this long are saved, so that the next engine need not prefill them again. 0: of none.
    snapshot_min_tokens: Annotated[int, msgspec.Meta(ge=0)] = 256
    # What all that is saved may take, in MiB. Answers that began long ago give way to new ones.
    snapshot_mib: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1024
    # The directory for it, where this machine's memory is too small. It holds what users ask, in files without a name.
    snapshot_dir: str = ""


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[build]``: how the native parts are compiled on this machine."""

    backend: Backend = "auto"
    # A llama.cpp checkout to use in place of the pinned source.
    source: str = ""


class Firewall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[firewall]``: who may reach this machine's port, as addresses or networks."""

    # On a node: the coordinator's addresses. Empty means those that it came from when the node joined, and says since.
    peers: tuple[str, ...] = ()
    # On the coordinator: where clients and joining nodes are. Empty means anywhere.
    clients: tuple[str, ...] = ()
    # The interfaces that they come in by. Empty means any.
    interfaces: tuple[str, ...] = ()
    # A stock ggml-rpc-server on TCP beside rpcmesh: closed to all but the home's owner on loopback. 0 means none.
    stock_worker_port: int = 0
    # How often the loaded rules are compared with those that are meant.
    verify_s: Annotated[float, msgspec.Meta(ge=1.0, le=3600.0)] = 30.0
    # What happens when somebody changed them, beside saying so: they are loaded again, or nothing, or the node's tunnel
    # stops until they are back.
    on_drift: Literal["repair", "report", "stop"] = "repair"


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[log]``: what is printed, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Every section and key is optional."""

    mesh: Mesh = Mesh()
    coordinator: Coordinator = Coordinator()
    node: Node = Node()
    engine: Engine = Engine()
    build: Build = Build()
    firewall: Firewall = Firewall()
    log: Log = Log()


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read ``path`` (absent means all defaults), then apply ``RPCMESH_SECTION_KEY`` overrides from ``environ``.

    Raises :class:`RpcmeshError` naming the wrong key or type.
    """
    try:
        tree: dict[str, Any] = msgspec.toml.decode(_read(path)) if path.exists() else {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RpcmeshError(f"{str(path)!r} is not valid TOML: {error}", hint=f"edit {path}") from error
    except OSError as error:
        raise RpcmeshError(f"cannot read {str(path)!r}: {error.strerror}") from error
    overridden = _apply_environment(tree, environ)
    try:
        return msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        where = f"{str(path)!r}" + (f" with {', '.join(overridden)}" if overridden else "")
        raise RpcmeshError(f"wrong setting in {where}: {_lower(str(error))}", hint=f"edit {path}") from error


def _read(path: Path) -> bytes:
    """A regular file of a sensible length. Root reads the files of others, who may put a pipe or a device there."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 (a descriptor)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RpcmeshError(f"{str(path)!r} is not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RpcmeshError(f"{str(path)!r} is longer than {MAX_BYTES} bytes")
    return content


def _apply_environment(tree: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    applied = []
    for section in msgspec.structs.fields(Config):
        for field in msgspec.structs.fields(section.type):
            name = f"RPCMESH_{section.name}_{field.name}".upper()
            if name in environ:
                value: Any = environ[name]
                if field.type == tuple[str, ...]:
                    value = [part for part in value.split(",") if part]
                tree.setdefault(section.name, {})[field.name] = value
                applied.append(name)
    return applied


def render(config: Config) -> str:
    """The TOML text of everything that differs from the defaults, and nothing else."""
    changed: dict[str, dict[str, Any]] = {}
    for section in msgspec.structs.fields(Config):
        values = getattr(config, section.name)
        for field in msgspec.structs.fields(section.type):
            value = getattr(values, field.name)
            if value != field.default:
                changed.setdefault(section.name, {})[field.name] = value
    return msgspec.toml.encode(changed).decode()


def parse_address(text: str) -> tuple[str, int]:
    """Split ``ADDR:PORT`` or ``[v6]:PORT``. Raises :class:`RpcmeshError` on anything else."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise RpcmeshError(f"{text!r} is not an address", hint="write ADDR:PORT, for IPv6 [ADDR]:PORT")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of :func:`parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
