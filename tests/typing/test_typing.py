"""The public face is typed by each task's own signature: what is right passes mypy --strict, what is wrong does not."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
IGNORE = re.compile(r"  # type: ignore\[([\w, -]+)\]$", re.MULTILINE)


def errors_of(file: Path) -> set[tuple[int, str]]:
    """Every error that mypy --strict finds in the file, as (line, code)."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    shown = ["--no-pretty", "--no-error-summary", "--hide-error-context", "--show-error-codes"]
    done = subprocess.run([*command, *shown, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if file.name in line and ": error: " in line]
    found = [re.search(r":(\d+): error: .*\[([\w-]+)\]$", line) for line in lines]
    assert None not in found, lines
    return {(int(match[1]), match[2]) for match in found if match}


def test_what_is_right_passes() -> None:
    assert errors_of(HERE / "public_surface.py") == set()


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    text = (HERE / "refused_calls.py").read_text()
    expected = {
        (number, code)
        for number, line in enumerate(text.splitlines(), 1)
        if (found := IGNORE.search(line))
        for code in found[1].split(", ")
    }
    bare = tmp_path / "refused_calls.py"
    bare.write_text(IGNORE.sub("", text))
    assert len(expected) > 25
    assert errors_of(bare) == expected
