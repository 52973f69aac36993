#!/usr/bin/python3
"""A client that knows what it was promised.

    writer.py write  URI STATE SECONDS SEED   random writes, many in flight, until SECONDS are over,
                                              standard input says "stop" or the server is gone
    writer.py verify URI STATE                every block holds a value it may hold

Each 4 KiB block written is filled with its address, a sequence number and the seed. STATE is a
file with the sequence numbers that each block may hold: the last one acknowledged, or any issued
after it (a write that was not acknowledged may or may not have happened). Blocks never written
must be zero. `verify` narrows each block to the value it found: from then on that value must stay.

`write` prints "writing" when its first write was acknowledged. Its exit status: 0 when it was told
to stop or the time was over, 3 when the server was gone, 4 when the server answered a write with an
error.
"""
import errno
import os
import random
import select
import struct
import sys
import time

import nbd

BLOCK = 4096
DEPTH = 32
LONGEST = 16  # blocks in one write
STAMP = struct.Struct("<QQQ")


def block_of(address, sequence, seed):
    """The 4 KiB that a write leaves at a block address."""
    return (STAMP.pack(address, sequence, seed) + b"\0" * 8) * (BLOCK // 32)


class State:
    """Which writes each block may hold, kept in a file between runs."""

    def __init__(self, path, blocks):
        self.path = path
        self.sequence = 0
        self.seeds = {}
        self.allowed = {}
        if os.path.exists(path):
            with open(path, encoding="ascii") as file:
                self.sequence = int(file.readline())
                for line in file:
                    address, *values = line.split()
                    pairs = [tuple(map(int, value.split(":"))) for value in values]
                    self.allowed[int(address)] = [sequence for sequence, _ in pairs]
                    self.seeds.update(pairs)
        self.blocks = blocks

    def save(self):
        with open(self.path + ".new", "w", encoding="ascii") as file:
            print(self.sequence, file=file)
            for address, values in sorted(self.allowed.items()):
                print(address, *(f"{v}:{self.seeds.get(v, 0)}" for v in values), file=file)
        os.replace(self.path + ".new", self.path)

    def issue(self, first, count, sequence):
        for address in range(first, first + count):
            self.allowed.setdefault(address, [0]).append(sequence)

    def acknowledge(self, first, count, sequence):
        for address in range(first, first + count):
            self.allowed[address] = [sequence]


def connect(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def told_to_stop():
    """Whether standard input said "stop"; one that is at its end says nothing."""
    ready, _, _ = select.select([0], [], [], 0)
    return bool(ready) and os.read(0, 64).startswith(b"stop")


def write(uri, path, seconds, seed):
    handle = connect(uri)
    state = State(path, handle.get_size() // BLOCK)
    generator = random.Random(seed)
    busy = set()
    flying = 0
    acknowledged = 0
    refused = 0

    def finished(first, count, sequence, buffer):
        def callback(error):
            nonlocal flying, acknowledged, refused
            del buffer[:]
            flying -= 1
            busy.difference_update(range(first, first + count))
            # A write that failed may still have reached a disk: it stays among the values allowed.
            if error.value == 0:
                if acknowledged == 0:
                    print("writing", flush=True)
                acknowledged += 1
                state.acknowledge(first, count, sequence)
            elif error.value != errno.ENOTCONN:
                refused += 1
            return 1

        return callback

    end = time.monotonic() + seconds
    gone = False
    try:
        while time.monotonic() < end and not told_to_stop():
            while flying < DEPTH:
                count = generator.randint(1, LONGEST) if generator.random() < 0.2 else 1
                first = generator.randrange(state.blocks - count + 1)
                if not busy.isdisjoint(range(first, first + count)):
                    continue
                state.sequence += 1
                sequence = state.sequence
                state.seeds[sequence] = seed
                data = b"".join(block_of(a, sequence, seed) for a in range(first, first + count))
                buffer = nbd.Buffer.from_bytearray(bytearray(data))
                busy.update(range(first, first + count))
                state.issue(first, count, sequence)
                flying += 1
                flags = nbd.CMD_FLAG_FUA if generator.random() < 0.05 else 0
                handle.aio_pwrite(
                    buffer, first * BLOCK, finished(first, count, sequence, [buffer]), flags
                )
            handle.poll(100)
        while flying > 0 and handle.aio_in_flight() > 0:
            handle.poll(100)
    except nbd.Error:
        gone = True
    state.save()
    print(f"{acknowledged} acknowledged, {refused} refused, {flying} in flight at the end")
    if gone or flying > 0:
        return 3
    return 4 if refused else 0


def verify(uri, path):
    handle = connect(uri)
    state = State(path, handle.get_size() // BLOCK)
    bad = 0
    chunk = 256
    for start in range(0, state.blocks, chunk):
        count = min(chunk, state.blocks - start)
        data = handle.pread(count * BLOCK, start * BLOCK)
        for index in range(count):
            address = start + index
            block = bytes(data[index * BLOCK : (index + 1) * BLOCK])
            allowed = state.allowed.get(address, [0])
            found = next((v for v in allowed if block == expected(address, v, state)), None)
            if found is None:
                bad += 1
                if bad <= 10:
                    print(f"block {address}: holds {STAMP.unpack_from(block)}, allowed {allowed}")
            elif address in state.allowed:
                state.allowed[address] = [found]
    state.save()
    print(f"{state.blocks} blocks read, {len(state.allowed)} were written, {bad} are wrong")
    return 1 if bad else 0


def expected(address, sequence, state):
    if sequence == 0:
        return b"\0" * BLOCK
    return block_of(address, sequence, state.seeds[sequence])


def main():
    command, uri, path = sys.argv[1:4]
    if command == "write":
        return write(uri, path, float(sys.argv[4]), int(sys.argv[5]))
    return verify(uri, path)


sys.exit(main())
