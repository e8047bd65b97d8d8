"""A wall clock that is made wrong from outside, while its process runs."""

import mmap
import struct
import time
from pathlib import Path

CLOCK = "CHAOS_CLOCK"
"""Names a file that holds, as a double, by how many seconds the wall clock of a worker process is wrong."""


def set_clock(path: Path, seconds: float) -> None:
    """Have the clocks that this file moves be wrong by so much from now on."""
    if not path.exists():
        path.write_bytes(struct.pack("d", seconds))
        return
    with path.open("r+b") as file:  # in place: it is mapped by whoever looks at it
        file.write(struct.pack("d", seconds))


def move_clock(path: str) -> None:
    """Have `time.time` and `time.time_ns` be wrong by what the file says at that moment."""
    with Path(path).open("rb") as file:
        offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + struct.unpack_from("d", offset)[0]
    time.time_ns = lambda: right_ns() + int(struct.unpack_from("d", offset)[0] * 1e9)
