"""Tried against a real node, which e2e/sdk_test.go starts: $MAYFLY_HOST is where it is, and it has the image app
(busybox) and the functions cat, fails, slow and web."""

import io
import json
import os
import threading
import time
import unittest
from datetime import datetime, timedelta, timezone

import mayfly

IMAGE = os.environ.get("MAYFLY_TEST_IMAGE", "app")


class Run(unittest.TestCase):
    def setUp(self):
        self.client = mayfly.Client()

    def tearDown(self):
        self.client.close()

    def left(self):
        return [c.name for c in self.client.containers(all=True)]

    def test_returns_stdout(self):
        self.assertEqual(self.client.run(IMAGE, ["sh", "-c", "echo out; echo err >&2"]), b"out\n")
        self.assertEqual(self.client.run(IMAGE, "sh -c 'echo err >&2'", stdout=False, stderr=True), b"err\n")
        self.assertEqual(mayfly.run(IMAGE, ["echo", "hello"]), b"hello\n")
        self.assertEqual(self.left(), [])

    def test_is_whole(self):
        out = self.client.run(IMAGE, ["seq", "200000"])
        self.assertEqual(out, b"".join(b"%d\n" % i for i in range(1, 200001)))

    def test_stdin(self):
        for given in ("text", b"bytes", io.BytesIO(b"x" * 300000), b"y" * 300000):
            want = given.getvalue() if isinstance(given, io.BytesIO) else given if isinstance(given, bytes) else given.encode()
            self.assertEqual(self.client.run(IMAGE, ["cat"], stdin=given), want)
        self.assertEqual(self.client.run(IMAGE, ["true"], stdin=b"z" * 3000000), b"")

    def test_options(self):
        script = "echo $COLOR; hostname; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true"
        out = self.client.run(IMAGE, ["sh", "-c", script], env={"COLOR": "blue"}, hostname="box", memory="64m", network="none")
        self.assertEqual(out.decode().split(), ["blue", "box", str(64 << 20)])

    def test_container_error(self):
        with self.assertRaises(mayfly.ContainerError) as caught:
            self.client.run(IMAGE, ["sh", "-c", "echo out; echo broken >&2; exit 3"])
        e = caught.exception
        self.assertEqual((e.exit_status, e.image, e.stderr, e.kind), (3, IMAGE, b"broken\n", "failed"))
        self.assertEqual(e.command, ["sh", "-c", "echo out; echo broken >&2; exit 3"])
        self.assertTrue(e.container.id)
        self.assertIn("broken", str(e))
        for command, status in ((["/nothing"], 127), (["/etc"], 126)):
            with self.assertRaises(mayfly.ContainerError) as caught:
                self.client.run(IMAGE, command)
            self.assertEqual(caught.exception.exit_status, status)
        self.assertEqual(self.left(), [])

    def test_timeout(self):
        with self.assertRaises(mayfly.ContainerError) as caught:
            self.client.run(IMAGE, ["sleep", "1000"], timeout=0.2)
        self.assertEqual((caught.exception.kind, caught.exception.reason), ("timed-out", "timed-out"))

    def test_stream(self):
        got = self.client.run(IMAGE, ["sh", "-c", "echo 1; sleep 0.1; echo 2; exit 0"], stream=True)
        self.assertEqual(b"".join(got), b"1\n2\n")
        with self.assertRaises(mayfly.ContainerError):
            for _ in self.client.run(IMAGE, ["sh", "-c", "echo 1; exit 4"], stream=True):
                pass
        with self.client.run(IMAGE, ["sh", "-c", "echo 1; sleep 1000"], stream=True) as pieces:
            self.assertEqual(next(pieces), b"1\n")
        self.assertEqual(self.left(), [])

    def test_detach(self):
        container = self.client.run(IMAGE, ["sh", "-c", "echo begun; sleep 1000"], detach=True, name="detached")
        try:
            self.assertEqual(container.status, "running")
            self.assertEqual(self.client.container("detached").id, container.id)
            self.assertEqual(next(container.logs(follow=True)).data, b"begun\n")
            container.kill(15)
            self.assertEqual(container.wait(), 143)
            self.assertEqual(container.output(), b"begun\n")
        finally:
            container.remove(force=True)
        with self.assertRaises(mayfly.MayflyError) as caught:
            container.reload()
        self.assertEqual(caught.exception.kind, "not-found")

    def test_errors_have_kinds(self):
        for wrong, kind in (({"image": "sha256:" + "0" * 64}, "not-found"), ({"image": IMAGE, "network": "x"}, "invalid"), ({"image": IMAGE, "memory": "1"}, "invalid")):
            with self.assertRaises(mayfly.MayflyError) as caught:
                self.client.run(command=["true"], **wrong)
            self.assertEqual(caught.exception.kind, kind, wrong)
        self.assertEqual(self.left(), [])


class Functions(unittest.TestCase):
    def test_call(self):
        answer = mayfly.call("cat", b"bytes")
        self.assertEqual((answer.status, answer.body), (200, b"bytes"))
        self.assertTrue(answer.run)
        self.assertEqual(mayfly.call("cat", {"a": [1, None]}).json(), {"a": [1, None]})
        self.assertEqual(mayfly.call("cat", "text").text, "text")
        self.assertEqual(mayfly.call("web", method="GET", path="/status?code=404", check=False).status, 404)
        self.assertIn("X-A: b", mayfly.call("web", method="GET", path="/headers", headers={"X-A": "b"}).text)

    def test_errors(self):
        with self.assertRaises(mayfly.CallError) as caught:
            mayfly.call("web", path="/status?code=418")
        self.assertEqual((caught.exception.status, caught.exception.kind), (418, "failed"))
        for name, kind in (("fails", "failed"), ("nothing", "not-found")):
            with self.assertRaises(mayfly.MayflyError) as caught:
                mayfly.call(name)
            self.assertEqual(caught.exception.kind, kind)

    def test_threads_share_a_client(self):
        got = {}

        def call(i):
            got[i] = mayfly.call("cat", str(i)).text

        threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(got, {i: str(i) for i in range(8)})


class Tasks(unittest.TestCase):
    def test_result(self):
        task = mayfly.submit("cat", {"n": 1}, labels={"test": "result"}, priority=7)
        self.assertEqual((task.workload, task.labels, task["priority"]), ("cat", {"test": "result"}, 7))
        self.assertEqual(mayfly.result(task, timeout=60), b'{"n":1}')
        self.assertTrue(mayfly.get(task).succeeded)
        self.assertEqual(mayfly.result(mayfly.submit("cat", b"\x00\xff")), b"\x00\xff")
        self.assertEqual(mayfly.result(mayfly.submit("cat", "text").id), b"text")
        for large in (b"\x00" * 3_000_000, "x" * 2_000_000, ["y"] * 500_000):
            task = mayfly.submit("cat", large)
            size = len(json.dumps(large, separators=(",", ":")) if isinstance(large, list) else large)
            self.assertEqual(task["size"], size)
            self.assertTrue(mayfly.wait(task)["cut"])

    def test_many(self):
        tasks = mayfly.submit_all({"workload": "cat", "payload": str(i)} for i in range(20))
        self.assertEqual(mayfly.results(tasks), [str(i).encode() for i in range(20)])
        self.assertEqual(mayfly.submit_all([]), [])

    def test_failure(self):
        task = mayfly.submit("fails")
        with self.assertRaises(mayfly.TaskError) as caught:
            mayfly.result(task)
        self.assertEqual((caught.exception.task.id, caught.exception.kind), (task.id, "failed"))
        self.assertEqual(caught.exception.task.exit["code"], 3)
        self.assertEqual(b"".join(e.data for e in mayfly.logs(task) if e.stream == "stderr"), b"oops\n")

    def test_key(self):
        one = mayfly.submit("cat", "x", key="python-key")
        two = mayfly.submit("cat", "x", key="python-key")
        self.assertEqual((one.id, one.created, two.created), (two.id, True, False))
        with self.assertRaises(mayfly.MayflyError) as caught:
            mayfly.submit("cat", "y", key="python-key")
        self.assertEqual(caught.exception.kind, "conflict")

    def test_wait_and_cancel(self):
        task = mayfly.submit("slow")
        with self.assertRaises(mayfly.MayflyError) as caught:
            mayfly.wait(task, timeout=0.2)
        self.assertEqual(caught.exception.kind, "timed-out")
        states = []
        for seen in mayfly.watch(task):
            states.append(seen.state)
            if seen.state == "running":
                mayfly.cancel(task)
        self.assertEqual(states[-2:], ["running", "cancelled"])
        self.assertEqual(mayfly.wait(task).state, "cancelled")

    def test_later(self):
        hour = timedelta(hours=1)
        at = datetime.now(timezone.utc).replace(microsecond=0) + hour
        for task in (mayfly.submit("cat", at=at), mayfly.submit("cat", delay=hour)):
            self.assertEqual(task.state, "queued")
            found = datetime.fromisoformat(task["notBefore"][:19] + "+00:00")
            self.assertTrue(at <= found <= datetime.now(timezone.utc) + hour, found)
            self.assertEqual(mayfly.cancel(task).state, "cancelled")

    def test_list(self):
        ids = {t.id for t in mayfly.submit_all([{"workload": "cat", "labels": {"test": "list"}}] * 3)}
        for id in ids:
            mayfly.wait(id)
        self.assertEqual({t.id for t in mayfly.Client().list(labels={"test": "list"}, state="succeeded")}, ids)
        self.assertEqual(len(list(mayfly.Client().list("cat", limit=2))), 2)

    def test_refused(self):
        for wrong, kind in (({"workload": "nothing"}, "not-found"), ({"workload": "cat", "priority": 10}, "invalid")):
            with self.assertRaises(mayfly.MayflyError) as caught:
                mayfly.submit(**wrong)
            self.assertEqual(caught.exception.kind, kind)
        with self.assertRaises(TypeError):
            mayfly.submit("cat", colour="blue")
        with self.assertRaises(mayfly.MayflyError):
            mayfly.submit("cat", retries={"maximum": 1})

    def test_image(self):
        task = mayfly.submit(image=IMAGE, argv=["sh", "-c", "echo $A; cat"], env={"A": "b"}, payload="in", timeout=60)
        self.assertEqual(mayfly.result(task), b"b\nin")


class Inside(unittest.TestCase):
    """The function inside is a handler that uses this package in its container."""

    def test_inside(self):
        answer = mayfly.call("inside", {"do": "fan", "n": 5}).json()
        self.assertEqual(answer["results"], ["0", "1", "2", "3", "4"])
        self.assertEqual(answer["who"]["workload"], "inside")
        self.assertEqual(mayfly.call("inside", {"do": "denied"}).json(), "denied")

    def test_progress(self):
        task = mayfly.submit("inside", {"do": "progress"})
        seen = [t.progress for t in mayfly.watch(task) if t.progress]
        self.assertTrue(any(p["percent"] == 40 and p["message"] == "sorting" for p in seen), seen)


class Away(unittest.TestCase):
    def test_nobody(self):
        for host, kind in (("unix:///nowhere/x.sock", "unavailable"), ("http://127.0.0.1:1", "unavailable"), ("tcp://x", "invalid")):
            with self.assertRaises(mayfly.MayflyError) as caught:
                mayfly.Client(host).get("x")
            self.assertEqual(caught.exception.kind, kind)

    def test_idle_connections_are_looked_at(self):
        client = mayfly.Client()
        client.call("cat", "x")
        for connection in client._transport._idle:
            connection.sock.shutdown(2)
        time.sleep(0)
        self.assertEqual(client.call("cat", "y").text, "y")


class Events(unittest.TestCase):
    def test_emit(self):
        with mayfly.Client() as client:
            event = client.emit("sdk.python", {"n": 1}, source="/python", subject="für", room="kitchen")
            self.assertTrue(event)
            self.assertEqual(client.emit("sdk.python", b"\x00", source="/python", id="py-1"), "py-1")
            self.assertEqual(client.emit_all([{"type": "sdk.python", "data": "text", "source": "/python", "id": "py-1"}]), ["py-1"])
            with self.assertRaises(mayfly.MayflyError) as caught:
                client.emit("sdk.python", source="/python", BAD="x")
            self.assertEqual(caught.exception.kind, "invalid")
            with self.assertRaises(mayfly.MayflyError) as caught:
                client.emit("sdk.python")
            self.assertIn("source is missing", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
