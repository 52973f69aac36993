#!/usr/bin/python3
"""What is between two nodes, and flips a bit now and then that no checksum of TCP finds.

    flip.py BYTES PORT=TARGET...

Listens at each PORT of 127.0.0.1 and passes what comes on to TARGET, and the answers back. One bit
is flipped after a random number of bytes, on average BYTES, counted over everything that passes.
Prints `ready`, then a line for each bit that was flipped. Ends when it is killed.
"""
import random
import socket
import sys
import threading

mean = int(sys.argv[1])
lock = threading.Lock()
left = int(random.expovariate(1 / mean))


def flip(data):
    """The data with a bit flipped for each time that it was due."""
    global left
    with lock:
        left -= len(data)
        while left < 0:
            place = len(data) + left
            left += 1 + int(random.expovariate(1 / mean))
            data[place] ^= 1 << random.randrange(8)
            print(f"flipped a bit of {len(data)} bytes", flush=True)
    return data


def carry(source, target):
    try:
        while data := bytearray(source.recv(1 << 16)):
            target.sendall(flip(data))
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(listener, target):
    while True:
        caller, _ = listener.accept()
        try:
            callee = socket.create_connection(("127.0.0.1", target))
        except OSError:
            caller.close()
            continue
        for pair in ((caller, callee), (callee, caller)):
            threading.Thread(target=carry, args=pair, daemon=True).start()


def main():
    threads = []
    for pair in sys.argv[2:]:
        port, target = map(int, pair.split("="))
        listener = socket.create_server(("127.0.0.1", port))
        threads.append(threading.Thread(target=serve, args=(listener, target)))
    for thread in threads:
        thread.start()
    print("ready", flush=True)


main()
