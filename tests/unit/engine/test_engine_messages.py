"""Frames: what goes in comes out, whatever the pieces; garbage is the peer's fault."""

from __future__ import annotations

import pytest

from rpcmesh.engine import messages as m
from rpcmesh.errors import PeerError

REQUESTS: tuple[m.Request, ...] = (
    m.Load(m.LoadSpec("smollm2", "/m.gguf", (m.DeviceSpec("/run/a.sock:1", "node-1", "w0"),))),
    m.GenerateRequest("a", m.ChatPrompt((m.ChatMessage("user", "hi 👋"),)), 5, m.Sampling(seed=1, stop=("\n",))),
    m.GenerateRequest("b", m.TextPrompt("once"), resume_token_ids=(1, 2)),
    m.GenerateRequest("c", m.TokenPrompt((1, 2, 3)), ignore_eos=True),
    m.GenerateRequest("d", m.TextPrompt("x"), constraint=m.GbnfGrammar("root ::= x"), top_logprobs=5),
    m.GenerateRequest(
        "e",
        m.TextPrompt("x"),
        sampling=m.Sampling(logit_bias=((5, float("-inf")), (6, 1.5))),
        constraint=m.JsonSchema("{}"),
    ),
    m.EmbedRequest("f", (m.TextPrompt("x"), m.TokenPrompt((1,)))),
    m.Cancel("a"),
    m.Shutdown(),
)
EVENTS: tuple[m.Event, ...] = (
    m.Started(7),
    m.Progress(0.5),
    m.Loaded(
        m.LoadedModel("s", 30, 4096, 49152, 1, 2, True, (m.DeviceLayers("n", "w0", "RPC0", (0, 1), False, 9),), 1, 2)
    ),
    m.LoadFailed("no"),
    m.Step((m.Delta("a", "Par", (1,)), m.Delta("b", "", (2,), "stop", m.Usage(3, 4)))),
    m.Step((m.Delta("a", "", (1,), logprobs=(m.TokenLogprobs(m.Candidate(b"\xc3", -0.5), ()),)),)),
    m.Embedded("f", b"\x00\x00\x80\x3f", 2),
    m.Failure("c", "invalid_prompt", "the prompt is empty"),
)


@pytest.mark.parametrize("n_bytes", [1, 2, 3, 5, 7, 64, 1 << 20])
def test_requests_survive_pieces_of_any_size(n_bytes: int) -> None:
    wire = b"".join(m.encode(request) for request in REQUESTS)
    frames = m.request_frames()
    received = [request for at in range(0, len(wire), n_bytes) for request in frames.feed(wire[at : at + n_bytes])]
    assert tuple(received) == REQUESTS


def test_events_survive_every_split_in_two() -> None:
    wire = b"".join(m.encode(event) for event in EVENTS)
    for cut in range(len(wire) + 1):
        frames = m.event_frames()
        assert (*frames.feed(wire[:cut]), *frames.feed(wire[cut:])) == EVENTS


def test_a_message_is_given_with_its_last_byte() -> None:
    frames = m.request_frames()
    wire = m.encode(m.Cancel("x"))
    assert list(frames.feed(wire[:-1])) == []
    assert list(frames.feed(wire[-1:])) == [m.Cancel("x")]


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (m.LENGTH.pack(m.MAX_FRAME_BYTES + 1), "longer than"),
        (m.LENGTH.pack(3) + b"\xc1\xc1\xc1", "is not a message"),
        (m.LENGTH.pack(1) + b"\x80", "is not a message"),
        (m.encode(m.Started(1)), "is not a message"),
    ],
)
def test_garbage_is_the_peers_fault(wire: bytes, says: str) -> None:
    with pytest.raises(PeerError, match=says):
        list(m.request_frames().feed(wire))


def test_a_lone_surrogate_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        m.encode(m.GenerateRequest("a", m.TextPrompt("\ud800")))
