"""The agent's HTTP API, as the coordinator meets it on its socket: what is refused leaves the identity as it was."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest

from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.node import api
from rpcmesh.node.status import AgentStatus, CertificateStatus, Device, WorkerStatus
from rpcmesh.observe import error_log
from rpcmesh.paths import Home
from rpcmesh.pki import identity, names, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.revocation import Revocations, Revoked
from rpcmesh.serving import unix_site

MESH = "m"
NODE = names.node_uri(MESH, "alpha")
STATUS = AgentStatus(
    name="alpha",
    mesh=MESH,
    version="1.2.3",
    build_id="0123456789abcdef",
    backend="cpu",
    os="Linux 6.1",
    arch="x86_64",
    uptime_s=12.5,
    memory_total_bytes=2**34,
    memory_available_bytes=2**33,
    load_1min=0.25,
    workers=(WorkerStatus("w0", "ready", 4711, 2, "killed by SIGKILL", 2**20, (Device("CPU", "a CPU", 100, 90),)),),
    certificate=CertificateStatus(NODE, "ab12", 1.0, 2.0),
    crl_number=3,
    tunnel_state="ready",
)


class Served:
    """An agent on its socket, the authority it obeys, and a count of what it asked of its owner."""

    def __init__(self, root: Path) -> None:
        self.authority = Authority.create(root / "authority", MESH, time.time())
        self.foreign = Authority.create(root / "foreign", MESH, time.time())
        self.home = Home(root)
        self.identity_dir = self.home.identity
        self.socket = root / "agent.sock"
        self.reloads = 0
        self.guests_wanted = 0
        self.guest_fault: RpcmeshError | None = None
        key_pem, csr = signing_request.new_key_and_csr()
        leaf = self.authority.sign_csr(csr, NODE, time.time())
        identity.install(self.identity_dir, key_pem, leaf.pem, self.authority.ca_pem, self.revocations(5))

    def agent(self) -> api.Agent:
        return api.Agent(
            home=self.home,
            status=lambda: STATUS,
            reload_tunnel=self._reload,
            want_guest=self._want_guest,
        )

    def revocations(self, number: int, *serials: str, by: Authority | None = None) -> bytes:
        entries = tuple(Revoked(serial, 1_700_000_000.0) for serial in serials)
        return (by or self.authority).sign_revocations(Revocations(number, 1_700_000_000.0 + number, entries))

    def leaf(self, csr: bytes, uri: str = NODE, by: Authority | None = None) -> bytes:
        return (by or self.authority).sign_csr(csr, uri, time.time()).pem

    def held(self) -> dict[str, bytes]:
        """The files that are in force."""
        parts = (identity.KEY, identity.CERT, identity.CA, identity.REVOKED)
        return {name: (self.identity_dir / name).read_bytes() for name in parts}

    def _reload(self) -> None:
        self.reloads += 1

    async def _want_guest(self) -> None:
        self.guests_wanted += 1
        if self.guest_fault is not None:
            raise self.guest_fault


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    root = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    try:
        made = Served(root)
        async with unix_site(made.agent().app(), made.socket):
            yield made
    finally:
        shutil.rmtree(root)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AgentClient]:
    """What the coordinator speaks with."""
    speaking = AgentClient(served.socket)
    yield speaking
    await speaking.close()


async def call(served: Served, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Status and text of one request."""
    connector = aiohttp.UnixConnector(path=str(served.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://agent{path}", data=io.BytesIO(body)) as response,
    ):
        return response.status, await response.text()


async def test_the_socket_is_its_owners_alone(served: Served) -> None:
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600


async def test_the_status_arrives_as_it_was_said(client: AgentClient) -> None:
    assert await client.status() == STATUS


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/", 404), ("PUT", "/status", 405)])
async def test_there_are_no_other_routes(served: Served, method: str, path: str, code: int) -> None:
    assert (await call(served, method, path))[0] == code


async def test_a_renewed_certificate_is_put_in_force_and_the_tunnel_reloads_once(
    served: Served, client: AgentClient
) -> None:
    before = identity.load(served.identity_dir)

    csr = await client.begin_renewal()
    assert served.reloads == 0
    renewed = served.authority.sign_csr(csr, NODE, time.time())
    await client.finish_renewal(renewed.pem)

    after = identity.load(served.identity_dir)
    assert (after.uri, after.serial) == (NODE, renewed.serial)
    assert after.serial != before.serial
    assert after.revocations == before.revocations
    assert served.reloads == 1


async def test_the_key_never_leaves_and_is_a_new_one(served: Served, client: AgentClient) -> None:
    before = served.held()

    csr = await client.begin_renewal()

    assert b"PRIVATE" not in csr
    assert served.held() == before
    await client.finish_renewal(served.leaf(csr))
    assert served.held()[identity.KEY] != before[identity.KEY]


async def test_asking_twice_before_the_answer_gives_a_request_for_the_same_key(
    served: Served, client: AgentClient
) -> None:
    first = await client.begin_renewal()
    await client.begin_renewal()

    await client.finish_renewal(served.leaf(first))

    assert served.reloads == 1


async def refuses_certificate(served: Served, pem: bytes, saying: str) -> None:
    before = served.held()

    code, said = await call(served, "PUT", "/identity/certificate", pem)

    assert code == 409
    assert saying in said
    assert served.held() == before
    assert served.reloads == 0


async def test_a_certificate_for_another_key_is_refused(served: Served, client: AgentClient) -> None:
    await client.begin_renewal()
    _, other = signing_request.new_key_and_csr()
    await refuses_certificate(served, served.leaf(other), "not for the key that was made here")


async def test_a_certificate_of_another_authority_is_refused(served: Served, client: AgentClient) -> None:
    csr = await client.begin_renewal()
    await refuses_certificate(served, served.leaf(csr, by=served.foreign), "not signed by this mesh's authority")


@pytest.mark.parametrize("uri", [names.node_uri(MESH, "beta"), names.coordinator_uri(MESH)])
async def test_a_certificate_for_somebody_else_is_refused(served: Served, client: AgentClient, uri: str) -> None:
    csr = await client.begin_renewal()
    await refuses_certificate(served, served.leaf(csr, uri), f"for '{uri}', not for '{NODE}'")


async def test_a_certificate_that_nobody_asked_for_is_refused(served: Served) -> None:
    _, csr = signing_request.new_key_and_csr()
    await refuses_certificate(served, served.leaf(csr), "none was asked for")


@pytest.mark.parametrize("sent", [b"", b"\x00\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_what_is_no_certificate_is_refused(served: Served, client: AgentClient, sent: bytes) -> None:
    await client.begin_renewal()
    await refuses_certificate(served, sent, "not a PEM certificate")


async def test_a_refused_certificate_does_not_spoil_the_renewal(served: Served, client: AgentClient) -> None:
    csr = await client.begin_renewal()
    with pytest.raises(PeerError, match="answered 409"):
        await client.finish_renewal(served.leaf(csr, by=served.foreign))

    await client.finish_renewal(served.leaf(csr))

    assert served.reloads == 1


async def test_a_newer_revocation_list_is_put_in_force_and_the_tunnel_reloads_once(
    served: Served, client: AgentClient
) -> None:
    await client.put_revocations(served.revocations(6, "abc"))

    held = identity.load(served.identity_dir).revocations
    assert (held.number, held.serials) == (6, {"abc"})
    assert served.reloads == 1


async def test_the_list_in_force_signed_once_more_changes_nothing_and_is_no_fault(
    served: Served, client: AgentClient
) -> None:
    before = served.held()

    await client.put_revocations(served.revocations(5))

    assert served.held() == before
    assert served.reloads == 0


@pytest.mark.parametrize(
    ("make", "saying"),
    [
        (lambda served: served.revocations(4), "revocation list 4 is not newer than list 5"),
        (lambda served: served.revocations(6, by=served.foreign), "not signed by this mesh's authority"),
        (lambda served: served.revocations(5, by=served.foreign), "not signed by this mesh's authority"),
        (lambda _: b"", "not a PEM X.509 CRL"),
        (lambda _: b"\x00garbage\xff", "not a PEM X.509 CRL"),
        (lambda served: served.revocations(6)[:-60], "not a PEM X.509 CRL"),
    ],
    ids=["older", "foreign", "foreign of the same number", "empty", "garbage", "cut short"],
)
async def test_a_list_that_must_not_be_in_force_is_refused(
    served: Served, make: Callable[[Served], bytes], saying: str
) -> None:
    before = served.held()

    code, said = await call(served, "PUT", "/revocations", make(served))

    assert code == 409
    assert saying in said
    assert served.held() == before
    assert served.reloads == 0


@pytest.mark.parametrize("path", ["/revocations", "/identity/certificate"])
async def test_a_body_beyond_the_limit_is_refused(served: Served, path: str) -> None:
    before = served.held()

    code, _ = await call(served, "PUT", path, bytes(api.MAX_BODY_BYTES + 1))

    assert code == 413
    assert served.held() == before
    assert served.reloads == 0


async def test_a_full_list_just_below_the_limit_is_taken(served: Served, client: AgentClient) -> None:
    serials = [f"{number:040x}" for number in range(2**158, 2**158 + 18_000)]
    sent = served.revocations(6, *serials)
    assert 0.9 * api.MAX_BODY_BYTES < len(sent) <= api.MAX_BODY_BYTES

    await client.put_revocations(sent)

    assert len(identity.load(served.identity_dir).revocations.serials) == len(serials)


async def test_a_guest_is_wanted_each_time_that_somebody_asks(served: Served, client: AgentClient) -> None:
    await client.want_guest()
    await client.want_guest()
    assert served.guests_wanted == 2


async def test_the_error_log_is_read_page_by_page(served: Served, client: AgentClient) -> None:
    assert await client.errors(None, 10) == error_log.Page((), 0)
    log = error_log.ErrorLog(error_log.path_of(served.home.ensure()))
    for n in range(error_log.PAGE_RECORDS + 3):
        log.append({"event": "e", "level": "error", "n": n})

    last = await client.errors(None, 2)
    first = await client.errors(0, 2)
    rest = await client.errors(first.position, 2)

    total = error_log.PAGE_RECORDS + 3
    assert [msgspec.json.decode(record)["n"] for record in last.records] == [total - 2, total - 1]
    assert (len(first.records), first.more) == (error_log.PAGE_RECORDS, True)
    assert (len(rest.records), rest.more, rest.position) == (3, False, last.position)


async def test_a_full_page_of_the_longest_records_arrives(served: Served, client: AgentClient) -> None:
    log = error_log.ErrorLog(error_log.path_of(served.home.ensure()))
    for _ in range(60):
        log.append({"event": "e", "text": "x" * 15_000})
    page = await client.errors(0, 1)
    assert page.more
    assert sum(len(bytes(record)) for record in page.records) > 0.9 * error_log.PAGE_BYTES


@pytest.mark.parametrize("query", ["after=-1", "after=x", "last=", "where=1", "after=1e3"])
async def test_a_place_in_the_error_log_that_makes_no_sense_is_refused(served: Served, query: str) -> None:
    assert (await call(served, "GET", f"/errors?{query}"))[0] == 409


async def test_our_own_fault_is_a_500_with_its_reason(served: Served) -> None:
    served.guest_fault = RpcmeshError("worker-guest cannot run: exit status 1")
    assert await call(served, "PUT", "/workers/guest") == (500, "worker-guest cannot run: exit status 1")


async def test_a_caller_who_hangs_up_in_the_middle_leaves_the_agent_answering(
    served: Served, client: AgentClient
) -> None:
    _, writer = await asyncio.open_unix_connection(str(served.socket))
    writer.write(b"PUT /revocations HTTP/1.1\r\nHost: agent\r\nContent-Length: 1000\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()

    assert await client.status() == STATUS
    assert served.reloads == 0
