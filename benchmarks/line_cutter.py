"""A forwarder between a console and a board whose line can be cut like a cable, or be noisy: what the board says meanwhile is gone."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

READ_BYTES = 4096


class LineCutter:
    """Listens on a loopback port and forwards to the board at `upstream`, which is never disconnected itself.

    Parameters
    ----------
    upstream : int
        Port of the board on the loopback interface.
    damage : callable, optional
        What becomes of bytes on their way, in either direction.

    Attributes
    ----------
    port : int
    cuts : int
        How often a connected line was cut.
    """

    def __init__(self, upstream: int, damage: Callable[[bytes], bytes] = bytes) -> None:
        self._damage = damage
        self._board = socket.create_connection(("127.0.0.1", upstream))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = 0
        self._client: socket.socket | None = None
        self._cut_until_s = 0.0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._forward, daemon=True)

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end."""
        return self._client is not None

    def cut(self, for_s: float) -> None:
        """Cut the line in whatever is passing, for so long."""
        with self._lock:
            self._cut_until_s = time.monotonic() + for_s
            if self._client is not None:
                self._client.close()
                self._client, self.cuts = None, self.cuts + 1

    def _forward(self) -> None:
        while not self._ended.is_set():
            with selectors.DefaultSelector() as ready:
                for end in filter(None, (self._board, self._listener, self._client)):
                    if end.fileno() >= 0:
                        ready.register(end, selectors.EVENT_READ)
                chosen = [key.fileobj for key, _ in ready.select(0.02)]
            with self._lock:
                for some in chosen:
                    self._serve(some)

    def _serve(self, end: object) -> None:
        if end is self._listener:
            client, _ = self._listener.accept()
            if self._client is not None or time.monotonic() < self._cut_until_s:
                client.close()
            else:
                self._client = client
        elif end is self._board:
            data = self._board.recv(READ_BYTES)
            if not data:
                self._ended.set()
            if self._client is not None:
                with contextlib.suppress(OSError):  # a client that has gone is seen at its own end
                    self._client.sendall(self._damage(data))
        elif end is self._client:
            assert self._client is not None
            try:
                data = self._client.recv(READ_BYTES)
            except OSError:
                data = b""
            if data:
                self._board.sendall(self._damage(data))
            else:
                self._client.close()
                self._client = None

    def __enter__(self) -> LineCutter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        for end in (self._board, self._listener, self._client):
            if end is not None:
                end.close()
