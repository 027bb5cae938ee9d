"""Programs in fresh containers: run(), and what it returns."""

from __future__ import annotations

import secrets
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

from .attach import EXIT, STDERR, STDOUT, Attachment, Input
from .errors import ContainerError, MayflyError, argv_of
from .transport import Transport
from .values import LogEntry, Seconds, bytes_of, moment, nanoseconds

_MAX_STDERR = 64 << 10  # bytes kept for the error, the last ones


class Container:
    """An instance. It goes on by itself; what is known of it is of when it was asked for."""

    def __init__(self, client: "Containers", attrs: Dict[str, Any]):
        self._client = client
        self.attrs = attrs  #: the JSON object of the API

    @property
    def id(self) -> str:
        return self.attrs["id"]

    @property
    def name(self) -> str:
        return self.attrs.get("name", "")

    @property
    def status(self) -> str:
        """starting, created, running, stopping or exited."""
        return self.attrs["state"]

    @property
    def exit_status(self) -> Optional[int]:
        """None while it runs; 128+n when signal n ended it."""
        exit = self.attrs.get("exit")
        return exit["code"] if exit else None

    def __repr__(self) -> str:
        return f"<Container {self.name or self.id}: {self.status}>"

    def reload(self) -> "Container":
        """Asks again."""
        self.attrs = self._client._transport.json("GET", ("instances", self.id), self._client._query())
        return self

    def wait(self) -> int:
        """Returns the exit status when it has ended."""
        for message in self._client._transport.stream("POST", ("instances", self.id, "wait"), self._client._query()):
            if "result" in message:
                self.attrs = message["result"]
        return self.attrs["exit"]["code"]

    def logs(self, follow: bool = False, tail: Optional[int] = None, since: Any = None) -> Iterator[LogEntry]:
        """Yields what it wrote; with follow until it has ended."""
        query = self._client._query(follow="true" if follow else "false", tail=-1 if tail is None else tail, since=moment(since))
        for message in self._client._transport.stream("GET", ("instances", self.id, "logs"), query):
            if message.get("log"):
                yield LogEntry.of(message["log"])

    def output(self, stdout: bool = True, stderr: bool = False) -> bytes:
        """What it wrote so far."""
        wanted = {name for name, want in (("stdout", stdout), ("stderr", stderr)) if want}
        return b"".join(entry.data for entry in self.logs() if entry.stream in wanted)

    def stop(self, timeout: Seconds = 10) -> None:
        """Sends SIGTERM, and SIGKILL after the timeout. It returns when the program has ended."""
        self._client._transport.send("POST", ("instances", self.id, "stop"), self._client._query(), {"grace": nanoseconds(timeout)})

    def kill(self, signal: int = 9) -> None:
        self._client._transport.send("POST", ("instances", self.id, "kill"), self._client._query(), {"signal": int(signal)})

    def remove(self, force: bool = False) -> None:
        """Forgets it; with force it is killed first."""
        self._client._transport.send("DELETE", ("instances", self.id), self._client._query(force="true" if force else "false"))


class Containers:
    """The part of a client that is about containers."""

    _transport: Transport

    def _query(self, **members: Any) -> Dict[str, Any]:
        raise NotImplementedError

    def run(
        self,
        image: str,
        command: Union[str, List[str], None] = None,
        stdout: bool = True,
        stderr: bool = False,
        remove: Optional[bool] = None,
        *,
        detach: bool = False,
        stream: bool = False,
        stdin: Optional[Input] = None,
        pull: bool = True,
        name: Optional[str] = None,
        entrypoint: Union[str, List[str], None] = None,
        env: Optional[Dict[str, str]] = None,
        user: Optional[str] = None,
        workdir: Optional[str] = None,
        hostname: Optional[str] = None,
        memory: Union[int, str, None] = None,
        cpus: Optional[float] = None,
        pids: Optional[int] = None,
        files: Optional[int] = None,
        mounts: Optional[Iterable[Dict[str, Any]]] = None,
        ports: Optional[Dict[int, Optional[int]]] = None,
        network: Optional[str] = None,
        read_only: bool = False,
        labels: Optional[Dict[str, str]] = None,
        timeout: Optional[Seconds] = None,
    ) -> Any:
        """Runs a program in a fresh container.

        Returns what it wrote to stdout (and, with stderr=True, to stderr, as it came) as bytes; with stream=True an
        iterator of pieces, as they come; with detach=True a Container at once. A program that ends otherwise than
        with 0 is a ContainerError, which carries container, exit_status, command, image and stderr. The container
        is removed afterwards unless remove=False, and killed first if the caller does not wait for its end. A
        detached one stays unless remove=True, and has no stdin.

        A command that is a string is split as a shell would. stdin is bytes, str or a file. memory is bytes, or a
        text such as 256m; timeout is in seconds. mounts are {"type": "bind", "source", "target", "readOnly"} or
        {"type": "tmpfs", "target", "size"}; ports maps ports of the container to ports of the node, None for any.
        An image that is not on the node is pulled, unless pull=False.
        """
        if detach and stdin is not None:
            raise MayflyError("invalid", "a detached container has no stdin")
        spec = {
            "image": image,
            "name": name,
            "entrypoint": argv_of(entrypoint),
            "command": argv_of(command),
            "env": env,
            "user": user,
            "workDir": workdir,
            "hostname": hostname,
            "memory": bytes_of(memory),
            "cpus": cpus,
            "pids": pids,
            "files": files,
            "mounts": list(mounts) if mounts else None,
            "ports": [{"container": inner, "host": outer or 0} for inner, outer in ports.items()] if ports else None,
            "network": network,
            "readOnly": read_only or None,
            "labels": labels,
            "timeout": nanoseconds(timeout),
            "stdin": True if stdin is not None else None,
            "autoRemove": True if detach and remove else None,
        }
        container = self._create({k: v for k, v in spec.items() if v is not None}, pull)
        if detach:
            try:
                self._start(container)
                return container.reload() if not remove else container
            except BaseException:
                self._discard(container)
                raise
        pieces = self._pieces(container, command, image, stdout, stderr, stdin, remove is not False)
        next(pieces)  # started, or an error
        return _Stream(pieces) if stream else b"".join(pieces)

    def container(self, ref: str) -> Container:
        """A container by its id, the beginning of one that fits no other, or its name."""
        return Container(self, self._transport.json("GET", ("instances", ref), self._query()))

    def containers(self, all: bool = False) -> Iterator[Container]:
        """Yields the containers that run, newest first; with all those that have ended too."""
        query = self._query(all="true" if all else "false")
        while True:
            page = self._transport.json("GET", ("instances",), query)
            for attrs in page["items"]:
                yield Container(self, attrs)
            query["next"] = page.get("next")
            if not query["next"]:
                return

    def pull(self, image: str) -> Dict[str, Any]:
        """Fetches an image and returns what it is."""
        found: Dict[str, Any] = {}
        for message in self._transport.stream("POST", ("images", "pull"), self._query(), {"name": image}):
            found = message.get("result") or found
        return found

    def _create(self, spec: Dict[str, Any], pull: bool) -> Container:
        def once() -> Container:
            key = {"Idempotency-Key": secrets.token_hex(16)}
            return Container(self, self._transport.json("POST", ("instances",), self._query(), spec, key))

        try:
            return once()
        except MayflyError as e:
            if e.kind != "not-found" or not pull or spec["image"].startswith("sha256:"):
                raise
            try:
                self._transport.json("GET", ("images", spec["image"]), self._query())
            except MayflyError as missing:
                if missing.kind != "not-found":
                    raise e from None
            else:
                raise  # something else was not found
        self.pull(spec["image"])
        return once()

    def _start(self, container: Container) -> None:
        self._transport.send("POST", ("instances", container.id, "start"), self._query())

    def _discard(self, container: Container) -> None:
        try:
            container.remove(force=True)
        except MayflyError:
            pass  # the caller has an error, or the output, that matters more

    def _pieces(
        self, container: Container, command: Any, image: str, stdout: bool, stderr: bool, stdin: Optional[Input], remove: bool
    ) -> Iterator[bytes]:
        """Yields nothing once, when the program runs, and then what it writes."""
        ended = False
        try:
            attachment = Attachment(self._transport, container.id, stdin is not None, self._query()["space"])
            try:
                self._start(container)
                if stdin is not None:
                    attachment.feed(stdin)
                yield b""
                kept = b""
                for kind, data in attachment.frames():
                    if kind == EXIT:
                        container.attrs, ended = data, True
                        self._check(container, command, image, kept)
                        return
                    if kind == STDERR:
                        kept = (kept + data)[-_MAX_STDERR:]
                    if stdout if kind == STDOUT else stderr:
                        yield data
            finally:
                attachment.close()
        finally:
            if remove:
                self._discard(container)
            elif not ended:
                try:
                    container.kill()
                except MayflyError:
                    pass

    @staticmethod
    def _check(container: Container, command: Any, image: str, stderr: bytes) -> None:
        exit = container.attrs.get("exit")
        if not exit:
            raise MayflyError("internal", "the daemon does not say how the program ended")
        if exit["reason"] != "succeeded" or exit["code"] != 0:
            command = command if command is not None else container.attrs.get("argv")
            raise ContainerError(container, exit["code"], command, image, stderr, exit["reason"], exit.get("detail", ""))


class _Stream:
    """An iterator of what a program writes. Closing it, or leaving its block, ends the program."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces = pieces

    def __iter__(self) -> "_Stream":
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()  # type: ignore[attr-defined]

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
