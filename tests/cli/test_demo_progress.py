"""The demo's progress: a bar on a terminal, lines elsewhere."""

import io

from rich.console import Console

from rqueue.cli.demo_progress import DemoProgress


def show(console):
    with DemoProgress(console, 100) as progress:
        progress.say("here we go")
        for count in (1, 10, 15, 55, 100):
            progress.done(count)
    return console.file.getvalue()


def test_lines_for_every_tenth_of_the_way():
    assert show(Console(file=io.StringIO(), width=80)).splitlines() == [
        "here we go",
        "10 of 100 jobs done",
        "55 of 100 jobs done",
        "100 of 100 jobs done",
    ]


def test_a_bar_on_a_terminal():
    shown = show(Console(file=io.StringIO(), width=80, force_terminal=True))
    assert "here we go" in shown
    assert "100/100" in shown
    assert "jobs done\n" not in shown
