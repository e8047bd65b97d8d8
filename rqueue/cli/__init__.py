"""The command line: operators and shell scripts use rqueue without writing code."""

from rqueue.cli.program import main

__all__ = ["main"]
