"""What engine and owner say to each other, and how a message is framed. Nothing here touches a socket."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from rpcmesh.errors import PeerError

FinishReason: TypeAlias = Literal["stop", "length"]
FailureCode: TypeAlias = Literal[
    "context_length_exceeded",
    "invalid_prompt",
    "invalid_logit_bias",
    "invalid_grammar",
    "model_not_supported",
    "engine_error",
    "overloaded",
]


class DeviceSpec(Struct, frozen=True):
    """One worker to put layers on. ``endpoint`` is ``<unix path>:1``, or ``host:port`` with the stock transport.

    ``layers``: how many on each of its devices, the output head counted as one. Unless every worker of the spec says
    so for each of its devices, they are divided in proportion to free memory.
    """

    endpoint: str
    node: str
    worker: str
    layers: tuple[int, ...] = ()


class LoadSpec(Struct, frozen=True):
    """Which model goes where. Without ``devices`` it stays on the local CPU."""

    model_name: str
    model_path: str
    devices: tuple[DeviceSpec, ...] = ()
    # Tokens per sequence: prompt and completion together.
    n_ctx: int = 4096
    n_seq_max: int = 8
    n_batch: int = 512
    # How many cells may be kept for prompts to come: attention goes over them too.
    idle_tokens_max: int = 4096
    # How much of a batch goes through the workers at a time; 0: chosen by their number.
    n_ubatch: int = 0
    n_threads: int = 0
    # KV cells of prompts this long are saved, 0: of none; of one sequence at most so many bytes.
    snapshot_min_tokens: int = 0
    snapshot_bytes: int = 0
    # Where the files without a name lie that they go to. Empty: in memory, where the system has such files.
    snapshot_dir: str = ""


class DeviceLayers(Struct, frozen=True):
    """What one device really holds, as llama.cpp said while loading. ``node`` is None for the local CPU."""

    node: str | None
    worker: str | None
    device: str
    # Indices of the repeating layers.
    layers: tuple[int, ...]
    # Whether the output head lies here too.
    output: bool
    weight_bytes: int


class LoadedModel(Struct, frozen=True):
    """A model that has already answered: ``first_token_ms`` is the time its first real token, or vector, took."""

    name: str
    n_layer: int
    n_ctx: int
    n_vocab: int
    n_params: int
    size_bytes: int
    has_chat_template: bool
    placement: tuple[DeviceLayers, ...]
    load_s: float
    first_token_ms: float
    # Whether it turns texts into vectors, and generates none.
    embeds: bool = False


class Sampling(Struct, frozen=True):
    """How the next token is chosen. Temperature 0 is greedy; ``top_k`` 0 is off; without ``seed`` each run differs.

    ``logit_bias`` pairs a token id with what is added to its logit; minus infinity forbids the token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()


class GbnfGrammar(Struct, frozen=True, tag="gbnf"):
    """A grammar as llama.cpp writes them; the answer is what its rule ``root`` describes."""

    text: str


class JsonSchema(Struct, frozen=True, tag="json_schema"):
    """The answer is one JSON value that this schema, itself a JSON text, describes."""

    text: str


Constraint: TypeAlias = GbnfGrammar | JsonSchema


class ChatMessage(Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    content: str
    name: str | None = None


class ChatPrompt(Struct, frozen=True, tag="chat"):
    """Messages, to be rendered with the model's own chat template."""

    messages: tuple[ChatMessage, ...]


class TextPrompt(Struct, frozen=True, tag="text"):
    """Text to continue. The vocabulary decides whether a BOS token comes first."""

    text: str


class TokenPrompt(Struct, frozen=True, tag="tokens"):
    """Token ids, taken as they are."""

    token_ids: tuple[int, ...]


Prompt: TypeAlias = ChatPrompt | TextPrompt | TokenPrompt


class Piece(Struct, frozen=True):
    """The KV cells of tokens ``start`` to ``stop`` (not included), as llama.cpp writes them.

    They are ``n_bytes`` at ``offset`` of a file; ``digest`` is their BLAKE2b, of 16 bytes.
    """

    start: int
    stop: int
    offset: int
    n_bytes: int
    digest: bytes


class Snapshot(Struct, frozen=True):
    """What an engine now lost had saved of a sequence. ``fingerprint`` says of which model, and in what form.

    The pieces follow one another from the first token on. The file itself comes beside the messages, see
    :mod:`rpcmesh.engine.file_wire`.
    """

    fingerprint: str
    pieces: tuple[Piece, ...]


class GenerateRequest(Struct, frozen=True, tag="generate"):
    """One completion.

    ``resume_token_ids`` are tokens of this same completion that an engine now lost had already delivered. They are
    neither sent again nor sampled again: the first delta continues after them, text held back for a stop string
    or half a code point included, and they count towards ``max_tokens`` and the usage.

    ``top_logprobs`` asks for each token's log probability and for those of so many best tokens; None for neither.
    """

    id: str
    prompt: Prompt
    # None: until the context is full.
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    ignore_eos: bool = False
    resume_token_ids: tuple[int, ...] = ()
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    # Tokens from the first on that need not be prefilled. It is a gain, never a condition.
    snapshot: Snapshot | None = None


class EmbedRequest(Struct, frozen=True, tag="embed"):
    """One vector for each text."""

    id: str
    inputs: tuple[TextPrompt | TokenPrompt, ...]


class Load(Struct, frozen=True, tag="load"):
    """Load a model. Comes once: an engine that failed to load can be asked again, one that succeeded cannot."""

    spec: LoadSpec


class Cancel(Struct, frozen=True, tag="cancel"):
    """Forget a request. Nothing more is said about it."""

    id: str


class StopSaving(Struct, frozen=True, tag="stop_saving"):
    """Nobody keeps a request's KV cells any more: save no others, and close their file."""

    id: str


class Score(Struct, frozen=True, tag="score"):
    """How good the model finds tokens that were chosen elsewhere. An engine does it while it serves nobody."""

    id: str
    prompt: Prompt
    token_ids: tuple[int, ...]


class Shutdown(Struct, frozen=True, tag="shutdown"):
    """End the process."""


class Usage(Struct, frozen=True):
    """``completion_tokens`` counts every sampled token, an end-of-generation token included.

    ``cached_tokens`` of the prompt were not prefilled: their KV cells were there.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Candidate(Struct, frozen=True):
    """A token, by its bytes, and the logarithm of its probability by the model alone: before penalties or a bias."""

    piece: bytes
    logprob: float


class TokenLogprobs(Struct, frozen=True):
    """The token that was sampled, and the best ones at its place in falling order."""

    sampled: Candidate
    best: tuple[Candidate, ...]


class Delta(Struct, frozen=True):
    """What one step added to one request.

    ``text`` may be empty while ``token_ids`` is not: half a code point, or what could become a stop string, is held
    back. ``logprobs``, where asked for, come with their token and not with its text; an end-of-generation token, which
    has no text, has none. ``finish_reason`` and ``usage`` come with the last delta only.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


class Step(Struct, frozen=True, tag="step"):
    """One decode of the model: the deltas of all its sequences."""

    deltas: tuple[Delta, ...]


class Failure(Struct, frozen=True, tag="failure"):
    """One request ended without a finish reason."""

    id: str
    code: FailureCode
    message: str


class Scored(Struct, frozen=True, tag="scored"):
    """For each token by how much the best logit at its place beats its own: 0 where it is the best itself."""

    id: str
    margins: tuple[float, ...]


class Embedded(Struct, frozen=True, tag="embedded"):
    """The vector of the request's next input: float32, little-endian, of length 1."""

    id: str
    vector: bytes
    n_tokens: int


class Saved(Struct, frozen=True, tag="saved"):
    """A piece is in the file of this request. With one that starts at 0 a new file has come beside the messages."""

    id: str
    fingerprint: str
    piece: Piece
    seconds: float


class Restored(Struct, frozen=True, tag="restored"):
    """So many tokens of a request's snapshot are in the KV cells again. 0: it was of no use, and all is prefilled."""

    id: str
    n_tokens: int
    seconds: float


class Started(Struct, frozen=True, tag="started"):
    """The process is up and llama.cpp's libraries are in it."""

    pid: int


class Progress(Struct, frozen=True, tag="progress"):
    """How much of the weights is in place, 0 to 1."""

    fraction: float


class Loaded(Struct, frozen=True, tag="loaded"):
    """The model is loaded and has answered."""

    model: LoadedModel


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The model is not loaded; one line says why. ``memory``: with more of it, or less context, it might be."""

    message: str
    memory: bool = False


Request: TypeAlias = Load | GenerateRequest | EmbedRequest | Cancel | StopSaving | Score | Shutdown
Event: TypeAlias = Started | Progress | Loaded | LoadFailed | Step | Failure | Scored | Embedded | Saved | Restored

# A frame is a u32 length, little-endian, and that many bytes of msgpack. Chats are text: 64 MiB is beyond any context.
LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 64 << 20

_encoder = msgspec.msgpack.Encoder()
M = TypeVar("M")


def encode(message: Request | Event) -> bytes:
    """One frame. Raises :class:`UnicodeEncodeError` when a text holds a lone surrogate."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


class Frames(Generic[M]):
    """Takes bytes as they come, in pieces of any size, and gives the messages they complete."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._pending = bytearray()

    def feed(self, received: bytes) -> Iterator[M]:
        """Raises :class:`PeerError` for a frame that is too long or is not a message."""
        self._pending += received
        while len(self._pending) >= LENGTH.size:
            (n_bytes,) = LENGTH.unpack_from(self._pending)
            if n_bytes > MAX_FRAME_BYTES:
                raise PeerError(f"engine frame of {n_bytes} bytes is longer than {MAX_FRAME_BYTES}")
            end = LENGTH.size + n_bytes
            if len(self._pending) < end:
                return
            body = bytes(self._pending[LENGTH.size : end])
            del self._pending[:end]
            try:
                yield self._decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise PeerError(f"engine frame {body[:40]!r} is not a message: {error}") from error


def request_frames() -> Frames[Request]:
    """The engine's side of the wire."""
    decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
    return Frames(decoder)


def event_frames() -> Frames[Event]:
    """The owner's side of the wire."""
    decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
    return Frames(decoder)
