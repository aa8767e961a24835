#!/usr/bin/env python3
"""A stand-in for the part of GitHub that keeps the reviews of pull requests.

    python3 github.py [--port 7098] [--slow SECONDS]

It has GitHub's rules that matter here: an account has one pending review of a
pull request at most, and a pending review is submitted once. It does not look
at lines of comments, nor at the token. With --slow it does first what it is
asked and answers late: the time to kill a worker in.
"""

import argparse
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LARGEST = 1 << 20  # bytes of a review
PATH = re.compile(r"^(/repos/[^/]+/[^/]+/pulls/\d+)/reviews(?:/(\d+))?(/events)?$")

reviews = []
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self):
        found = PATH.match(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length", 0))
        if not found or length > LARGEST:
            return self.answer(404, {"message": "Not Found"})
        asked = json.loads(self.rfile.read(length) or "{}")
        pull, review, events = found.groups()
        with lock:
            status, body, done = act(self.command, pull, review and int(review), bool(events), asked)
        if done:
            print(f"{self.command:6} {done}", flush=True)
            time.sleep(options.slow)
        self.answer(status, body)

    do_GET = do_POST = do_DELETE = respond

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            print("       whoever asked is gone", flush=True)

    def log_message(self, *_):
        pass


def refused(why):
    return 422, {"message": "Unprocessable Entity", "errors": [why]}, f"refused: {why}"


def act(method, pull, number, events, asked):
    """The status, the body, and what to print of it."""
    known = [review for review in reviews if review["pull"] == pull]
    if number is None:
        if method == "GET":
            return 200, known, None
        if any(review["state"] == "PENDING" for review in known):
            return refused("User can only have one pending review per pull request")
        review = {"id": len(reviews) + 1, "pull": pull, "state": "PENDING", **asked}
        reviews.append(review)
        return 200, review, f"review {review['id']} is pending, {len(asked.get('comments', []))} comments"
    review = next((review for review in known if review["id"] == number), None)
    if review is None:
        return 404, {"message": "Not Found"}, None
    if method == "GET":
        return 200, review, None
    if review["state"] != "PENDING":
        return refused("the review is submitted")
    if method == "DELETE":
        review["pull"] = None
        return 200, review, f"review {number} is removed"
    review["state"] = "COMMENTED"
    return 200, review, f"review {number} is submitted: {review['body'].splitlines()[1][:60]!r}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=7098)
    parser.add_argument("--slow", type=float, default=0, metavar="SECONDS", help="how long an answer to a change takes")
    options = parser.parse_args()
    print(f"GitHub's reviews at http://127.0.0.1:{options.port}", flush=True)
    try:
        ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()
    except KeyboardInterrupt:
        pass
