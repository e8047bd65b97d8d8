"""What a worker process of the suite loads: the app; and it says that it is there, and whose child it is."""

import os

from .clock import CLOCK, move_clock
from .tasks import RESULTS, make_app, runs

if CLOCK in os.environ:
    move_clock(os.environ[CLOCK])
runs.note("born", "-", os.getppid())
app = make_app(os.environ["RQUEUE_URL"], results=os.environ.get(RESULTS))
