"""A DNS server on loopback that knows one name, with the address 127.0.0.1. It ends by itself after some minutes."""

import signal
import socket
import sys

NAME = sys.argv[1]
TYPE_A = b"\x00\x01"
NO_SUCH_NAME = 3

signal.alarm(300)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, client = server.recvfrom(512)
    end = query.index(b"\x00", 12) + 1
    labels, kind = query[12 : end - 1], query[end : end + 2]
    known = labels == b"".join(bytes([len(label)]) + label.encode() for label in NAME.split("."))
    record = b"\xc0\x0c" + TYPE_A + b"\x00\x01" + b"\x00\x00\x00\x0a" + b"\x00\x04" + bytes([127, 0, 0, 1])
    answers = record if known and kind == TYPE_A else b""
    flags = bytes([0x81, 0x80 | (0 if known else NO_SUCH_NAME)])
    counts = b"\x00\x01" + len(answers[:1]).to_bytes(2, "big") + b"\x00\x00" * 2
    server.sendto(query[:2] + flags + counts + query[12 : end + 4] + answers, client)
