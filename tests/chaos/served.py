"""What a worker process of the suite loads: the app; and it says that it is there, and whose child it is.

Its wall clock can be made wrong from outside, while it runs.
"""

import mmap
import os
import struct
import time
from pathlib import Path

from .tasks import make_app, runs

CLOCK = "CHAOS_CLOCK"
"""Names a file that holds, as a double, by how many seconds the wall clock of this process is wrong."""


def move_clock(path: str) -> None:
    """Have `time.time` and `time.time_ns` be wrong by what the file says at that moment."""
    with Path(path).open("rb") as file:
        offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + struct.unpack_from("d", offset)[0]
    time.time_ns = lambda: right_ns() + int(struct.unpack_from("d", offset)[0] * 1e9)


if CLOCK in os.environ:
    move_clock(os.environ[CLOCK])
runs.note("born", "-", os.getppid())
app = make_app(os.environ["RQUEUE_URL"])
