#!/usr/bin/env python3
"""An MCP server over stdio that misbehaves as it is told.

Usage: misbehaving.py [--on-start exit|hang|garbage|endless-garbage] [--starts FILE]

Every start appends its process id to FILE. Each tool is one way to go wrong.
"""
import argparse
import json
import os
import subprocess
import sys
import time

TOOLS = {
    "echo": "Answers with its arguments and its _meta.",
    "die": "Ends in the middle of the call.",
    "hang": "Never answers, and reads nothing any more.",
    "ignore": "Never answers, but goes on otherwise.",
    "garbage": "Prints a line that is no JSON instead of an answer.",
    "endless_garbage": "Prints lines that are no JSON without end.",
    "large": "Answers with 50 MiB.",
    "large_without_id": "Prints 50 MiB that answer nothing.",
    "rpc_error": "Answers with a JSON-RPC error.",
    "invalid_params": "Answers with the JSON-RPC error for invalid arguments.",
    "is_error": "Answers with an error of the tool.",
    "no_result": "Answers with something that is no result of a tool.",
    "child": "Starts a process in the background and answers with its id.",
    "close_stdout": "Closes its stdout but lives on.",
}


def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(what, **more):
    return {"content": [{"type": "text", "text": what}], **more}


def call(identity, params):
    name, arguments = params["name"], params.get("arguments", {})
    if name == "echo":
        send({"id": identity, "result": text(json.dumps({"arguments": arguments, "_meta": params.get("_meta")}))})
    elif name == "die":
        print("these are my last words", file=sys.stderr, flush=True)
        os._exit(3)
    elif name == "hang":
        time.sleep(1000)
    elif name == "ignore":
        pass
    elif name == "garbage":
        print("Segmentation fault (not really)", flush=True)
    elif name == "endless_garbage":
        while True:
            print("garbage " * 100, flush=True)
    elif name == "large":
        send({"id": identity, "result": text("x" * (50 << 20))})
    elif name == "large_without_id":
        send({"method": "notifications/message", "params": {"level": "info", "data": "x" * (50 << 20)}})
    elif name == "rpc_error":
        send({"id": identity, "error": {"code": -32050, "message": "the database is on fire", "data": {"floor": 3}}})
    elif name == "invalid_params":
        send({"id": identity, "error": {"code": -32602, "message": "there is no such thing"}})
    elif name == "is_error":
        send({"id": identity, "result": text("no such file", isError=True)})
    elif name == "no_result":
        send({"id": identity, "result": "fine"})
    elif name == "child":
        child = subprocess.Popen(["sleep", "1000"])
        send({"id": identity, "result": text(str(child.pid))})
    elif name == "close_stdout":
        os.close(1)
    else:
        send({"id": identity, "error": {"code": -32602, "message": f"unknown tool {name}"}})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on-start", choices=["exit", "hang", "garbage", "endless-garbage"])
    parser.add_argument("--starts")
    options = parser.parse_args()
    if options.starts:
        with open(options.starts, "a") as starts:
            print(os.getpid(), file=starts)
    if options.on_start == "exit":
        sys.exit("I do not feel like it")
    elif options.on_start == "hang":
        time.sleep(1000)
    elif options.on_start == "garbage":
        print("Welcome to the misbehaving server!", flush=True)
    elif options.on_start == "endless-garbage":
        while True:
            print("Welcome!", flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        method, identity = message.get("method"), message.get("id")
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            send({"id": identity, "result": {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "misbehaving", "version": "1"},
            }})
        elif method == "ping":
            send({"id": identity, "result": {}})
        elif method == "tools/list":
            # In pages of five, named by where they begin.
            start = int(message.get("params", {}).get("cursor") or 0)
            names = list(TOOLS)[start:start + 5]
            tools = [{"name": n, "description": TOOLS[n], "inputSchema": {"type": "object"}} for n in names]
            if start + 5 < len(TOOLS):
                send({"id": identity, "result": {"tools": tools, "nextCursor": str(start + 5)}})
            else:
                tools.append({"name": "not callable", "inputSchema": {"type": "object"}})
                send({"id": identity, "result": {"tools": tools}})
        elif method == "tools/call":
            call(identity, message["params"])


if __name__ == "__main__":
    main()
