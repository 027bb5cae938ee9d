"""The client: one method for each thing that can be asked for."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Union
from urllib.parse import quote

from .containers import Containers
from .errors import CallError, MayflyError, TaskError, argv_of
from .transport import HOST_VARIABLE, Transport, problem_of, target_of
from .values import MAX_INLINE, Answer, LogEntry, Seconds, Task, bytes_of, event_of, large_payload, moment, nanoseconds, payload_of

SPACE_VARIABLE = "MAYFLY_SPACE"

INSIDE = "unix:///run/mayfly/api.sock"

_MAX_TASKS = 1000  # of one request
_MAX_REQUEST = 4 << 20  # bytes of one request that submits several tasks
_PATIENCE = 30.0  # seconds that a program in a container waits for a daemon that is away

TaskRef = Union[Task, str]


def _id(task: TaskRef) -> str:
    return task if isinstance(task, str) else task["id"]


class Client(Containers):
    """Talks to one daemon on behalf of one space. It is safe for several threads.

    host is unix:///path or http://host:port; $MAYFLY_HOST, and without that the daemon's own socket, if it is
    not given. In a container $MAYFLY_HOST is set, and the space is the container's.
    """

    def __init__(self, host: Optional[str] = None, space: Optional[str] = None):
        inside = (host or os.environ.get(HOST_VARIABLE)) == INSIDE
        self._transport = Transport(host, _PATIENCE if inside else 0.0)
        self.space = space or os.environ.get(SPACE_VARIABLE) or None

    @property
    def host(self) -> str:
        return self._transport.host

    def close(self) -> None:
        """Drops the connections that wait. The client can still be used."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _query(self, **members: Any) -> Dict[str, Any]:
        members["space"] = self.space
        return members

    # Functions

    def call(
        self,
        name: str,
        payload: Any = None,
        *,
        method: str = "POST",
        path: str = "/",
        headers: Optional[Dict[str, str]] = None,
        memory: Union[int, str, None] = None,
        timeout: Optional[float] = None,
        check: bool = True,
    ) -> Answer:
        """Calls a function and returns its answer.

        The payload goes as it is if it is bytes or str, else as JSON. With check, a status of 400 or more is a
        CallError, or a MayflyError where it was the platform that answered. timeout bounds each silence in
        seconds; the function has a timeout of its own.
        """
        if not path.startswith("/"):
            raise MayflyError("invalid", f"{path!r} is not the path of a request", "begin it with /")
        headers = dict(headers or {})
        if self.space:
            headers["X-Mayfly-Space"] = self.space
        if memory is not None:
            headers["X-Mayfly-Memory"] = str(bytes_of(memory))
        body = payload
        if payload is not None and not isinstance(payload, (bytes, bytearray, str)):
            body = json.dumps(payload)
            headers.setdefault("Content-Type", "application/json")
        if isinstance(body, str):
            body = body.encode()
        target = f"/v1/workloads/{quote(name, safe='')}/call{path}"
        connection, response = self._transport.open(method, target, body, headers, timeout)
        data = self._transport.read(connection, response)
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, data)
        if check and answer.status >= 400:
            if answer.headers.get("content-type", "").startswith("application/problem+json"):
                raise problem_of(response, data)
            raise CallError(answer)
        return answer

    # Tasks

    def submit(self, workload: Optional[str] = None, payload: Any = None, **options: Any) -> Task:
        """Submits a task of a function, or with image= straight from an image. When it returns, the task is on disk.

        The payload goes as it is if it is bytes or str, else as JSON. Options, all of them optional: image, argv,
        env; priority (0 to 9, 9 first); delay (seconds) or at (datetime); timeout (seconds, of one attempt);
        memory; retries (a number, or max, backoff, longest, delays, jitter, final, memory_up_to); key (the same key
        is the same task, so that it is safe to submit it again after a lost answer); labels; callback (a URL that
        is told of the end); after (tasks that must have succeeded). A full queue is a MayflyError of kind busy.
        """
        return self.submit_all([{"workload": workload, "payload": payload, **options}])[0]

    def submit_all(self, tasks: Iterable[Dict[str, Any]]) -> List[Task]:
        """Submits many tasks, each a dictionary of submit's arguments, and returns them in their order.

        Each request's tasks, up to 1,000, are accepted all or none.
        """
        accepted: List[Task] = []
        batch: List[str] = []
        size = 0
        for task in tasks:
            members = _submission(**task)
            text = json.dumps(members, separators=(",", ":"))
            if len(text) > MAX_INLINE:
                text = json.dumps(self._uploaded(members), separators=(",", ":"))
            if batch and (len(batch) == _MAX_TASKS or size + len(text) > _MAX_REQUEST):
                accepted += self._submit(batch)
                batch, size = [], 0
            batch.append(text)
            size += len(text)
        return accepted + self._submit(batch) if batch else accepted

    def _put_payload(self, data: bytes) -> str:
        """Uploads the payload of one task and returns its ref, the payloadRef of POST /v1/tasks. submit does this by
        itself for what is larger than 1 MB."""
        connection, response = self._transport.open("POST", target_of(("payloads",), self._query()), data, {"Content-Type": "application/octet-stream"})
        answer = self._transport.read(connection, response)
        if response.status >= 300:
            raise problem_of(response, answer)
        return json.loads(answer)["ref"]

    def _uploaded(self, members: Dict[str, Any]) -> Dict[str, Any]:
        """The submission, of which a payload that is too large for it is uploaded."""
        data = large_payload(members)
        return members if data is None else {**members, "payloadRef": self._put_payload(data)}

    def _submit(self, batch: List[str]) -> List[Task]:
        body = ('{"tasks":[' + ",".join(batch) + "]}").encode()
        connection, response = self._transport.open("POST", target_of(("tasks",), self._query()), body, {"Content-Type": "application/json"})
        data = self._transport.read(connection, response)
        if response.status >= 300:
            raise problem_of(response, data)
        accepted = []
        for one in json.loads(data)["tasks"]:
            task = Task(one["task"])
            task._created = one.get("created", True)
            accepted.append(task)
        return accepted

    # Events

    def emit(self, type: str, data: Any = None, **attributes: Any) -> str:
        """Emits a CloudEvent and returns its id. When it returns, the event is on disk.

        The data goes as it is if it is bytes or str, else as JSON. Attributes, all of them optional: source (in a
        container the workload's own; elsewhere it has to be said), subject, id (the same id and source are the same
        event, so that it is safe to emit it again after a lost answer), time (datetime), datacontenttype,
        dataschema, and further ones of your own.
        """
        return self.emit_all([{"type": type, "data": data, **attributes}])[0]

    def emit_all(self, events: Iterable[Dict[str, Any]]) -> List[str]:
        """Emits up to 1,000 events, each a dictionary of emit's arguments, in their order, and returns their ids."""
        batch = [event_of(**event) for event in events]
        body = json.dumps(batch, separators=(",", ":")).encode()
        connection, response = self._transport.open(
            "POST", target_of(("events",), self._query()), body, {"Content-Type": "application/cloudevents-batch+json"}
        )
        data = self._transport.read(connection, response)
        if response.status >= 300:
            raise problem_of(response, data)
        return [event["id"] for event in batch]

    def get(self, task: TaskRef) -> Task:
        """A task as it is now."""
        return Task(self._transport.json("GET", ("tasks", _id(task)), self._query()))

    def list(
        self,
        workload: Optional[str] = None,
        state: Union[str, Sequence[str], None] = None,
        labels: Optional[Dict[str, str]] = None,
        since: Any = None,
        until: Any = None,
        limit: Optional[int] = None,
    ) -> Iterator[Task]:
        """Yields tasks: those that wait, then the buried ones, each the oldest first, then those that have ended,
        the newest first."""
        states = [state] if isinstance(state, str) else list(state or [])
        query = self._query(
            workload=workload, state=states, label=[f"{k}={v}" for k, v in (labels or {}).items()], since=moment(since), until=moment(until)
        )
        while limit is None or limit > 0:
            query["limit"] = 1000 if limit is None else min(limit, 1000)
            page = self._transport.json("GET", ("tasks",), query)
            for task in page["items"]:
                yield Task(task)
            if limit is not None:
                limit -= len(page["items"])
            query["next"] = page.get("next")
            if not query["next"]:
                return

    def wait(self, task: TaskRef, timeout: Optional[float] = None) -> Task:
        """Returns the task when it has ended or was buried, whatever its end. A timeout that passes is a
        MayflyError of kind timed-out. A daemon that is restarted meanwhile is waited for."""
        until = None if timeout is None else time.monotonic() + timeout
        lost = 0
        while True:
            left = None if until is None else max(until - time.monotonic(), 0)
            query = self._query(timeout=None if left is None else f"{left:.3f}s")
            try:
                for message in self._transport.stream("GET", ("tasks", _id(task), "wait"), query):
                    if "result" in message:
                        found = Task(message["result"])
                        if found.ended:
                            return found
                        if left is not None:
                            raise MayflyError("timed-out", f"task {found.id} is still {found.state} after {timeout} seconds")
                lost = 0
            except MayflyError as e:
                if e.kind != "unavailable" or lost >= 5:
                    raise
                lost += 1
                time.sleep(min(0.1 * 2**lost, 2.0))

    def watch(self, task: TaskRef) -> Iterator[Task]:
        """Yields the task as it is, and after each change of its state, attempt or progress, until it has ended."""
        for message in self._transport.stream("GET", ("tasks", _id(task), "watch"), self._query()):
            found = message.get("result") or message.get("task")
            if found:
                yield Task(found)

    def result(self, task: TaskRef, timeout: Optional[float] = None) -> bytes:
        """Waits for a task and returns what it returned: what its program wrote to stdout, or the handler's value
        as JSON. One that did not succeed is a TaskError."""
        ended = self.wait(task, timeout)
        if not ended.succeeded:
            raise TaskError(ended)
        return self._transport.send("GET", ("tasks", ended.id, "result"), self._query())

    def results(self, tasks: Iterable[TaskRef], timeout: Optional[float] = None) -> List[bytes]:
        """The results of several tasks, in their order. The first that did not succeed is a TaskError."""
        until = None if timeout is None else time.monotonic() + timeout
        return [self.result(task, None if until is None else max(until - time.monotonic(), 0)) for task in list(tasks)]

    def cancel(self, task: TaskRef) -> Task:
        """Cancels a task that has not ended. A program that runs may take a while to end."""
        return Task(self._transport.json("POST", ("tasks", _id(task), "cancel"), self._query()))

    def logs(
        self, task: TaskRef, follow: bool = False, tail: Optional[int] = None, since: Any = None, attempt: Optional[int] = None
    ) -> Iterator[LogEntry]:
        """Yields what a task's attempts wrote; with follow until it has ended. A program in a container may not
        ask for it."""
        query = self._query(follow="true" if follow else "false", tail=-1 if tail is None else tail, since=moment(since), attempt=attempt)
        for message in self._transport.stream("GET", ("tasks", _id(task), "logs"), query):
            if message.get("log"):
                yield LogEntry.of(message["log"])

    # From inside a container

    def progress(self, percent: float, message: str = "") -> None:
        """Says how far the task is whose program asks. It works in a container only."""
        self._transport.send("PUT", ("self", "progress"), self._query(), {"percent": percent, "message": message})

    def whoami(self) -> Dict[str, Any]:
        """Who asks: node, space, instance, workload, release and, while it serves one, run, attempt, deadline and
        task. It works in a container only."""
        return self._transport.json("GET", ("self",), self._query())


def _retries(value: Any) -> Optional[Dict[str, Any]]:
    if value is None:
        return None
    if isinstance(value, int):
        return {"max": value}
    value = dict(value)
    wire: Dict[str, Any] = {name: value.pop(name) for name in ("max", "jitter", "final") if name in value}
    for name in ("backoff", "longest"):
        if name in value:
            wire[name] = nanoseconds(value.pop(name))
    if "delays" in value:
        wire["delays"] = [nanoseconds(d) for d in value.pop("delays")]
    if "memory_up_to" in value:
        wire["memoryUpTo"] = bytes_of(value.pop("memory_up_to"))
    if value:
        raise MayflyError("invalid", f"retries have no {', '.join(value)}", "use max, backoff, longest, delays, jitter, final, memory_up_to")
    return wire


def _submission(
    workload: Optional[str] = None,
    payload: Any = None,
    *,
    image: Optional[str] = None,
    argv: Any = None,
    env: Optional[Dict[str, str]] = None,
    priority: Optional[int] = None,
    delay: Optional[Seconds] = None,
    at: Any = None,
    timeout: Optional[Seconds] = None,
    memory: Union[int, str, None] = None,
    retries: Any = None,
    key: Optional[str] = None,
    labels: Optional[Dict[str, str]] = None,
    callback: Optional[str] = None,
    after: Optional[Iterable[TaskRef]] = None,
) -> Dict[str, Any]:
    members: Dict[str, Any] = {
        "workload": workload,
        "image": image,
        "argv": argv_of(argv),
        "env": env,
        "priority": priority,
        "delay": None if delay is None else f"{nanoseconds(delay)}ns",
        "notBefore": moment(at),
        "timeout": nanoseconds(timeout),
        "memory": bytes_of(memory),
        "retries": _retries(retries),
        "key": key,
        "labels": labels,
        "callback": callback,
        "after": None if after is None else [_id(task) for task in after],
        **payload_of(payload),
    }
    return {name: value for name, value in members.items() if value is not None}
