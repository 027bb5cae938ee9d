"""HTTP over a unix socket or TCP, with the standard library's client."""

from __future__ import annotations

import errno
import http.client
import json
import os
import select
import socket
import ssl
import threading
import time
from typing import Any, Dict, Iterator, Optional, Tuple, Union
from urllib.parse import quote, urlencode, urlsplit

from .errors import MayflyError, from_problem

DEFAULT_HOST = "unix:///run/mayfly/mayfly.sock"
HOST_VARIABLE = "MAYFLY_HOST"

_MAX_ANSWER = 64 << 20  # bytes of one JSON answer
_MAX_LINE = 8 << 20  # bytes of one line of a stream
_CONNECT = 10.0  # seconds for one connection to come about
_IDLE = 8  # connections that are kept
_SILENCE = 120.0  # seconds; the daemon shows a sign of life on every stream each 20

_Connection = Union[http.client.HTTPConnection, http.client.HTTPSConnection]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str):
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT)
        self.sock.connect(self._path)


class Transport:
    """Sends requests to one daemon. It is safe for several threads."""

    def __init__(self, host: Optional[str] = None, patience: float = 0.0):
        host = host or os.environ.get(HOST_VARIABLE) or DEFAULT_HOST
        url = urlsplit(host)
        if url.scheme == "unix" and not url.netloc and url.path.startswith("/"):
            pass
        elif url.scheme in ("http", "https") and url.hostname and not url.path.strip("/"):
            pass
        else:
            raise MayflyError("invalid", f"{host!r} is not where a daemon can be", "use unix:///path/of/the.sock or http://host:port")
        self.host = host
        self.patience = patience  # seconds to wait for a daemon that is away
        self._url = url
        self._lock = threading.Lock()
        self._idle: list = []
        self._owner = os.getpid()

    def close(self) -> None:
        """Drops the connections that wait. The transport can still be used."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):  # else its making failed
            self.close()

    def _new(self) -> _Connection:
        if self._url.scheme == "unix":
            return _UnixConnection(self._url.path)
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(self._url.hostname, self._url.port, timeout=_CONNECT, context=ssl.create_default_context())
        return http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=_CONNECT)

    def connect(self) -> _Connection:
        """A new connection. It waits for a daemon that is away as long as patience says."""
        until = time.monotonic() + self.patience
        pause = 0.02
        while True:
            connection = self._new()
            try:
                connection.connect()
                return connection
            except OSError as e:
                connection.close()
                if e.errno not in (errno.ECONNREFUSED, errno.ENOENT) or time.monotonic() + pause > until:
                    raise self._lost(e) from e
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _take(self) -> _Connection:
        with self._lock:
            if self._owner != os.getpid():  # a fork shares the parent's connections
                self._idle, self._owner = [], os.getpid()
            while self._idle:
                connection = self._idle.pop()
                if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                    return connection
                connection.close()  # the daemon has closed it
        return self.connect()

    def _give(self, connection: _Connection) -> None:
        with self._lock:
            if connection.sock is not None and len(self._idle) < _IDLE and self._owner == os.getpid():
                self._idle.append(connection)
                return
        connection.close()

    def _lost(self, e: BaseException) -> MayflyError:
        if isinstance(e, OSError) and e.errno == errno.EACCES:
            return MayflyError("denied", f"may not talk to the daemon at {self.host}", "become root, or join the group mayfly")
        if isinstance(e, OSError) and e.errno in (errno.ECONNREFUSED, errno.ENOENT):
            return MayflyError("unavailable", f"cannot reach the daemon at {self.host}", "start it with: mayfly up")
        if isinstance(e, TimeoutError) or isinstance(e, socket.timeout):
            return MayflyError("timed-out", f"the daemon at {self.host} says nothing")
        return MayflyError("unavailable", f"lost the daemon at {self.host}: {e}")

    def open(
        self, method: str, target: str, body: Any = None, headers: Optional[Dict[str, str]] = None, timeout: Optional[float] = _SILENCE
    ) -> Tuple[_Connection, http.client.HTTPResponse]:
        """Sends a request and returns the answer, of any status, with its connection."""
        for again in (method == "GET", False):
            connection = self._take()
            connection.sock.settimeout(timeout)
            try:
                connection.request(method, target, body=body, headers=headers or {})
                return connection, connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as e:
                connection.close()
                if not again:
                    raise self._lost(e) from e
            except (OSError, http.client.HTTPException) as e:
                connection.close()
                raise self._lost(e) from e
            except BaseException:
                connection.close()
                raise
        raise AssertionError("unreachable")

    def read(self, connection: _Connection, response: http.client.HTTPResponse, limit: Optional[int] = None) -> bytes:
        """Reads the whole answer and keeps the connection for another."""
        try:
            data = response.read() if limit is None else response.read(limit + 1)
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            raise self._lost(e) from e
        except BaseException:
            connection.close()
            raise
        if limit is not None and len(data) > limit:
            connection.close()
            raise MayflyError("too-large", f"the daemon's answer is longer than {limit} bytes")
        if response.will_close:
            connection.close()
        else:
            self._give(connection)
        return data

    def send(self, method: str, path: Tuple[str, ...], query: Optional[dict] = None, value: Any = None, headers: Optional[dict] = None) -> bytes:
        """Sends a request with a JSON body, or none, and returns the answer's bytes."""
        connection, response = self.open(method, target_of(path, query), *encode(value, headers))
        data = self.read(connection, response, _MAX_ANSWER)
        if response.status >= 300:
            raise problem_of(response, data)
        return data

    def json(self, method: str, path: Tuple[str, ...], query: Optional[dict] = None, value: Any = None, headers: Optional[dict] = None) -> Any:
        """As send, but for the answer, which is decoded."""
        data = self.send(method, path, query, value, headers)
        try:
            return json.loads(data) if data.strip() else None
        except ValueError as e:
            raise MayflyError("internal", f"decode the daemon's answer: {e}") from e

    def stream(self, method: str, path: Tuple[str, ...], query: Optional[dict] = None, value: Any = None) -> Iterator[dict]:
        """Yields each message of a stream, the last with its result. One that breaks off is an error."""
        connection, response = self.open(method, target_of(path, query), *encode(value, None))
        if response.status >= 300:
            raise problem_of(response, self.read(connection, response, _MAX_ANSWER))
        try:
            while True:
                try:
                    line = response.readline(_MAX_LINE + 1)
                except (OSError, http.client.HTTPException) as e:
                    raise self._lost(e) from e
                if not line.endswith(b"\n"):
                    raise self._lost(ConnectionError("the stream broke off"))
                try:
                    message = json.loads(line)
                except ValueError as e:
                    raise MayflyError("internal", f"decode the stream: {e}") from e
                if message.get("error"):
                    raise from_problem(message["error"].get("status", 500), message["error"])
                if message:
                    yield message
                if "result" in message:
                    return
        finally:
            connection.close()


def encode(value: Any, headers: Optional[dict]) -> Tuple[Optional[bytes], Dict[str, str]]:
    """A JSON body and its headers."""
    headers = dict(headers or {})
    if value is None:
        return None, headers
    headers["Content-Type"] = "application/json"
    return json.dumps(value, separators=(",", ":")).encode(), headers


def target_of(path: Tuple[str, ...], query: Optional[dict] = None) -> str:
    """The target of a request: each segment is escaped by itself."""
    for segment in path:
        if segment in ("", ".", ".."):
            raise MayflyError("invalid", f"{segment!r} names nothing")
    target = "/v1/" + "/".join(quote(segment, safe="") for segment in path)
    pairs = {name: value for name, value in (query or {}).items() if value is not None and value != []}
    return target + "?" + urlencode(pairs, doseq=True) if pairs else target


def problem_of(response: http.client.HTTPResponse, data: bytes) -> MayflyError:
    """The error in an answer."""
    problem = None
    if (response.getheader("Content-Type") or "").startswith("application/problem+json"):
        try:
            problem = json.loads(data)
        except ValueError:
            pass
    return from_problem(response.status, problem if isinstance(problem, dict) else None, response.getheader("Retry-After"))
