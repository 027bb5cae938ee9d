"""Run containers, call functions and submit tasks on Mayfly.

    import mayfly

    mayfly.run("debian:12", ["echo", "hello"])          # b'hello\\n'
    mayfly.call("thumbnail", photo).body                 # a function's answer
    task = mayfly.submit("resize", {"width": 100})       # on disk when it returns
    mayfly.result(task)                                  # what it returned

The functions of this module are the methods of one Client that is made when it is first needed: for the daemon
at $MAYFLY_HOST, or else the one of this machine. In a container of Mayfly's that is the container's own door.
It needs nothing but the standard library.
"""

from __future__ import annotations

import threading
from typing import Any, Optional

from .client import Client
from .containers import Container
from .errors import KINDS, CallError, ContainerError, MayflyError, TaskError
from .values import Answer, LogEntry, Task

__version__ = "0.1.0"

__all__ = ["Answer", "CallError", "Client", "Container", "ContainerError", "KINDS", "LogEntry", "MayflyError", "Task", "TaskError"]

_VERBS = frozenset(
    "call cancel container containers emit emit_all get list logs progress pull result results run submit submit_all wait watch whoami".split()
)

_lock = threading.Lock()
_client: Optional[Client] = None


def _default() -> Client:
    global _client
    with _lock:
        if _client is None:
            _client = Client()
        return _client


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(_default(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
