"""The voting page: shows two buttons, and has each vote recorded.

A vote is a task or an event, as VOTE_BY says. Either is on disk when the voter
hears that it was taken; neither waits for the database.
"""

import html
import http.client
import json
import os
import secrets
import socket
import time
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

CHOICES = {"a": "Cats", "b": "Dogs"}

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>%(title)s</title>
<style>
  body { font: 18px/1.5 system-ui, sans-serif; max-width: 30rem; margin: 4rem auto; padding: 0 1rem; text-align: center }
  button { font: inherit; padding: 1.5rem 0; width: 45%%; margin: .5rem 1%%; border: 2px solid #234; border-radius: .6rem; background: #fff; cursor: pointer }
  button.mine { background: #234; color: #fff }
</style>
<h1>%(title)s</h1>
<form method="post" action="/vote">%(buttons)s</form>
<p>%(said)s</p>
<p><a href="/results">the results</a></p>
"""


class Daemon(http.client.HTTPConnection):
    """The API, as every container has it."""

    def __init__(self):
        super().__init__("mayfly", timeout=10)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect("/run/mayfly/api.sock")

    def post(self, path, body, headers):
        self.request("POST", path, body, headers)
        answer = self.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise OSError("%s: %d %s" % (path, answer.status, text.decode(errors="replace")))


def cast(voter, choice):
    """Has a vote recorded. Whatever happens from here on, it will be."""
    vote = {"voter": voter, "choice": choice, "at": time.time_ns()}
    daemon = Daemon()
    try:
        if os.environ.get("VOTE_BY") == "event":
            daemon.post("/v1/events", json.dumps(vote), {
                "Content-Type": "application/json",
                "ce-specversion": "1.0", "ce-type": "vote.cast", "ce-source": "/vote",
                "ce-id": "%s-%d" % (voter, vote["at"]),
            })
        else:
            tasks = {"tasks": [{"workload": "record-vote", "json": vote}]}
            daemon.post("/v1/tasks", json.dumps(tasks), {"Content-Type": "application/json"})
    finally:
        daemon.close()


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        voter, _ = self.voter()
        self.show(200, voter, "", "One vote each. You may change your mind.")

    def do_POST(self):
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > 1000:
            self.close_connection = True
            return self.say(400, "a vote is a short form")
        choice = parse_qs(self.rfile.read(int(size)).decode("latin-1")).get("vote", [""])[0]
        if choice not in CHOICES:
            return self.say(400, "vote for one of " + ", ".join(CHOICES))
        voter, _ = self.voter()
        try:
            cast(voter, choice)
        except OSError as e:
            print("vote not taken:", e)
            return self.say(503, "your vote was not taken; please try again")
        self.show(202, voter, choice, "Your vote for %s is taken." % html.escape(CHOICES[choice]))

    def voter(self):
        """Who votes, by the cookie, and whether that is new."""
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("voter")
        if cookie and cookie.value.isalnum() and len(cookie.value) <= 32:
            return cookie.value, False
        return secrets.token_hex(8), True

    def show(self, status, voter, mine, said):
        buttons = "".join('<button name="vote" value="%s"%s>%s</button>' % (
            key, ' class="mine"' if key == mine else "", html.escape(name)) for key, name in CHOICES.items())
        page = PAGE % {"title": html.escape(" or ".join(CHOICES.values()) + "?"), "buttons": buttons, "said": said}
        self.say(status, page, "text/html; charset=utf-8", "voter=%s; Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000" % voter)

    def say(self, status, text, kind="text/plain; charset=utf-8", cookie=None):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Server(("", int(os.environ["PORT"])), Page).serve_forever()
