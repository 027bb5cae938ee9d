"""Takes photos by PUT, and shows what has become of them."""

import html
import http.server
import json
import os
import re
import shutil
import urllib.parse

PHOTOS, MADE = "/photos", "/made"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(?:jpe?g|png|gif|webp)", re.I)
MOST = 32 << 20  # bytes of a photo

PAGE = """<!doctype html><meta charset="utf-8"><title>Photos</title>
<style>body{font:1em sans-serif;margin:2em} li{display:inline-block;margin:1em;vertical-align:top}</style>
<h1>Photos</h1>
<input type="file" accept="image/*" multiple onchange="put(this.files)"> <output></output>
<ul>%s</ul>
<script>
async function put(files) {
  for (const f of files) {
    const answer = await fetch("/photos/" + encodeURIComponent(f.name), {method: "PUT", body: f})
    document.querySelector("output").textContent = await answer.text()
  }
  setTimeout(() => location.reload(), 1000)
}
</script>
"""


def about(name):
    """What metadata wrote, or nothing."""
    try:
        with open(f"{MADE}/metadata/{name}.json", encoding="utf-8") as f:
            return json.load(f)
    except OSError:
        return None


def item(name):
    text, facts = html.escape(name), about(name)
    small = os.path.exists(f"{MADE}/thumbs/{name}.jpg")
    picture = f'<img src="/photos/thumbs/{text}.jpg" alt="">' if small else "no thumbnail yet"
    size = f'{facts["width"]} x {facts["height"]}' if facts else "not looked at yet"
    return f'<li>{picture}<br>{text}<br>{size}</li>'


class Photos(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        name = urllib.parse.unquote(self.path.rpartition("/")[2])
        length = self.headers.get("Content-Length", "")
        if not NAME.fullmatch(name):
            return self.answer(400, "put a photo at /photos/NAME.jpg (or .png, .gif, .webp); letters, digits, - and _\n")
        if not length.isdecimal() or not 0 < int(length) <= MOST:
            return self.answer(413, f"send 1 to {MOST} bytes, and Content-Length\n")
        # Names with a dot at the front are no news: the photo appears when all of it is there.
        part = f"{PHOTOS}/.{name}.{os.environ.get('MAYFLY_RUN', os.getpid())}"
        try:
            left = int(length)
            with open(part, "xb") as f:
                while left > 0 and (some := self.rfile.read(min(left, 1 << 16))):
                    f.write(some)
                    left -= len(some)
            if left:
                return self.answer(400, "the photo broke off\n")
            os.replace(part, f"{PHOTOS}/{name}")
        finally:
            if os.path.exists(part):
                os.remove(part)
        self.answer(201, f"{name} is here\n")

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        kind, name = path.split("/")[-2:]
        if path.rstrip("/") == "/photos":
            names = sorted(n for n in os.listdir(PHOTOS) if NAME.fullmatch(n))
            return self.answer(200, PAGE % "".join(map(item, names)), "text/html; charset=utf-8")
        types = {"thumbs": "image/jpeg", "metadata": "application/json"}
        if kind not in types or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            return self.answer(404, "there is no such page\n")
        try:
            with open(f"{MADE}/{kind}/{name}", "rb") as f:
                self.send_response(200)
                self.send_header("Content-Type", types[kind])
                self.send_header("Content-Length", str(os.fstat(f.fileno()).st_size))
                self.end_headers()
                shutil.copyfileobj(f, self.wfile)
        except FileNotFoundError:
            self.answer(404, "that is not made yet\n")

    def answer(self, status, text, kind="text/plain; charset=utf-8"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass  # the platform keeps a record of each run


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Photos).serve_forever()
