"""A TCP server that says exactly what a test tells it to, for clients that must bear it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self


class Peer:
    """The server's end of one connection."""

    def __init__(self, accepted: socket.socket, number: int) -> None:
        self.socket = accepted
        self.number = number
        """Connections before this one."""

    def request(self) -> bytes:
        """The next request's head; b"" if the client has closed."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in data:
                piece = self.socket.recv(65536)
                if not piece:
                    return b""
                data += piece
        return data

    def requests(self) -> Iterator[bytes]:
        """Heads until the client closes."""
        while head := self.request():
            yield head

    def say(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def reset(self) -> None:
        """End the connection the rude way."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def wait_closed(self) -> None:
        """Until the client has closed."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65536):
                pass


class ScriptedServer:
    """Runs `script` with each connection, in a thread of its own; the connection ends with it."""

    def __init__(self, script: Callable[[Peer], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A thread in accept() is woken by shutdown, not by close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(accepted, self.connections)
            self.connections += 1
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        with peer.socket:
            self._script(peer)


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP answer as text."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunked(*parts: bytes, end: bool = True) -> bytes:
    """An HTTP answer in chunks."""
    text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return text + b"0\r\n\r\n" if end else text
