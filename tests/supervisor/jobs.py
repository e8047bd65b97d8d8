"""The tasks of the supervisor's tests; a copy of this file lies where the workers run."""

import asyncio
import ctypes
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from rqueue import Queue, RQueue, TimeLimitExceeded, current_request

app = RQueue(queues=[Queue("default"), Queue("other")])


def note(what, about=None):
    """One line in a file that no death of a process can take back."""
    line = f"{what} {about or current_request().id} {os.getpid()}\n"
    log = os.open(os.environ["ORACLE"], os.O_WRONLY | os.O_APPEND)
    os.write(log, line.encode())
    os.close(log)


@app.on_dead
def bury(outcome):
    note("dead", outcome.id)


@app.signals.worker_process_init.connect
def begin():
    note("process", "begins")


@app.signals.worker_process_shutdown.connect
def end(exitcode):
    note("process", f"ends:{exitcode}")


@app.task(name="pid")
async def pid():
    note("start")
    return os.getpid()


@app.task(name="nap")
async def nap(seconds):
    note("start")
    await asyncio.sleep(seconds)
    note("end")
    return os.getpid()


@app.task(name="until")
async def until(path):
    note("start")
    while not os.access(path, os.F_OK):
        await asyncio.sleep(0.01)
    return os.getpid()


@app.task(name="block")
def block(seconds):
    """In a thread."""
    note("start")
    time.sleep(seconds)
    note("end")
    return os.getpid()


@app.task(name="stand_still")
async def stand_still(seconds):
    """Block the event loop, the first time that it runs."""
    note("start")
    if current_request().losses == 0:
        time.sleep(seconds)  # noqa: ASYNC251 - just so
    return os.getpid()


@app.task(name="hold", max_retries=0)
def hold(seconds):
    """Hold the interpreter's lock: nothing else in the process runs."""
    note("start")
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    note("end")
    return os.getpid()


@app.task(name="hold_limited", time_limit=0.5, max_retries=0)
def hold_limited(seconds):
    hold.function(seconds)


@app.task(name="hold_again", time_limit=0.5, max_retries=1, autoretry_for=(TimeLimitExceeded,), default_retry_delay=0)
def hold_again(seconds):
    hold.function(seconds if current_request().retries == 0 else 0)


@app.task(name="die")
async def die(how):
    note("start")
    if how == "leave":
        os._exit(0)
    elif how == "exit":
        os._exit(3)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), 9)


@app.task(name="grow")
def grow(megabytes):
    """Take memory and keep it."""
    note("start")
    kept.append(bytearray(os.urandom(1024) * 1024 * megabytes))
    return os.getpid()


kept = []


@app.task(name="too_much", max_retries=0)
def too_much():
    """Allocate past the address space that the process may have."""
    note("start")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, hard))
    try:
        return len(bytearray(2**30))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


@app.task(name="descend", max_retries=0)
def descend(count):
    """Leave children behind, in the process's group, that outlive it; their ids."""
    note("start")
    return [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid for _ in range(count)]


@app.task(name="orphan")
def orphan():
    """Leave a grandchild to whoever adopts orphans: it ends at once and waits to be waited for."""
    note("start")
    shell = subprocess.run(["sh", "-c", "sleep 0 & echo $!"], capture_output=True, check=True)
    return int(shell.stdout)


@app.task(name="files", max_retries=0)
def files():
    """Use up all descriptors, for as long as it runs."""
    note("start")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as exc:
        time.sleep(1)
        return exc.errno
    finally:
        for each in taken:
            os.close(each)
