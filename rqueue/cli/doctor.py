"""``rqueue doctor``: what is wrong with Redis, the queues and the workers, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from rqueue.cli import options
from rqueue.cli.lookup import find_client
from rqueue.cli.output import run, show_json, show_table
from rqueue.client.checkup.finding import Finding, Level, worst

Fix = Annotated[bool, typer.Option("--fix", envvar="RQUEUE_FIX", help="Do what is safe, and say what was done.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", envvar="RQUEUE_VERBOSE", help="Show what was found to be fine as well.")
]

_CODES = {Level.OK: 0, Level.NOTE: 0, Level.WARNING: 1, Level.PROBLEM: 2}
_COLUMNS = ("level", "check", "where", "what", "what to do")


def doctor(
    fix: Fix = False,
    verbose: Verbose = False,
    app: options.App = None,
    url: options.Url = None,
    namespace: options.Namespace = None,
    json: options.Json = False,
) -> None:
    """Look for what is wrong with Redis, the queues and the workers, and say what to do about it.

    It reads in pages and samples, also beside a working fleet. Where something seems wrong it looks again after 5 s,
    and after a fix once more.
    """
    client = find_client(app, url, namespace)
    findings = run(client, lambda: client.doctor(fix=fix))
    level = worst(findings)
    if json:
        show_json({"worst": level.name.lower(), "findings": [finding.document() for finding in findings]})
    else:
        shown = [finding for finding in findings if verbose or finding.level > Level.OK]
        if shown:
            show_table(f"checkup of {client.endpoint.shown}", _COLUMNS, map(_row, shown))
        typer.echo(_summary(findings))
    raise typer.Exit(_CODES[level])


def _row(finding: Finding) -> tuple[str, ...]:
    advice = f"fixed: {finding.fixed}" if finding.fixed else finding.advice
    return finding.level.name.lower(), finding.check, finding.where, finding.text, advice


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.level for finding in findings if not finding.fixed)
    words = [f"{counts[level]} {level.name.lower()}(s)" for level in sorted(Level, reverse=True) if level]
    fixed = sum(bool(finding.fixed) for finding in findings)
    return ", ".join([*words, *([f"{fixed} fixed"] if fixed else [])])
