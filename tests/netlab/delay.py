"""A slow line between two machines of the network lab: every packet takes its time from one interface to the other.

Kernels without netem cannot do this by themselves. Runs on the machine that gets the first interface:

    delay.py FIRST SECOND NAMESPACE-OF-SECOND MILLISECONDS
"""

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
# More than fits into the line is lost, as on a real one.
MOST_WAITING = 10_000


def interface(name: str) -> int:
    """Makes an interface and returns what its packets are read from and written to."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return fd


def write(fd: int, packet: bytes) -> None:
    """Sends a packet; an interface that takes none now loses it."""
    with contextlib.suppress(OSError):
        os.write(fd, packet)


def main() -> None:
    """Passes packets on until it is killed."""
    first, second, namespace, milliseconds = sys.argv[1:]
    delay = float(milliseconds) / 1000
    ends = [interface(first), interface(second)]
    subprocess.run(["ip", "link", "set", second, "netns", namespace], check=True)  # noqa: S603, S607 - names of the lab
    print("ready", flush=True)
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for fd in select.select(ends, [], [], pause)[0]:
            try:
                packet = os.read(fd, 65_536)
            except BlockingIOError:
                continue
            except OSError:
                # The machine is gone, and the interface with it.
                return
            if len(waiting) < MOST_WAITING:
                waiting.append((time.monotonic() + delay, ends[1 - ends.index(fd)], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, fd, packet = waiting.popleft()
            write(fd, packet)


if __name__ == "__main__":
    main()
