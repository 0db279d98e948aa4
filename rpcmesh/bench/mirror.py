"""A Unix server for measuring: a connection's first byte says whether it is echoed or only counted."""

from __future__ import annotations

import socket
import sys
import threading

ECHO, COUNT = b"e", b"c"
CHUNK = 1 << 18


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client,), daemon=True).start()


def _serve(client: socket.socket) -> None:
    with client:
        mode = client.recv(1)
        buffer = bytearray(CHUNK)
        total = 0
        while size := client.recv_into(buffer):
            total += size
            if mode == ECHO:
                client.sendall(memoryview(buffer)[:size])
        if mode == COUNT:
            client.sendall(total.to_bytes(8, "little"))


if __name__ == "__main__":
    main(sys.argv[1])
