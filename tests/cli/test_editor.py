"""A text in somebody's editor."""

import sys
from pathlib import Path

import pytest

from rqueue.cli.editor import edited, is_there
from rqueue.errors import ConfigError


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Make a program the editor; it may use `file`."""

    def become(program):
        script = tmp_path / "the editor.py"
        script.write_text(f"import sys\nfrom pathlib import Path\nfile = Path(sys.argv[1])\n{program}\n")
        monkeypatch.setenv("EDITOR", f"{sys.executable} '{script}'")
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    return become


def test_what_was_written(editor, tmp_path):
    editor("assert file.suffix == '.json'; file.write_text(file.read_text() + 'ü', encoding='utf-8')")
    assert edited("a", ".json") == "aü"
    assert list(tmp_path.glob("rqueue-*")) == []


def test_visual_goes_first(editor, monkeypatch):
    editor("raise SystemExit(1)")
    monkeypatch.setenv("VISUAL", "true")
    assert edited("a", ".txt") == "a"


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "file.write_bytes(b'\\xff')", "file.unlink()"])
def test_what_cannot_be_used(editor, program, tmp_path):
    editor(program)
    with pytest.raises(ConfigError, match="the editor"):
        edited("a", ".json")
    assert list(tmp_path.glob("rqueue-*")) == []


def test_an_editor_that_is_not_there(monkeypatch):
    monkeypatch.setenv("VISUAL", str(Path("no") / "such" / "program"))
    with pytest.raises(ConfigError, match="cannot be used"):
        edited("a", ".json")


def test_nobody_sits_at_a_pipe():
    assert not is_there()
