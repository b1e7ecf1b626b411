#!/usr/bin/env python3
"""A client of the agent socket, written from docs/socket-protocol.md with the standard library alone.

    agent.py send TO BODY [ID]      prints what became of it
    agent.py batch                  one JSON object with to, body, … on each line of stdin; an outcome for each, in their order
    agent.py recv [SECONDS]         prints a message; then acknowledges it
    agent.py request TO BODY        prints the reply
    agent.py answer BODY            takes a message that waits for a reply, and replies
"""
import base64
import json
import os
import socket
import sys
import time
import uuid

OUTSTANDING = 64  # requests on one connection without an answer
GRACE = 2  # seconds beyond what the sidecar was told to wait
PAUSE = 0.05  # until the next try: an engine that was killed is back within milliseconds


class Refused(Exception):
    def __init__(self, answer):
        super().__init__(answer.get("message", ""))
        self.code = answer["code"]


class Agent:
    def __init__(self, path=None):
        self.path = path or os.environ["CFN_SOCKET"]
        self.stream, self.rid = None, 0

    def calls(self, requests, seconds):
        """Sends all of them at once (at most OUTSTANDING); their answers, in the order of the requests. When the connection breaks
        all that have none are asked again, until the time is over: so each has to be one that may be repeated."""
        assert len(requests) <= OUTSTANDING
        deadline = time.monotonic() + seconds
        answers = [None] * len(requests)
        while None in answers:
            try:
                if self.stream is None:
                    connection = socket.socket(socket.AF_UNIX)
                    connection.connect(self.path)
                    self.stream = connection.makefile("rwb")
                    self.connection = connection
                open_ones = {}
                for i, request in enumerate(requests):
                    if answers[i] is None:
                        self.rid += 1
                        open_ones[self.rid] = i
                        self.stream.write(json.dumps({**request, "rid": self.rid}).encode() + b"\n")
                self.stream.flush()
                while open_ones:
                    self.connection.settimeout(max(0.001, deadline - time.monotonic()))
                    line = self.stream.readline()
                    if not line.endswith(b"\n"):
                        raise ConnectionError("the socket broke")
                    answer = json.loads(line)
                    if answer["rid"] in open_ones:  # else of a call that was given up
                        answers[open_ones.pop(answer["rid"])] = answer
            except OSError as error:  # a timeout, too
                self.stream = None
                if time.monotonic() >= deadline:
                    return [a or {"ok": False, "code": "unknown", "message": str(error)} for a in answers]
                time.sleep(PAUSE)
        return answers

    def call(self, op, seconds, **fields):
        answer = self.calls([{"op": op, **fields}], seconds)[0]
        if not answer["ok"]:
            raise Refused(answer)
        return answer

    @staticmethod
    def message(to, body, **fields):
        """With an id of its own: only so can it be sent again when nobody knows what became of it."""
        text = {"body": body} if isinstance(body, str) else {"body64": base64.b64encode(body).decode()}
        return {"to": to, "id": "py-" + uuid.uuid4().hex, **text, **fields}

    def send(self, to, body, seconds=5, **fields):
        return self.call("send", seconds + GRACE, timeoutMs=int(1000 * seconds), **self.message(to, body, **fields))

    def batch(self, messages, seconds=5):
        for begin in range(0, len(messages), OUTSTANDING):
            part = messages[begin:begin + OUTSTANDING]
            requests = [{"op": "send", "timeoutMs": int(1000 * seconds), "id": "py-" + uuid.uuid4().hex, **m} for m in part]
            yield from self.calls(requests, seconds + GRACE)

    def request(self, to, body, seconds=60):
        reply = self.call("request", seconds + GRACE, timeoutMs=int(1000 * seconds), **self.message(to, body))["reply"]
        self.ack(reply)
        return reply

    def reply(self, message, body, seconds=5):
        """Acknowledges the message, too, once the reply was accepted."""
        to_ack = {"inReplyTo": message["messageId"], "ackAttempt": message["attempt"]}
        sent = self.call("send", seconds + 10 + GRACE, timeoutMs=int(1000 * seconds), **self.message(message["from"], body, **to_ack))
        if not sent.get("acked"):  # a sidecar of an earlier release
            self.ack(message)
        return sent

    def recv(self, seconds=60, **fields):
        return self.call("recv", seconds + GRACE, waitMs=int(1000 * seconds), **fields)["message"]

    def ack(self, message):
        self.call("ack", 10 + GRACE, messageId=message["messageId"], attempt=message["attempt"], **{"from": message["from"]})


def body_of(message):
    return message["body"] if "body" in message else base64.b64decode(message["body64"])


def main(verb, *rest):
    agent = Agent()
    if verb == "send":
        print(json.dumps(agent.send(rest[0], rest[1], **({"id": rest[2]} if rest[2:] else {}))))
    elif verb == "batch":
        for answer in agent.batch([json.loads(line) for line in sys.stdin]):
            print(json.dumps(answer))
    elif verb == "request":
        print(body_of(agent.request(*rest)))
    elif verb == "recv":
        message = agent.recv(float(rest[0]) if rest else 60)
        print(json.dumps(message), flush=True)
        agent.ack(message)
    elif verb == "answer":
        message = agent.recv()
        print(json.dumps(message), flush=True)
        agent.reply(message, rest[0])


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Refused as refused:
        sys.exit(f"{refused.code}: {refused}")
