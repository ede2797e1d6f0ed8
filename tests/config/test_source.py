from __future__ import annotations

import os
from pathlib import Path

from llmgate.config import FileWatch


def write(path: Path, text: str, at: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(at, at))  # two writes within a tick of the file system's clock would look the same


def test_a_change_is_told_once_and_only_after_the_file_has_come_to_rest(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write(path, "one", 1)
    watch = FileWatch(path)
    assert [watch.changed(), watch.changed()] == [False, False]
    write(path, "tw", 2)
    assert not watch.changed()  # may still be being written
    write(path, "two", 3)
    assert not watch.changed()
    assert [watch.changed(), watch.changed()] == [True, False]


def test_a_file_that_was_read_meanwhile_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write(path, "one", 1)
    watch = FileWatch(path)
    write(path, "two", 2)
    watch.mark()
    assert [watch.changed(), watch.changed()] == [False, False]


def test_an_editors_rename_and_a_moved_link_are_changes(tmp_path: Path) -> None:
    path, link = tmp_path / "config.yaml", tmp_path / "link"
    write(path, "one", 1)
    link.symlink_to(path)
    watches = [FileWatch(path), FileWatch(link)]
    write(tmp_path / "new", "one", 1)  # as long and as old: another file all the same
    (tmp_path / "new").rename(path)
    assert [watch.changed() for watch in watches] == [False, False]
    assert [watch.changed() for watch in watches] == [True, True]
    write(tmp_path / "other", "one", 1)
    link.unlink()
    link.symlink_to(tmp_path / "other")
    assert [watches[1].changed(), watches[1].changed()] == [False, True]


def test_a_file_that_is_gone_for_a_moment_or_for_good_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write(path, "one", 1)
    watch = FileWatch(path)
    path.unlink()
    assert [watch.changed(), watch.changed(), watch.changed()] == [False] * 3
    write(path, "two", 2)
    assert [watch.changed(), watch.changed()] == [False, True]
