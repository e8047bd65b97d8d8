"""reload: which Python file has changed."""

import os

import pytest

from rqueue.supervisor.reload import Sources


@pytest.fixture
def tree(tmp_path):
    """A project with files that count, and files that do not."""
    for name in ("app.py", "shop/mail.py", "shop/deep/er/x.py", "notes.txt"):
        write(tmp_path / name)
    for skipped in (".venv", "venv", ".git", "__pycache__", "node_modules", "lib/site-packages"):
        write(tmp_path / skipped / "library.py")
    return tmp_path


def write(path, text="x = 1\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def touch(path, seconds=10):
    """Another time of change, as an editor leaves it that writes within one tick of the file system's clock."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def test_nothing_has_changed(tree):
    sources = Sources(tree)
    assert sources.changed() is None
    assert sources.changed() is None


@pytest.mark.parametrize("name", ["app.py", "shop/mail.py", "shop/deep/er/x.py"])
def test_a_file_that_was_written_is_told_of_once(tree, name):
    sources = Sources(tree)
    touch(tree / name)
    assert sources.changed() == str(tree / name)
    assert sources.changed() is None


def test_another_size_is_a_change_whatever_the_time_says(tree):
    sources = Sources(tree)
    before = (tree / "app.py").stat()
    write(tree / "app.py", "x = 22\n")
    os.utime(tree / "app.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sources.changed() == str(tree / "app.py")


def test_a_file_that_is_older_than_before_has_changed(tree):
    """As after a checkout, or a restored backup."""
    sources = Sources(tree)
    touch(tree / "app.py", -10)
    assert sources.changed() == str(tree / "app.py")


def test_new_and_removed_files_and_folders_are_changes(tree):
    sources = Sources(tree)
    write(tree / "shop/new.py")
    assert sources.changed() == str(tree / "shop/new.py")
    (tree / "shop/new.py").unlink()
    assert sources.changed() == str(tree / "shop/new.py")
    write(tree / "another/folder/y.py")
    assert sources.changed() == str(tree / "another/folder/y.py")
    (tree / "shop").rename(tree / "store")
    assert sources.changed() is not None
    assert sources.changed() is None


def test_of_several_one_is_named(tree):
    sources = Sources(tree)
    touch(tree / "shop/mail.py")
    touch(tree / "app.py")
    assert sources.changed() == str(tree / "app.py")
    assert sources.changed() is None


def test_other_files_installed_packages_and_hidden_folders_do_not_count(tree):
    sources = Sources(tree)
    write(tree / "notes.txt", "longer than before")
    for library in tree.rglob("library.py"):
        write(library, "y = 333\n")
    write(tree / ".hidden/z.py")
    assert sources.changed() is None


def test_a_link_that_leads_nowhere_is_no_file(tree):
    (tree / "broken.py").symlink_to(tree / "absent")
    assert Sources(tree).changed() is None


def test_a_directory_that_is_not_there_has_no_files(tmp_path):
    assert Sources(tmp_path / "absent").changed() is None
