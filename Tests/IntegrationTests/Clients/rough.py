#!/usr/bin/python3
"""Callers without manners at a daemon's peer port and NBD socket.

    rough.py ADDRESS:PORT SOCKET SECONDS SEED

Many callers at a time, each of a random kind: random bytes; a right beginning, up to a forged hello
in the peer's name, followed by random bytes or by silence; one byte at a time; headers with a right
checksum and wrong contents; connect and leave at once; send without ever reading. Ends with status
0 after SECONDS and a line of counts; that the daemon still serves is for the test to see.
"""
import os
import random
import select
import socket
import struct
import sys
import time

CALLERS = 24
LONGEST = 1 << 16


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def peer_message(generator, kind, payload):
    """A message between peers whose checksum is right."""
    if generator.random() < 0.5:
        known = [0, 1, 4096, 1 << 20, 1 << 40, (1 << 64) - 1]
        numbers = [generator.choice(known) for _ in range(3)]
    else:
        numbers = [generator.getrandbits(64) for _ in range(3)]
    is_right = generator.random() < 0.8
    length = len(payload) if is_right else generator.getrandbits(32)
    head = struct.pack(">4sBBHI", b"ASHL", kind, generator.choice([0, 0, 1, 2, 255]), 0, length)
    tail = struct.pack(">QQQ", *numbers)
    header = head + struct.pack(">I", crc32c(head + b"\0\0\0\0" + tail)) + tail
    # Data of the volume has no checksum by default.
    if not payload or kind in (10, 21, 63, 68):
        return header + payload
    return header + struct.pack(">I", crc32c(header + payload)) + payload


def greeting(generator):
    """What a peer would say first, so that the core hears what comes after it."""
    node = generator.choice([0, 1, 0, 1, 2, 255])
    side = generator.choice([1, 1, 1, 1, 2, 0])
    fixed = struct.pack(">HHBBBBH6x", 2, 2, node, side, 0, generator.choice([0, 0, 0, 2]), 2)
    payload = fixed + generator.randbytes(32) + b"r0"
    head = struct.pack(">4sBBHI", b"ASHL", 6, 0, 0, len(payload))
    tail = bytes(24)
    header = head + struct.pack(">I", crc32c(head + b"\0\0\0\0" + tail)) + tail
    return header + struct.pack(">I", crc32c(header + payload)) + payload


def hello(generator):
    name = generator.choice([b"r0", b"r0", b"r1", b"\xff" * 128])
    node = generator.choice([0, 1, 1, 2, 31, 255])
    versions = generator.choice([(2, 2), (2, 2), (1, 9), (9, 1), (7, 7)])
    return struct.pack(
        ">HHBBHQQQ",
        *versions,
        node,
        generator.choice([0, 1]),
        len(name),
        0,
        generator.getrandbits(64),
        generator.choice([0, (1 << 64) - 1]),
    ) + name


def peer_talk(generator):
    kinds = [*range(1, 8), *range(10, 15), *range(20, 39), 40, 41, *range(50, 71), 99]
    talk = greeting(generator) if generator.random() < 0.8 else b""
    if generator.random() < 0.7:
        talk += peer_message(generator, 1, hello(generator))
    for _ in range(generator.randrange(6)):
        payload = generator.randbytes(generator.choice([0, 0, 48, 2048, 4096]))
        talk += peer_message(generator, generator.choice(kinds), payload)
    return talk + generator.randbytes(generator.randrange(200))


def nbd_talk(generator):
    def option(number, data):
        return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data

    talk = struct.pack(">I", generator.choice([0, 1, 3, 3, 3, 0xFFFFFFFF]))
    for _ in range(generator.randrange(4)):
        talk += option(generator.choice([1, 3, 5, 6, 7, 8, 10, 99]), generator.randbytes(20))
    if generator.random() < 0.6:
        # Options that are right lead to where requests are; reads alone, or data would be lost.
        talk += option(7, struct.pack(">I2sH", 2, b"r0", 0))
        for _ in range(generator.randrange(20)):
            where = generator.choice([0, 4096, 1 << 30, (1 << 64) - 1])
            length = generator.choice([0, 1, 512, 4096, 1 << 20, 1 << 25, (1 << 32) - 1])
            kind = generator.choice([0, 0, 3, 5, 7, 50])
            talk += struct.pack(">IHHQQI", 0x25609513, 0, kind, 7, where, length)
    return talk + generator.randbytes(generator.randrange(200))


class Caller:
    """One connection and what it has left to say."""

    def __init__(self, generator, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.generator = generator
        self.reads = generator.random() < 0.7
        self.step = generator.choice([1, 7, 100, LONGEST])
        self.pause = generator.choice([0, 0, 0.01, 0.1])
        self.until = time.monotonic() + generator.choice([0, 0.1, 1, 5])
        self.next = 0
        if generator.random() < 0.25:
            self.talk = generator.randbytes(generator.randrange(LONGEST))
        else:
            self.talk = (nbd_talk if family == socket.AF_UNIX else peer_talk)(generator)
        if generator.random() < 0.3:
            self.talk = self.talk[: generator.randrange(len(self.talk) + 1)]
        try:
            self.socket.connect(address)
        except BlockingIOError:
            pass

    def turn(self, now):
        """Says or hears a little. Returns whether there is more to come."""
        if now < self.next:
            return True
        self.next = now + self.pause
        try:
            if self.talk:
                sent = self.socket.send(self.talk[: self.step], socket.MSG_NOSIGNAL)
                self.talk = self.talk[sent:]
            if self.reads and not self.socket.recv(LONGEST):
                return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        return now < self.until


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    addresses = [(host, int(port)), sys.argv[2]]
    generator = random.Random(int(sys.argv[4]))
    end = time.monotonic() + float(sys.argv[3])
    callers, made, turned_away = [], 0, 0
    while time.monotonic() < end:
        while len(callers) < CALLERS:
            try:
                callers.append(Caller(generator, generator.choice(addresses)))
                made += 1
            except OSError:
                turned_away += 1
                break
        now = time.monotonic()
        for caller in list(callers):
            if not caller.turn(now):
                caller.socket.close()
                callers.remove(caller)
        select.select([], [], [], 0.001)
    print(f"{made} callers, {turned_away} turned away at once")
    return 0 if made > 0 else 1


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
