"""What the daemon tells of tasks, logs and answers, and what it is told."""

from __future__ import annotations

import base64
import json
import os
import re
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, NamedTuple, Optional, Union

from .errors import MayflyError

Seconds = Union[int, float, timedelta]

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?$", re.IGNORECASE)


def nanoseconds(value: Optional[Seconds]) -> Optional[int]:
    """A duration on the wire."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value < 0:
        raise MayflyError("invalid", f"{value} seconds are less than none")
    return round(value * 1e9)


def moment(value: Union[datetime, float, int, str, None]) -> Optional[str]:
    """A time on the wire: a datetime (local if it names no zone), seconds since 1970, or RFC 3339."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    return datetime.fromtimestamp(value, timezone.utc).isoformat().replace("+00:00", "Z")


def bytes_of(value: Union[int, str, None]) -> Optional[int]:
    """A size in bytes: a number, or a text such as 256m or 1.5GB, in powers of 1024 for both."""
    if value is None or isinstance(value, int):
        return value
    found = _SIZE.match(value.strip())
    if not found:
        raise MayflyError("invalid", f"{value!r} is not a size", "write it like 256m or 1g")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " "))


def payload_of(value: Any) -> Dict[str, Any]:
    """The members of a submission that carry its payload: bytes and str as they are, anything else as JSON."""
    if value is None:
        return {}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"payload": base64.b64encode(value).decode()}
    if isinstance(value, str):
        return {"text": value}
    return {"json": value}


MAX_INLINE = 1_000_000  # bytes of a payload that comes with its submission; a larger one is uploaded before


def event_of(type: str, data: Any = None, *, id: Optional[str] = None, time: Any = None, **attributes: Any) -> Dict[str, Any]:
    """A CloudEvent in the JSON format. It gets an id, and the present time, where it has none."""
    event: Dict[str, Any] = {
        "specversion": "1.0",
        "id": id or os.urandom(16).hex(),
        "type": type,
        "time": moment(datetime.now(timezone.utc) if time is None else time),
    }
    event.update((name, value) for name, value in attributes.items() if value is not None)
    if isinstance(data, (bytes, bytearray, memoryview)):
        event.setdefault("datacontenttype", "application/octet-stream")
        event["data_base64"] = base64.b64encode(bytes(data)).decode()
    elif isinstance(data, str):
        event.setdefault("datacontenttype", "text/plain; charset=utf-8")
        event["data"] = data
        if "json" in event["datacontenttype"]:
            event["data"] = json.loads(data)
    elif data is not None:
        event.setdefault("datacontenttype", "application/json")
        event["data"] = data
    return event


def large_payload(members: Dict[str, Any]) -> Optional[bytes]:
    """Takes a payload that is too large for a submission out of its members."""
    if "payload" in members:
        data = base64.b64decode(members["payload"])
    elif "text" in members:
        data = members["text"].encode()
    elif "json" in members:
        data = json.dumps(members["json"], separators=(",", ":")).encode()
    else:
        return None
    if len(data) <= MAX_INLINE:
        return None
    for name in ("payload", "text", "json"):
        members.pop(name, None)
    return data


class LogEntry(NamedTuple):
    """A piece of what a program wrote, as it was written."""

    time: str
    stream: str  # "stdout" or "stderr"
    data: bytes

    @classmethod
    def of(cls, message: Dict[str, Any]) -> "LogEntry":
        return cls(message["time"], message["stream"], base64.b64decode(message.get("data") or ""))


class Task(dict):
    """A task as it was when the daemon was asked. It is the JSON object of the API; the members that matter
    most have names of their own."""

    @property
    def id(self) -> str:
        return self["id"]

    @property
    def workload(self) -> str:
        return self.get("workload", "")

    @property
    def state(self) -> str:
        """queued, starting, running, succeeded, failed, timed-out, out-of-memory, cancelled or buried."""
        return self["state"]

    @property
    def ended(self) -> bool:
        """No attempt of it runs, or will run by itself."""
        return self.state not in ("queued", "starting", "running")

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def attempt(self) -> int:
        return self.get("attempt", 0)

    @property
    def exit(self) -> Optional[Dict[str, Any]]:
        """How the last attempt ended: code, signal, reason, detail, time."""
        for attempt in reversed(self.get("attempts") or []):
            if attempt.get("exit"):
                return attempt["exit"]
        return None

    @property
    def progress(self) -> Optional[Dict[str, Any]]:
        """What its program said last: percent, message, time."""
        return self.get("progress")

    @property
    def labels(self) -> Dict[str, str]:
        return self.get("labels") or {}

    @property
    def created(self) -> bool:
        """Of what submit returned: false when the key was that of a task that was there already."""
        return self.__dict__.get("_created", True)


class Answer:
    """What a function answered to a call."""

    def __init__(self, status: int, headers: Dict[str, str], body: bytes):
        self.status = status
        self.headers = headers  #: names in lower case
        self.body = body
        self.run = headers.get("x-mayfly-run", "")  #: id of the run

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.body)} bytes>"
