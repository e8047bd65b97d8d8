"""Run the rqueue command from a checkout: `python cli.py worker -Q email`. An installed rqueue has `rqueue` instead."""

from rqueue.cli.program import main

if __name__ == "__main__":
    main()
