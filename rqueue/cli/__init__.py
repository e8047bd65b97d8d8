"""The command line: operators and shell scripts use rqueue without writing code.

Nothing is imported here: a worker process needs a part of it, and starts often.
"""
