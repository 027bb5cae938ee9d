"""What can go wrong. Every error carries a kind of a closed list."""

from __future__ import annotations

import shlex
from typing import Any, Optional, Sequence

#: The kinds. Only these are to be branched on, never a text.
KINDS = (
    "invalid",  # the request is wrong and will stay wrong
    "denied",  # the caller may not do this
    "not-found",
    "conflict",  # it exists, is in use, or was changed meanwhile
    "too-large",
    "busy",  # no room now; try again later
    "failed",  # the user's program failed
    "unavailable",  # the daemon, or a part of it, is away
    "timed-out",
    "internal",  # a defect of Mayfly's, or of the machine
)

_KIND_OF_STATUS = {
    400: "invalid",
    403: "denied",
    404: "not-found",
    409: "conflict",
    413: "too-large",
    429: "busy",
    502: "failed",
    503: "unavailable",
    504: "timed-out",
}


def kind_of_status(status: int) -> str:
    """The kind of an answer that carries none."""
    if status in _KIND_OF_STATUS:
        return _KIND_OF_STATUS[status]
    return "invalid" if 400 <= status < 500 else "internal"


class MayflyError(Exception):
    """A failure, with its kind and, where there is one, what to do about it."""

    def __init__(self, kind: str, message: str, hint: str = "", run: str = "", retry_after: Optional[float] = None):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.run = run  #: id of the run that this was the end of, if it was one
        self.retry_after = retry_after  #: seconds, where the daemon says it


class ContainerError(MayflyError):
    """A program of run() that ended otherwise than with 0."""

    def __init__(self, container: Any, exit_status: int, command: Any, image: str, stderr: bytes, reason: str = "failed", detail: str = ""):
        self.container = container
        self.exit_status = exit_status
        self.command = command
        self.image = image
        self.stderr = stderr
        self.reason = reason  #: failed, timed-out, out-of-memory, cancelled...
        text = command if isinstance(command, str) else shlex.join(command or [])
        message = f"{text} in {image} ended with exit status {exit_status}"
        if detail:
            message += f" ({detail})"
        elif reason != "failed":
            message += f" ({reason})"
        last = stderr.decode(errors="replace").strip()
        if last:
            message += f": {last}"
        super().__init__("timed-out" if reason == "timed-out" else "failed", message)


class TaskError(MayflyError):
    """A task whose result was asked for and that did not succeed."""

    def __init__(self, task: Any):
        self.task = task
        message = f"task {task.id} is {task.state}"
        exit = task.exit
        if exit:
            message += f": {exit.get('detail') or 'exit status %s' % exit.get('code')}"
        super().__init__("timed-out" if task.state == "timed-out" else "failed", message)


class CallError(MayflyError):
    """A function that answered a call with a status of 400 or more."""

    def __init__(self, answer: Any):
        self.answer = answer
        self.status = answer.status
        text = answer.body[:200].decode(errors="replace").strip()
        super().__init__("failed", f"the function answered {answer.status}" + (f": {text}" if text else ""), run=answer.run)


def from_problem(status: int, problem: Optional[dict], retry_after: Optional[str] = None) -> MayflyError:
    """The error that an answer stands for."""
    try:
        seconds = float(retry_after) if retry_after else None
    except ValueError:
        seconds = None
    if not problem or not isinstance(problem.get("detail"), str):
        return MayflyError(kind_of_status(status), f"the daemon answered {status}", retry_after=seconds)
    kind = problem.get("kind") or kind_of_status(status)
    return MayflyError(kind, problem["detail"], problem.get("hint", ""), problem.get("run", ""), seconds)


def argv_of(command: Any) -> Optional[Sequence[str]]:
    """A command as a list of words: a string is split as a shell would."""
    if command is None:
        return None
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
