from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from llmgate.telemetry.line_writer import LineWriter


def test_lines_arrive_in_order_after_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    file.write_bytes(b"before\n")
    writer = LineWriter(str(file))
    for number in range(100):
        writer.put(b"%d\n" % number, 1)
    writer.close(5)
    assert file.read_bytes() == b"before\n" + b"".join(b"%d\n" % number for number in range(100))
    assert (writer.overflowed, writer.failed) == (0, 0)


def test_a_new_file_is_for_its_owner_and_group_only(tmp_path: Path) -> None:
    LineWriter(str(tmp_path / "log")).close(5)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) & 0o137 == 0


def test_after_reopening_lines_go_into_a_new_file(tmp_path: Path) -> None:
    file, moved = tmp_path / "log", tmp_path / "log.1"
    writer = LineWriter(str(file))
    writer.put(b"old\n", 1)
    file.rename(moved)
    writer.put(b"old too\n", 1)
    writer.reopen()
    writer.put(b"new\n", 1)
    writer.close(5)
    assert (moved.read_bytes(), file.read_bytes()) == (b"old\nold too\n", b"new\n")


def test_a_file_that_cannot_be_opened_anew_leaves_the_old_one_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, moved = tmp_path / "log", tmp_path / "log.1"
    writer = LineWriter(str(file))
    file.rename(moved)
    file.mkdir()
    writer.reopen()
    writer.put(b"line\n", 1)
    writer.close(5)
    assert moved.read_bytes() == b"line\n"
    assert "cannot be opened: Is a directory; the old file stays in use" in caplog.text


@pytest.mark.parametrize(("name", "why"), [("no/such/log", "No such file"), (".", "Is a directory")])
def test_a_path_that_cannot_be_used_is_one_sentence(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(OSError, match=f"^the access log .* cannot be opened: {why}"):
        LineWriter(str(tmp_path / name))


def test_a_named_pipe_that_nobody_reads_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="cannot be opened"):
        LineWriter(str(tmp_path / "pipe"))


def test_a_reader_that_takes_nothing_costs_lines_and_not_time(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    writer = LineWriter(f"/dev/fd/{writing}", queued_bytes=200_000)
    for _ in range(50):
        writer.put(b"x" * 9_999 + b"\n", 1)  # a pipe takes 64 KiB, the queue 200,000 bytes: the thread waits
    assert 0 < writer.overflowed < 50
    os.close(writing)
    received = threading.Thread(target=writer.close, args=(5,))
    received.start()
    data = b""
    while piece := os.read(reading, 65_536):
        data += piece
    received.join()
    os.close(reading)
    assert len(data) == (50 - writer.overflowed) * 10_000


def test_lines_that_cannot_be_written_are_counted_told_once_and_leave_the_next_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.write
    full = iter([None, "half", "full", "full", None])

    def scripted(file: int, data: bytes) -> int:
        match next(full):
            case "half":
                return write(file, data[:3])
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(os, "write", scripted)
    writer = LineWriter(str(tmp_path / "log"))
    for line in (b"first\n", b"second\n", b"third\nfourth\n", b"fifth\n"):
        writer.put(line, line.count(b"\n"))
    writer.close(5)
    assert (tmp_path / "log").read_bytes() == b"first\nsec\nfifth\n"
    assert writer.failed == 3
    assert caplog.text.count("cannot be written: No space left on device") == 1
