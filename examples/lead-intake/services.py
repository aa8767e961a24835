#!/usr/bin/env python3
"""Stand-ins to try the example with: a research API and a CRM, on one port.

    python3 services.py [--port 7099] [--slow SECONDS] [--research-down]

The research API makes up what it says. The CRM keeps contacts in memory, one
for each Idempotency-Key, and prints what reaches it. With --slow it writes a
contact first and answers late: the time to kill a worker in.
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGEST = 1 << 20  # bytes of a contact

contacts = {}
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if options.research_down:
            print(f"research  {self.path}  -> 503, as you asked", flush=True)
            return self.answer(503, {"error": "down for maintenance"})
        if url.path.startswith("/companies/"):
            domain = unquote(url.path.removeprefix("/companies/"))
            found = {"domain": domain, "people": 10 * (1 + len(domain) % 20), "source": "made up"}
        elif url.path == "/news":
            found = {"company": parse_qs(url.query).get("company", [""])[0], "headlines": []}
        else:
            return self.answer(404, {"error": "there is /companies/DOMAIN and /news?company=NAME"})
        print(f"research  {self.path}", flush=True)
        self.answer(200, found)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        key = self.headers.get("Idempotency-Key")
        if self.path != "/contacts" or not key or length > LARGEST:
            return self.answer(400, {"error": "POST /contacts with an Idempotency-Key, up to 1 MiB"})
        contact = json.loads(self.rfile.read(length))
        with lock:
            known = key in contacts
            if not known:
                contacts[key] = {"id": f"contact-{len(contacts) + 1}", **contact}
            kept = contacts[key]
        print(f"crm       {'seen before' if known else 'written'}: {kept['id']}, {kept['email']}, key {key[:8]}…", flush=True)
        time.sleep(options.slow)
        self.answer(200 if known else 201, {"id": kept["id"]})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except BrokenPipeError:
            print("          whoever asked is gone", flush=True)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=7099)
    parser.add_argument("--slow", type=float, default=0, metavar="SECONDS", help="how long the CRM takes to answer")
    parser.add_argument("--research-down", action="store_true", help="the research API answers 503")
    options = parser.parse_args()
    print(f"research API and CRM at http://127.0.0.1:{options.port}", flush=True)
    try:
        ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
    except KeyboardInterrupt:
        pass
