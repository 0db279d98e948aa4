"""llama.cpp's log callback: C calls it, a Log gets lines."""

from __future__ import annotations

from llama_cpp import llama_cpp as llama

from rpcmesh.engine.ggml_log import Log


def attach_log(log: Log) -> None:
    """Send llama.cpp's and ggml's log lines to ``log``, for the life of the process."""

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def receive(level: int, text: bytes, _: object) -> None:
        log.receive(level, text.decode(errors="replace"))

    llama.llama_log_set(receive, None)
    # ggml keeps the bare function pointer: Python must keep the function.
    log.callback = receive
