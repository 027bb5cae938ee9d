# A load balancer. It gives each request to the backend with the fewest, and scales
# the backends by what is in flight here, as Mayfly's router counts it.
import collections
import http.client
import http.server
import json
import math
import os
import socket
import threading
import time

EACH = 2        # requests that a backend is to have at once
IDLE = 5        # seconds for which fewer must have been enough
LOOK = 0.2      # seconds between looks

lock = threading.Condition()
busy = collections.Counter()    # requests by backend


def ask(method, path, body=None):
    """Asks Mayfly, at the socket that is this container's identity."""
    c = http.client.HTTPConnection("mayfly", timeout=5)
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.connect("/run/mayfly/api.sock")
    try:
        c.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        r = c.getresponse()
        text = r.read()
        if r.status != 200:
            raise OSError(f"{method} {path}: {r.status} {text.decode()}")
        return json.loads(text)
    finally:
        c.close()


def backends():
    """The backends that are ready. Mayfly keeps the file current."""
    with open("/run/mayfly/endpoints.json") as f:
        return [(e["host"], e["port"]) for e in json.load(f)["back"]]


def scale():
    lately = collections.deque()    # (time, backends that were needed)
    asked = 0
    while True:
        load = ask("GET", "/v1/workloads/front/load")
        most = ask("GET", "/v1/workloads/back/load")["max"]
        need = min(max(math.ceil((load["inFlight"] + load["waiting"]) / EACH), 1), most)
        now = time.monotonic()
        lately.append((now, need))
        while lately[0][0] < now - IDLE:
            lately.popleft()
        need = max(n for _, n in lately)
        if need != asked:
            ask("PUT", "/v1/services/back/scale", {"count": need})
            print("backends:", need, flush=True)
            asked = need
        time.sleep(LOOK)


def keep_scaling():
    while True:
        try:
            scale()
        except (OSError, http.client.HTTPException) as e:    # the daemon is away, or people scale
            print(e, flush=True)
            time.sleep(1)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        for last in (False, True):
            with lock:
                to = min(backends(), key=lambda b: busy[b])
                busy[to] += 1
            try:
                c = http.client.HTTPConnection(*to, timeout=30)
                c.request("GET", self.path)
                r = c.getresponse()
                body = r.read()
                break
            except OSError:    # it went just now; a GET may be sent again
                if last:
                    raise
            finally:
                c.close()
                with lock:
                    busy[to] -= 1
        self.send_response(r.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


threading.Thread(target=keep_scaling, daemon=True).start()
Server(("", 8080), Handler).serve_forever()
