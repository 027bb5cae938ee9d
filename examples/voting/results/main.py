"""The results: a page that follows the count as it changes.

/results is the page, /results/count the count, /results/live the counts as
server-sent events, one at once and one for each change.
"""

import html
import json
import os
import select
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

CHOICES = {"a": "Cats", "b": "Dogs"}

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Results</title>
<style>
  body { font: 18px/1.5 system-ui, sans-serif; max-width: 30rem; margin: 4rem auto; padding: 0 1rem }
  .bar { background: #def; border-radius: .4rem; margin: .2rem 0 1rem; overflow: hidden }
  .bar div { background: #234; height: 2rem; width: 0; transition: width .3s }
</style>
<h1>Results</h1>
%s
<p id="total">no votes yet</p>
<p><a href="/vote">vote</a></p>
<script>
  new EventSource("/results/live").onmessage = message => {
    const votes = JSON.parse(message.data)
    const total = Object.values(votes).reduce((a, b) => a + b, 0)
    for (const [choice, n] of Object.entries(votes)) {
      document.getElementById(choice + "-n").textContent = n
      document.getElementById(choice + "-bar").style.width = (total ? 100 * n / total : 0) + "%%"
    }
    document.getElementById("total").textContent = total + (total == 1 ? " vote" : " votes")
  }
</script>
"""


def connect():
    """A connection to the database, wherever that is by now."""
    with open("/run/mayfly/endpoints.json") as f:
        at = json.load(f)["pg"]
    if not at:
        raise OSError("the database is away")
    with open("/run/secrets/votes") as f:
        db = psycopg2.connect(host=at[0]["host"], port=at[0]["port"], user="votes", dbname="votes",
                              password=f.read().strip(), connect_timeout=5)
    db.autocommit = True
    return db


def count(db):
    votes = dict.fromkeys(CHOICES, 0)
    with db.cursor() as c:
        c.execute("SELECT choice, count(*) FROM votes GROUP BY choice")
        votes.update(c.fetchall())
    return votes


class Count:
    """The newest count, for all who follow it, from one connection that the
    database tells of changes. It is there while somebody follows."""

    def __init__(self):
        self.changed = threading.Condition()
        self.followers = 0
        self.serial = 0
        self.votes = None

    def follow(self):
        with self.changed:
            self.followers += 1
            if self.followers == 1:
                self.votes = None
                threading.Thread(target=self.watch, daemon=True).start()

    def leave(self):
        with self.changed:
            self.followers -= 1

    def next(self, seen, timeout):
        """The first count after seen, or None when there was none in time."""
        with self.changed:
            self.changed.wait_for(lambda: self.votes is not None and self.serial > seen, timeout)
            return (self.serial, self.votes) if self.votes is not None and self.serial > seen else (seen, None)

    def watch(self):
        while self.followers:
            try:
                self.listen()
            except (OSError, psycopg2.Error) as e:
                print("the count is not followed:", str(e).strip())
                time.sleep(0.5)

    def listen(self):
        db = connect()
        try:
            with db.cursor() as c:
                c.execute("LISTEN votes")
            while self.followers:
                votes = count(db)
                with self.changed:
                    if votes != self.votes:
                        self.votes, self.serial = votes, self.serial + 1
                        self.changed.notify_all()
                select.select([db], [], [], 5)
                db.poll()
                db.notifies.clear()
                time.sleep(0.05)  # a burst of votes is one count
        finally:
            db.close()


THE_COUNT = Count()


class Results(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/results":
            bars = "".join('<div>%s: <b id="%s-n">0</b></div><div class="bar"><div id="%s-bar"></div></div>' % (
                html.escape(name), key, key) for key, name in CHOICES.items())
            self.say(200, PAGE % bars, "text/html; charset=utf-8")
        elif path == "/results/count":
            self.once()
        elif path == "/results/live":
            self.live()
        else:
            self.say(404, "there is no such page\n")

    def once(self):
        try:
            db = connect()
            try:
                votes = count(db)
            finally:
                db.close()
        except (OSError, psycopg2.Error) as e:
            return self.say(503, "the count cannot be read: %s\n" % str(e).strip())
        self.say(200, json.dumps(votes) + "\n", "application/json")

    def live(self):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        THE_COUNT.follow()
        try:
            seen = 0
            while True:
                seen, votes = THE_COUNT.next(seen, 10)
                self.wfile.write(b": nothing new\n\n" if votes is None else b"data: %s\n\n" % json.dumps(votes).encode())
        except OSError:
            pass  # the reader has left
        finally:
            THE_COUNT.leave()

    def say(self, status, text, kind="text/plain; charset=utf-8"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Server(("", int(os.environ["PORT"])), Results).serve_forever()
