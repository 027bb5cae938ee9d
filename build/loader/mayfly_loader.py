"""Calls a handler for each request that comes over HTTP.

    python3 -u mayfly_loader.py FILE.FUNCTION [FOLDER]

The folder (/app if not given) holds FILE.py; its FUNCTION is called with
(event, context). The requests come from the platform alone, over 127.0.0.1 at
$PORT, so this speaks the HTTP/1.1 that it needs and imports little: what is
imported here is paid for in every container.
"""

import _socket
import _thread
import json
import os
import sys
import time

MAX_HEAD = 64 * 1024  # bytes of a request's line and headers


class Context:
    """What a handler knows about its run. deadline is in seconds since the
    epoch, as time.time() counts, or None when there is none. cloudevent has the
    attributes of the event that it runs for, by their names, or is None."""

    __slots__ = ("run", "attempt", "deadline", "workload", "space", "cloudevent")

    def __init__(self, headers):
        self.run = headers.get("x-mayfly-run", "")
        self.attempt = int(headers.get("x-mayfly-attempt") or 1)
        deadline = headers.get("x-mayfly-deadline")
        self.deadline = int(deadline) / 1000 if deadline else None
        self.workload = headers.get("x-mayfly-workload", "")
        self.space = headers.get("x-mayfly-space", "")
        self.cloudevent = attributes(headers) if "ce-specversion" in headers else None

    def remaining(self):
        """Seconds until the deadline, never below 0; None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - time.time())

    def __repr__(self):
        return "Context(run=%r, attempt=%r, deadline=%r, workload=%r, space=%r)" % (
            self.run, self.attempt, self.deadline, self.workload, self.space)


def attributes(headers):
    """The attributes of an event in binary mode."""
    found = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    if "content-type" in headers:
        found["datacontenttype"] = headers["content-type"]
    return found


def unquote(text):
    """Takes the percent-encoding away."""
    first, *rest = text.split("%")
    if not rest:
        return text
    data = first.encode("latin-1")
    for part in rest:
        try:
            data += bytes([int(part[:2], 16)]) + part[2:].encode("latin-1")
        except ValueError:
            data += b"%" + part.encode("latin-1")
    return data.decode("utf-8", "replace")


class BadRequest(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Connection:
    """Reads requests from one connection and writes answers to it."""

    def __init__(self, sock):
        self.sock = sock
        self.rest = b""

    def fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        return data

    def head(self):
        """Returns method, version and headers, or None at the end."""
        buf = self.rest
        while True:
            end = buf.find(b"\r\n\r\n")
            if end >= 0:
                break
            if len(buf) > MAX_HEAD:
                raise BadRequest(431, "the headers are too large")
            data = self.sock.recv(65536)
            if not data:
                return None
            buf += data
        self.rest = buf[end + 4:]
        lines = buf[:end].decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest(400, "the request line is not HTTP/1.1")
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise BadRequest(400, "a header is not NAME: VALUE")
            headers[name.lower()] = value.strip()
        return words[0], words[2], headers

    def body(self, headers):
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self.chunks(headers)
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise BadRequest(400, "Content-Length is not a number")
        if int(length):
            self.go_on(headers)
        return self.take(int(length))

    def go_on(self, headers):
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take(self, n):
        """Returns exactly n bytes."""
        if len(self.rest) >= n:
            data, self.rest = self.rest[:n], self.rest[n:]
            return data
        parts, have = [self.rest], len(self.rest)
        while have < n:
            data = self.fill()
            parts.append(data)
            have += len(data)
        data = b"".join(parts)
        self.rest = data[n:]
        return data[:n]

    def line(self):
        while True:
            end = self.rest.find(b"\n")
            if end >= 0:
                line, self.rest = self.rest[:end], self.rest[end + 1:]
                return line.rstrip(b"\r")
            if len(self.rest) > MAX_HEAD:
                raise BadRequest(400, "a chunk's line is too long")
            self.rest += self.fill()

    def chunks(self, headers):
        self.go_on(headers)
        parts = []
        while True:
            size = self.line().split(b";")[0].strip()
            try:
                n = int(size, 16) if size[:1] not in b"+-" else -1
            except ValueError:
                n = -1
            if n < 0:
                raise BadRequest(400, "a chunk's size is not a number")
            if n == 0:
                while self.line():  # trailers
                    pass
                return b"".join(parts)
            parts.append(self.take(n))
            if self.line():
                raise BadRequest(400, "a chunk is longer than it says")

    def answer(self, status, kind, body, failed=False, keep=True, head=False):
        lines = ["HTTP/1.1 %d %s" % (status, REASONS.get(status, "Error"))]
        if kind:
            lines.append("Content-Type: " + kind)
        if status != 204:
            lines.append("Content-Length: %d" % len(body))
        if failed:
            lines.append("X-Mayfly-Error: 1")
        if not keep:
            lines.append("Connection: close")
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if head or status == 204:
            self.sock.sendall(data)
        elif len(body) < 65536:
            self.sock.sendall(data + body)
        else:
            self.sock.sendall(data)
            self.sock.sendall(body)


REASONS = {200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 431: "Request Header Fields Too Large",
           500: "Internal Server Error"}


def decode(headers, body):
    """Makes the event: the decoded JSON where the request says it is JSON, or
    says nothing and it is; bytes otherwise."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        return body
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(body)
        except ValueError as e:
            raise BadRequest(400, "the body is not JSON: %s" % e) from None
    # curl -d says that it sends a form, whatever it sends; a true form never
    # begins with a bracket.
    if not kind or (kind == "application/x-www-form-urlencoded" and body[:1] in b"{["):
        try:
            return json.loads(body)
        except ValueError:
            pass
    return body


def encode(value):
    """Makes status, content type and body of what a handler returned."""
    if value is None:
        return 204, "", b""
    if isinstance(value, str):
        return 200, "text/plain; charset=utf-8", value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return 200, "application/octet-stream", bytes(value)
    return 200, "application/json", json.dumps(value).encode()


class Loop:
    """Runs coroutines on one event loop of its own, for as long as the
    process lives, so that what a handler opens in one run serves the next."""

    def __init__(self):
        import asyncio
        self.asyncio = asyncio
        self.loop = asyncio.new_event_loop()
        _thread.start_new_thread(self.loop.run_forever, ())

    def wait(self, awaitable):
        async def run():
            return await awaitable
        return self.asyncio.run_coroutine_threadsafe(run(), self.loop).result()


class Server:
    def __init__(self, handle):
        self.handle = handle
        self.lock = _thread.allocate_lock()
        self.loop = None
        flags = getattr(getattr(handle, "__code__", None), "co_flags", 0)
        if flags & 0x180:  # a coroutine function: import asyncio before the first run
            self.loop = Loop()

    def call(self, event, context):
        value = self.handle(event, context)
        if hasattr(value, "__await__"):
            with self.lock:
                self.loop = self.loop or Loop()
            value = self.loop.wait(value)
        return encode(value)

    def serve(self, sock):
        """Serves one connection until it ends."""
        conn = Connection(sock)
        try:
            while self.request(conn):
                pass
        except (OSError, EOFError):
            pass  # the platform has gone away, and with it who would be told
        finally:
            sock.close()

    def detached(self, conn, event, context):
        """Runs a task that needs no connection: what the handler returns is
        the program's output, and what it prints goes to stderr."""
        conn.answer(202, "", b"")
        flush()
        out = os.dup(1)
        os.dup2(2, 1)
        code = 0
        try:
            body = memoryview(self.call(event, context)[2])
            while body:
                body = body[os.write(out, body):]
        except BaseException as e:
            report(e)
            code = 1
        flush()
        os._exit(code)

    def request(self, conn):
        try:
            head = conn.head()
            if head is None:
                return False
            method, version, headers = head
            event = decode(headers, conn.body(headers))
            context = Context(headers)
        except BadRequest as e:
            conn.answer(e.status, "text/plain; charset=utf-8", str(e).encode(), keep=False)
            return False
        except ValueError:
            conn.answer(400, "text/plain; charset=utf-8", b"an X-Mayfly header is not a number", keep=False)
            return False
        if "x-mayfly-detached" in headers:
            self.detached(conn, event, context)
        keep = version != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
        try:
            status, kind, body = self.call(event, context)
            failed = False
        except BaseException as e:  # sys.exit in a handler is a failure as well
            status, kind, failed = 500, "text/plain; charset=utf-8", True
            body = report(e).encode("utf-8", "replace")
        flush()
        conn.answer(status, kind, body, failed, keep, method == "HEAD")
        return keep


def flush():
    for f in (sys.stdout, sys.stderr):
        try:
            f.flush()
        except (OSError, ValueError, AttributeError):
            pass


def report(error):
    """Prints the traceback, without our own frames, and returns the line that
    says what was raised."""
    import traceback
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None and ours(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__qualname__
    try:
        sys.stderr.write("".join(traceback.format_exception(kind, error, tb)))
        text = str(error).strip()
    except Exception:  # a __str__ that raises must not take the process along
        return name
    return name + ": " + text.splitlines()[0] if text else name


def ours(filename):
    return filename == __file__ or filename.startswith("<frozen importlib")


def fail(text):
    sys.stderr.write("mayfly: %s\n" % text)
    flush()
    os._exit(1)


def load(name, folder):
    """Imports FILE of FILE.FUNCTION and returns the function."""
    file, dot, function = name.rpartition(".")
    if not dot or not file or not function:
        fail("handler %r is not FILE.FUNCTION, as in main.handle" % name)
    path = os.path.join(folder, *file.split("/"))
    if not os.path.isfile(path + ".py") and not os.path.isfile(os.path.join(path, "__init__.py")):
        fail("handler %s: there is no %s.py in %s" % (name, file, folder))
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        sys.path[0] = folder
    else:  # with PYTHONSAFEPATH the loader's own folder is not there
        sys.path.insert(0, folder)
    sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "sdk"))
    sys.argv = [path + ".py"]
    out = os.dup(1)
    os.dup2(2, 1)  # what a module prints is no task's result
    module = __import__(file.replace("/", "."), fromlist=[function])
    flush()
    os.dup2(out, 1)
    os.close(out)
    handle = getattr(module, function, None)
    if not callable(handle):
        fail("handler %s: %s.py has no function %s" % (name, file, function))
    return handle


def main(name, folder="/app"):
    port = int(os.environ.get("PORT") or 8080)
    try:
        server = Server(load(name, folder))
    except BaseException as e:
        report(e)
        flush()
        os._exit(1)
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as e:
        fail("cannot listen at 127.0.0.1:%d: %s" % (port, e))
    listener.listen(128)
    while True:
        fd, _ = listener._accept()
        conn = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, fileno=fd)
        conn.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        try:
            _thread.start_new_thread(server.serve, (conn,))
        except RuntimeError:  # no room for a thread: the platform sees a closed connection
            conn.close()


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        fail("use: mayfly_loader.py FILE.FUNCTION [FOLDER]")
    main(*sys.argv[1:])
