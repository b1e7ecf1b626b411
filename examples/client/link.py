#!/usr/bin/env python3
"""Speaks the link between two sidecars, written from docs/link-protocol.md with the standard library alone: proves that it knows the
swarm's link secret, delivers one message, and records that its receiver has acknowledged it.

    link.py SECRET_FILE ADDRESS PORT SWARM_UID ME TO BODY

ME must be the name of no pod that there is: a name belongs to one sender, and its peers would look for it there.
"""
import hashlib
import hmac
import os
import socket
import struct
import sys
import time

VERSION = 1
HELLO, CHALLENGE, PROOF, WELCOME, CLOSE, PING, PONG, MESSAGE, ANSWER, ACKED, ACK_RECORDED = 1, 2, 3, 4, 5, 10, 11, 20, 21, 22, 23
OUTCOMES = ("stored", "duplicate", "finished", "full", "gap", "refused")
HANDSHAKE_BYTES, FRAME_BYTES = 8192, 528384
DEADLINE = 20  # seconds for all of it

CRC_TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    CRC_TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def text(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<I", len(data)) + data


def frame(kind, payload=b""):
    head = struct.pack("<IBBH", len(payload), VERSION, kind, 0)
    return head + struct.pack("<I", crc32c(head + payload)) + payload


def identity(swarm_uid, name, pod, pod_uid, node, address, log_id):
    return b"".join(map(text, (swarm_uid, name, pod, pod_uid, node, address, log_id)))


def message(message_id, sender, to, body, sent_at_ms, priority=1, wants_reply=False, in_reply_to=""):
    texts = [t.encode() for t in (message_id, sender, to, in_reply_to)]
    return struct.pack("<BBBBqHHHHI", 1, priority, wants_reply, 0, sent_at_ms, *map(len, texts), len(body)) + b"".join(texts) + body


def take_text(data):
    """The text at the beginning, and what is behind it."""
    size = struct.unpack_from("<I", data)[0]
    assert 4 + size <= len(data), "a text is cut short"
    return data[4:4 + size], data[4 + size:]


class Link:
    def __init__(self, address, port, secret, me, expected_name):
        self.deadline = time.monotonic() + DEADLINE
        self.socket = socket.create_connection((address, port), DEADLINE)
        self.most = HANDSHAKE_BYTES
        hello = me + text(os.urandom(32)) + text(expected_name) + text(b"")
        self.send(HELLO, hello)
        challenge = self.expect(CHALLENGE)
        rest, fields = challenge, []
        for _ in range(9):  # its identity, nonce, MAC
            field, rest = take_text(rest)
            fields.append(field)
        self.name, proof = fields[1].decode(), fields[8]
        transcript = hashlib.sha256(hello).digest() + hashlib.sha256(challenge[:-4 - len(proof)]).digest()
        mac = lambda side: hmac.digest(secret, side + transcript, "sha256")
        assert not rest and hmac.compare_digest(proof, mac(b"server")), "the server does not know the secret"
        assert self.name == expected_name, "somebody else"
        self.send(PROOF, mac(b"client"))
        self.expect(WELCOME)
        self.most = FRAME_BYTES

    def send(self, kind, payload=b""):
        self.socket.sendall(frame(kind, payload))

    def bytes(self, size):
        data = b""
        while len(data) < size:
            self.socket.settimeout(max(0.001, self.deadline - time.monotonic()))
            part = self.socket.recv(size - len(data))
            assert part, "the connection was closed"
            data += part
        return data

    def expect(self, wanted):
        """The payload of the next frame of this type; a PING in between is answered."""
        while True:
            head = self.bytes(12)
            size, version, kind, zero, crc = struct.unpack("<IBBHI", head)
            assert version == VERSION and zero == 0 and size <= self.most, "not a frame"
            payload = self.bytes(size)
            assert crc == crc32c(head[:8] + payload), "a wrong checksum"
            if kind == wanted:
                return payload
            assert kind != CLOSE, "closed: " + payload.decode(errors="replace")
            if kind == PING:
                self.send(PONG)


def main(secret_file, address, port, swarm_uid, me, to, body):
    with open(secret_file, "rb") as file:
        secret = file.read().rstrip(b"\n")  # its hex text, as it is
    log_id = os.urandom(16)  # a new one: this program keeps no log, so each run is another incarnation
    link = Link(address, int(port), secret, identity(swarm_uid, me, me, "uid-" + me, "here", "127.0.0.1", log_id), to)
    message_id = "link-" + log_id.hex()
    sequence, before = 1, 0
    link.send(MESSAGE, struct.pack("<QQ", sequence, before) + message(message_id, me, to, body.encode(), int(1000 * time.time())))
    answer = link.expect(ANSWER)
    numbers, reason = struct.unpack_from("<QB", answer), take_text(answer[9:])[0]
    print(message_id, OUTCOMES[numbers[1]], reason.decode(), flush=True)
    assert numbers[0] == sequence
    if OUTCOMES[numbers[1]] != "stored":
        sys.exit(1)
    assert struct.unpack("<Q", link.expect(ACKED))[0] == sequence
    link.send(ACK_RECORDED, struct.pack("<Q", sequence))  # a sidecar marks it in its log before
    print(message_id, "acknowledged by", link.name, flush=True)
    link.send(CLOSE, b"done")


if __name__ == "__main__":
    if len(sys.argv) != 8:
        sys.exit(__doc__)
    main(*sys.argv[1:])
