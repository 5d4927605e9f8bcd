"""A slow line from a machine to itself: what goes to SECOND comes back as from there, late, some twice or too soon.

For a network namespace without other machines, on kernels without netem. Makes the interface INTERFACE, on which this
machine has the address FIRST; who connects to SECOND reaches a server of this machine, and both see the other far away.

    slow_line.py INTERFACE FIRST SECOND MILLISECONDS PERCENT-TWICE PERCENT-AT-ONCE
"""

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
# More than fits into the line is lost, as on a real one.
MOST_WAITING = 10_000


def mirrored(packet: bytes) -> bytes:
    """Exchanges source and destination of an IPv4 packet, which no checksum notices: both are summed."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


def interface(name: str, first: str, second: str) -> int:
    """Makes the interface and returns what its packets are read from and written to."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    for command in (f"addr add {first} peer {second} dev {name}", f"link set {name} up mtu 1500"):
        subprocess.run(["ip", *command.split()], check=True)  # noqa: S603, S607 - names of the test
    return fd


def main() -> None:
    """Passes packets on until it is killed."""
    name, first, second, *numbers = sys.argv[1:]
    delay, twice, at_once = (float(number) / scale for number, scale in zip(numbers, (1000, 100, 100), strict=True))
    fd = interface(name, first, second)
    print("ready", flush=True)
    # The same luck in every run.
    dice = random.Random(1)  # noqa: S311 - no secret
    waiting: list[tuple[float, int, bytes]] = []
    count = 0
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([fd], [], [], pause)[0] and len(waiting) < MOST_WAITING:
            packet = os.read(fd, 65_536)
            # Only IPv4 has a way back.
            if packet[0] >> 4 == 4:
                due = time.monotonic() + (0 if dice.random() < at_once else delay)
                for _ in range(2 if dice.random() < twice else 1):
                    count += 1
                    heapq.heappush(waiting, (due, count, mirrored(packet)))
        while waiting and waiting[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):
                os.write(fd, heapq.heappop(waiting)[2])


if __name__ == "__main__":
    main()
