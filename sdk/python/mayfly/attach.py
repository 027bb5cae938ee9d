"""The streams of a program over an upgraded connection."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any, BinaryIO, Iterator, Optional, Tuple, Union

from .errors import MayflyError, from_problem
from .transport import Transport, target_of

PROTOCOL = "mayfly-attach/1"

STDIN, STDOUT, STDERR, EXIT, ERROR = range(5)

MAX_FRAME = 1 << 16
_HEADER = struct.Struct(">BI")
_MAX_HEAD = 64 << 10

Input = Union[bytes, str, BinaryIO]


class Attachment:
    """A connection to the streams of an instance. Attach before starting it, and nothing is missed."""

    def __init__(self, transport: Transport, ref: str, stdin: bool, space: Optional[str]):
        connection = transport.connect()
        self._transport = transport
        self._socket: socket.socket = connection.sock
        self._socket.settimeout(None)
        try:
            query = {"stdin": "true" if stdin else "false", "space": space}
            self._socket.sendall(
                f"POST {target_of(('instances', ref, 'attach'), query)} HTTP/1.1\r\n"
                f"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            self._file = self._socket.makefile("rb")
            self._upgrade()
        except OSError as e:
            connection.close()
            raise transport._lost(e) from e
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _upgrade(self) -> None:
        status, headers, size = 0, {}, 0
        while True:
            line = self._file.readline(_MAX_HEAD)
            size += len(line)
            if not line.endswith(b"\n") or size > _MAX_HEAD:
                raise self._transport._lost(ConnectionError("the answer broke off"))
            text = line.decode("latin-1").strip()
            if not status:
                status = int(text.split(" ")[1])
            elif text:
                name, _, value = text.partition(":")
                headers[name.strip().lower()] = value.strip()
            else:
                break
        if status == 101 and headers.get("upgrade") == PROTOCOL:
            return
        if status < 300:
            raise MayflyError("internal", f"the daemon at {self._transport.host} does not speak {PROTOCOL}")
        data = self._file.read(min(int(headers.get("content-length") or 0), 1 << 20))
        try:
            problem = json.loads(data)
        except ValueError:
            problem = None
        raise from_problem(status, problem if isinstance(problem, dict) else None)

    def feed(self, stdin: Input) -> threading.Thread:
        """Sends input in a thread of its own, and its end."""
        thread = threading.Thread(target=self._feed, args=(stdin,), name="mayfly-stdin", daemon=True)
        thread.start()
        return thread

    def _feed(self, stdin: Input) -> None:
        try:
            if isinstance(stdin, str):
                stdin = stdin.encode()
            if isinstance(stdin, (bytes, bytearray, memoryview)):
                data = memoryview(stdin)
                for i in range(0, len(data), MAX_FRAME):
                    self._send(data[i : i + MAX_FRAME])
            else:
                read = getattr(stdin, "read1", stdin.read)
                while True:
                    data = read(MAX_FRAME)
                    if not data:
                        break
                    self._send(data.encode() if isinstance(data, str) else data)
            self._send(b"")
        except (OSError, ValueError):
            pass  # the program may end before its input does

    def _send(self, data: Any) -> None:
        self._socket.sendall(_HEADER.pack(STDIN, len(data)) + bytes(data))

    def _exactly(self, n: int) -> bytes:
        data = self._file.read(n)
        if len(data) < n:
            raise self._transport._lost(ConnectionError("the stream broke off"))
        return data

    def frames(self) -> Iterator[Tuple[int, Any]]:
        """Yields (STDOUT or STDERR, bytes) and, last, (EXIT, the ended instance)."""
        try:
            while True:
                stream, size = _HEADER.unpack(self._exactly(_HEADER.size))
                if size > MAX_FRAME or stream not in (STDOUT, STDERR, EXIT, ERROR):
                    raise MayflyError("internal", "the daemon sent something that is no frame")
                data = self._exactly(size)
                if stream == EXIT:
                    yield stream, json.loads(data)
                    return
                if stream == ERROR:
                    problem = json.loads(data)
                    raise from_problem(problem.get("status", 500), problem)
                yield stream, data
        except OSError as e:
            raise self._transport._lost(e) from e
        finally:
            self.close()

    def close(self) -> None:
        """Ends the connection. The program goes on."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who feeds it
        except OSError:
            pass
        self._file.close()
        self._connection.close()
