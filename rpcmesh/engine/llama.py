"""The only importer of llama_cpp: ctypes in, plain values out. Nothing here decides what runs next."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from llama_cpp import llama_cpp as llama

from rpcmesh.engine import ggml_log
from rpcmesh.engine.messages import DeviceSpec, LoadSpec, Sampling
from rpcmesh.engine.placement import Device
from rpcmesh.engine.scheduler import Batch, Limits
from rpcmesh.errors import RpcmeshError

# ggml-backend.h, which llama_cpp has no bindings for: name, result, arguments. libllama's own libraries hold them.
_GGML: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("ggml_backend_load_all_from_path", None, (ctypes.c_char_p,)),
    ("ggml_backend_reg_count", ctypes.c_size_t, ()),
    ("ggml_backend_reg_by_name", ctypes.c_void_p, (ctypes.c_char_p,)),
    ("ggml_backend_reg_get_proc_address", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    ("ggml_backend_register", None, (ctypes.c_void_p,)),
    ("ggml_backend_reg_dev_count", ctypes.c_size_t, (ctypes.c_void_p,)),
    ("ggml_backend_reg_dev_get", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t)),
    ("ggml_backend_dev_name", ctypes.c_char_p, (ctypes.c_void_p,)),
    ("ggml_backend_dev_buffer_type", ctypes.c_void_p, (ctypes.c_void_p,)),
    ("ggml_backend_buft_name", ctypes.c_char_p, (ctypes.c_void_p,)),
    (
        "ggml_backend_dev_memory",
        None,
        (ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)),
    ),
)
_ADD_SERVER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)

# llama.cpp's own default for how far back penalties look.
PENALTY_LAST_N = 64
GGUF_MAGIC = b"GGUF"


class LoadError(RpcmeshError):
    """The model cannot be loaded as asked."""


class DecodeError(RpcmeshError):
    """llama.cpp refused one batch. The process lives on; a lost worker ends it instead."""


def attach_log(log: ggml_log.Log) -> None:
    """Send llama.cpp's and ggml's log lines to ``log``, for the life of the process."""

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def receive(level: int, text: bytes, _: object) -> None:
        log.receive(level, text.decode(errors="replace"))

    llama.llama_log_set(receive, None)
    # ggml keeps the bare function pointer: Python must keep the function.
    log.callback = receive


def _bind_ggml() -> Any:
    library = llama._lib
    for name, result, arguments in _GGML:
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
    return library


class Runtime:
    """One loaded model and its context.

    KV cells are unified: all sequences share one buffer of ``n_ctx * n_seq_max`` cells, of which the scheduler gives
    each sequence at most ``n_ctx``. With a buffer per sequence llama.cpp would cut a step into one graph for each run
    of adjacent slots and one for each prompt chunk, and every graph is a round trip through all workers.
    """

    def __init__(self, spec: LoadSpec, log: ggml_log.Log, on_progress: Callable[[float], bool]) -> None:
        """Load. ``on_progress`` returns False to give up. Raises :class:`LoadError`."""
        self._log = log
        _check_file(Path(spec.model_path))
        self._ggml = _bind_ggml()
        llama.llama_backend_init()
        if not self._ggml.ggml_backend_reg_count():
            # A build with dynamic backends registers none by itself; a static one has them all.
            self._ggml.ggml_backend_load_all_from_path(str(Path(llama._lib._name).parent).encode())
        handles = [self._add_worker(device) for device in spec.devices]
        self.devices = tuple(device for worker in handles for device, _ in worker)
        self._model = self._load_model(spec, [handle for worker in handles for _, handle in worker], on_progress)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama.llama_vocab_n_tokens(self._vocab)
        self.n_layer: int = llama.llama_model_n_layer(self._model)
        self.n_params: int = llama.llama_model_n_params(self._model)
        self.size_bytes: int = llama.llama_model_size(self._model)
        n_ctx = min(spec.n_ctx, llama.llama_model_n_ctx_train(self._model))
        self.limits = Limits(n_ctx=n_ctx, n_seq_max=spec.n_seq_max, n_batch=max(spec.n_batch, spec.n_seq_max))
        self._context = self._make_context(spec)
        self._memory = llama.llama_get_memory(self._context)
        self._allocate_batch(self.limits.n_batch)
        self._pieces: dict[int, bytes] = {}
        self.eog = frozenset(token for token in range(self.n_vocab) if llama.llama_vocab_is_eog(self._vocab, token))

    # -- loading ---------------------------------------------------------------------------------------------------

    def _add_worker(self, spec: DeviceSpec) -> list[tuple[Device, int]]:
        ggml = self._ggml
        registry = ggml.ggml_backend_reg_by_name(b"RPC")
        if not registry:
            raise LoadError("this build of llama.cpp has no RPC backend", hint="rpcmesh build")
        add_server = _ADD_SERVER(ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_rpc_add_server"))
        server = add_server(spec.endpoint.encode())
        n_devices = ggml.ggml_backend_reg_dev_count(server) if server else 0
        if not n_devices:
            raise LoadError(f"worker {spec.node}/{spec.worker} at {spec.endpoint!r} offers no device")
        ggml.ggml_backend_register(server)
        handles = [ggml.ggml_backend_reg_dev_get(server, index) for index in range(n_devices)]
        return [
            (
                Device(
                    node=spec.node,
                    worker=spec.worker,
                    name=ggml.ggml_backend_dev_name(handle).decode(),
                    buffer=ggml.ggml_backend_buft_name(ggml.ggml_backend_dev_buffer_type(handle)).decode(),
                ),
                handle,
            )
            for handle in handles
        ]

    def _load_model(self, spec: LoadSpec, handles: Sequence[int], on_progress: Callable[[float], bool]) -> Any:
        n_devices_max = llama.llama_max_devices()
        if len(handles) > n_devices_max:
            raise LoadError(f"{len(handles)} devices are more than the {n_devices_max} that llama.cpp can use")
        # The list ends with NULL; an empty one, unlike no list, means the CPU alone.
        devices = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
        split = (ctypes.c_float * n_devices_max)(*(self._free_bytes(handle) for handle in handles))
        progress = llama.llama_progress_callback(lambda fraction, _: on_progress(fraction))
        params = llama.llama_model_default_params()
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
        params.tensor_split = split
        params.split_mode = llama.LLAMA_SPLIT_MODE_LAYER
        params.n_gpu_layers = -1
        params.progress_callback = progress
        self._log.start_load()
        model = llama.llama_model_load_from_file(spec.model_path.encode(), params)
        if not model:
            raise LoadError(f"model {spec.model_path!r} cannot be loaded: {self._log.first_error()}")
        if llama.llama_model_has_encoder(model):
            raise LoadError(f"model {spec.model_path!r} has an encoder: only decoder models generate text here")
        return model

    def _free_bytes(self, device: int) -> float:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        # A device that reports nothing gets a token share rather than none: a split of zeros means "choose for me".
        return float(free.value or 1)

    def _make_context(self, spec: LoadSpec) -> Any:
        params = llama.llama_context_default_params()
        params.n_ctx = self.limits.n_ctx * self.limits.n_seq_max
        params.n_batch = self.limits.n_batch
        params.n_ubatch = self.limits.n_batch
        params.n_seq_max = self.limits.n_seq_max
        # Only a sequence's last token has logits; the default reserves a vocabulary's worth for every batch token.
        params.n_outputs_max = self.limits.n_seq_max
        params.n_threads = params.n_threads_batch = spec.n_threads or _threads(spec)
        params.kv_unified = True
        params.no_perf = True
        context = llama.llama_init_from_model(self._model, params)
        if not context:
            raise LoadError(f"no context of {params.n_ctx} tokens fits: {self._log.first_error()}")
        return context

    def _allocate_batch(self, n_batch: int) -> None:
        # One set of arrays for the life of the context. Each token's sequence list is one id, at a fixed address.
        self._token = (llama.llama_token * n_batch)()
        self._position = (llama.llama_pos * n_batch)()
        self._n_sequences = (ctypes.c_int32 * n_batch)(*([1] * n_batch))
        self._sequence = (llama.llama_seq_id * n_batch)()
        pointer = ctypes.POINTER(llama.llama_seq_id)
        width = ctypes.sizeof(llama.llama_seq_id)
        self._sequence_lists = (pointer * n_batch)(
            *(ctypes.cast(ctypes.byref(self._sequence, index * width), pointer) for index in range(n_batch))
        )
        self._wants_logits = (ctypes.c_int8 * n_batch)()
        self._batch = llama.llama_batch(
            n_tokens=0,
            token=self._token,
            embd=None,
            pos=self._position,
            n_seq_id=self._n_sequences,
            seq_id=self._sequence_lists,
            logits=self._wants_logits,
        )

    # -- running ---------------------------------------------------------------------------------------------------

    def decode(self, batch: Batch) -> None:
        """Run the model on one batch. Raises :class:`DecodeError`; a lost worker aborts the process."""
        end = 0
        for chunk in batch.chunks:
            n_tokens = len(chunk.tokens)
            start, end = end, end + n_tokens
            self._token[start:end] = chunk.tokens
            self._position[start:end] = range(chunk.position, chunk.position + n_tokens)
            self._sequence[start:end] = [chunk.slot] * n_tokens
            self._wants_logits[start:end] = [0] * n_tokens
            self._wants_logits[end - 1] = chunk.samples
        self._batch.n_tokens = end
        status = llama.llama_decode(self._context, self._batch)
        if status != 0:
            raise DecodeError(f"llama_decode of {end} tokens returned {status}")

    def forget(self, slot: int) -> None:
        """Drop a sequence's KV cells."""
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def sampler(self, sampling: Sampling, *, seed: int, ignore_eos: bool, seen: Sequence[int]) -> Sampler:
        """A sampler for one sequence. ``seen`` are the tokens before the first that it samples."""
        return Sampler(self._context, self._chain(sampling, seed, ignore_eos), seen)

    def _chain(self, sampling: Sampling, seed: int, ignore_eos: bool) -> Any:
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = llama.llama_sampler_chain_init(params)
        greedy = sampling.temperature <= 0
        # The order matters: each step sees what the one before it left.
        steps: tuple[tuple[bool, Callable[[], Any]], ...] = (
            (ignore_eos, lambda: self._forbid(self.eog)),
            (True, lambda: self._penalties(sampling)),
            (sampling.top_k > 0 and not greedy, lambda: llama.llama_sampler_init_top_k(sampling.top_k)),
            (sampling.top_p < 1 and not greedy, lambda: llama.llama_sampler_init_top_p(sampling.top_p, 1)),
            (sampling.min_p > 0 and not greedy, lambda: llama.llama_sampler_init_min_p(sampling.min_p, 1)),
            (not greedy, lambda: llama.llama_sampler_init_temp(sampling.temperature)),
            (not greedy, lambda: llama.llama_sampler_init_dist(seed & 0xFFFFFFFF)),
            (greedy, llama.llama_sampler_init_greedy),
        )
        for wanted, make in steps:
            if wanted:
                llama.llama_sampler_chain_add(chain, make())
        return chain

    def _forbid(self, tokens: frozenset[int]) -> Any:
        biases = (llama.llama_logit_bias * len(tokens))(*((token, float("-inf")) for token in sorted(tokens)))
        return llama.llama_sampler_init_logit_bias(self.n_vocab, len(tokens), biases)

    def _penalties(self, sampling: Sampling) -> Any:
        return llama.llama_sampler_init_penalties(
            self.n_vocab,
            PENALTY_LAST_N,
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )

    # -- the vocabulary --------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids; a control token's text becomes that token. ``add_special``: BOS and EOS as the model says."""
        raw = text.encode()
        # A token is at least one byte, but for the special ones around them and the space some vocabularies add.
        n_max = len(raw) + 8
        tokens = (llama.llama_token * n_max)()
        n_tokens = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, n_max, add_special, True)
        return list(tokens[:n_tokens])

    def tokenize_chat(self, rendered: str) -> list[int]:
        """Like :meth:`tokenize`, for a rendered template: most write their own BOS, and two would be one too many."""
        tokens = self.tokenize(rendered, add_special=False)
        bos = llama.llama_vocab_bos(self._vocab)
        if llama.llama_vocab_get_add_bos(self._vocab) and tokens[:1] != [bos]:
            return [bos, *tokens]
        return tokens

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in text; none for a control token. They may be part of a code point."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        n_bytes = 64
        while True:
            buffer = ctypes.create_string_buffer(n_bytes)
            written = llama.llama_token_to_piece(self._vocab, token, buffer, n_bytes, 0, special)
            if written >= 0:
                return buffer.raw[:written]
            n_bytes = -written

    @property
    def chat_template(self) -> str | None:
        """The GGUF's default chat template, as it stands."""
        found = llama.llama_model_chat_template(self._model, None)
        return found.decode(errors="replace") if found else None

    @property
    def bos_text(self) -> str:
        return self._special_text(llama.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self._special_text(llama.llama_vocab_eos(self._vocab))

    def _special_text(self, token: int) -> str:
        return self._read_piece(token, special=True).decode(errors="replace") if token >= 0 else ""


class Sampler:
    """llama.cpp's sampler chain for one sequence. Free it when the sequence ends."""

    def __init__(self, context: Any, chain: Any, seen: Sequence[int]) -> None:
        self._context = context
        self._chain = chain
        # Penalties count the prompt too, as llama-server does: so a resumed completion is penalised as before.
        for token in seen[-PENALTY_LAST_N:]:
            llama.llama_sampler_accept(chain, token)

    def sample(self, index: int) -> int:
        """The next token, from the logits at this place of the batch decoded last."""
        token: int = llama.llama_sampler_sample(self._chain, self._context, index)
        return token

    def free(self) -> None:
        llama.llama_sampler_free(self._chain)


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise LoadError(f"model {str(path)!r} cannot be read: {error.strerror}", hint="rpcmesh model ls") from error
    if magic != GGUF_MAGIC:
        raise LoadError(f"model {str(path)!r} is not a GGUF file: it begins with {magic!r}", hint="rpcmesh model ls")


def _threads(spec: LoadSpec) -> int:
    # With workers the CPU only looks up embeddings, and more threads would spin against a worker on this machine.
    return 1 if spec.devices else psutil.cpu_count(logical=False) or 1
