"""The outbox: nothing lost to killed processes, full or read-only disks, damaged files; caps by priority."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_agent.outbox import MARKS_KEPT, Kind, Message, Outbox, OutboxConfig, OutboxLock, message
from pdmu.errors import UserError
from tests.edge_agent.conftest import REPO


def a_message(n: int, kind: Kind = "detection", topic: str = "", size: int = 0, age_s: float = 0) -> Message:
    return Message(kind, topic or f"pdmu/n/s/{kind}", f'{{"n":{n},"fill":"{"x" * size}"}}', time.time() - age_s)


def test_rows_stay_until_acknowledged_and_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "state" / "outbox.sqlite"
    outbox = Outbox(path)
    outbox.put([a_message(1), a_message(2), a_message(3)])
    first, second, _ = outbox.waiting(10)
    assert outbox.waiting(10, [first.id]) == outbox.waiting(10)[1:]
    outbox.acknowledge([second.id])
    outbox.close()
    again = Outbox(path)
    assert [m.payload for m in again.waiting(10)] == [a_message(1).payload, a_message(3).payload]
    assert again.next_seq("seq/mic0") == 1


def test_counters_survive_restarts_with_the_messages_they_number(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    assert [outbox.next_seq("seq/a"), outbox.next_seq("seq/a"), outbox.next_seq("seq/b")] == [1, 2, 1]
    outbox.put([a_message(1)])
    outbox.close()
    assert Outbox(tmp_path / "o.sqlite").next_seq("seq/a") == 3


def test_latest_state_and_health_replace_older_ones(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    outbox.put([a_message(1, "state"), a_message(2, "health"), a_message(3, "detection")])
    outbox.put([a_message(4, "state"), a_message(5, "health"), a_message(6, "state", "pdmu/n/other/state")])
    assert [m.payload[5] for m in outbox.waiting(10)] == ["3", "4", "5", "6"]


def test_caps_drop_the_oldest_of_the_lowest_priority_and_count(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", OutboxConfig(max_bytes=10_000))
    outbox.put([a_message(0, "rejected", size=2000), *(a_message(i, size=2000) for i in range(1, 5))])
    assert [m.payload[5] for m in outbox.waiting(10)] == ["1", "2", "3", "4"]
    outbox.put([a_message(5, size=2000)])
    assert [m.payload[5] for m in outbox.waiting(10)] == ["2", "3", "4", "5"]
    assert outbox.counts()["dropped"] == 2


def test_a_clock_that_is_set_does_not_age_what_was_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale_s, now_s = time.time() - 90 * 86400, time.time  # a board that was switched off for three months and has no battery clock
    outbox = Outbox(tmp_path / "o.sqlite")
    outbox.put([Message("detection", "t", '"earlier run"', now_s() - 29 * 86400)])
    outbox.close()
    monkeypatch.setattr(time, "time", lambda: stale_s)
    outbox = Outbox(tmp_path / "o.sqlite")
    outbox.put([message("detection", "t", {"n": 1})])
    monkeypatch.undo()
    outbox.put([message("detection", "t", {"n": 2})])
    waiting = outbox.waiting(10)
    assert [m.payload for m in waiting] == ['"earlier run"', '{"n":1}', '{"n":2}']
    assert waiting[1].created_s > now_s() - 60
    assert outbox.counts()["dropped"] == 0
    outbox.close()


def test_age_cap(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite", OutboxConfig(max_age_s=100))
    outbox.put([a_message(1, age_s=101), a_message(2, age_s=50)])
    assert [m.payload[5] for m in outbox.waiting(10)] == ["2"]
    assert outbox.counts()["dropped"] == 1


WRITER = """
import sys
from pathlib import Path
from edge_agent.outbox import Message, Outbox
outbox = Outbox(Path(sys.argv[1]))
for i in range(100000):
    outbox.put([Message("detection", "t", str(i), 1e12)])
    print(i, flush=True)
"""


def test_what_was_stored_survives_kill_9(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "o.sqlite")], stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout is not None
    last = -1
    while last < 40:
        last = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    last = max([last, *(int(line) for line in child.stdout.read().split())])
    child.wait()
    kept = [int(m.payload) for m in Outbox(tmp_path / "o.sqlite").waiting(100000)]
    assert kept[: last + 1] == list(range(last + 1))
    assert len(kept) <= last + 2  # one may have been stored and not yet reported


def test_damaged_file_is_set_aside_and_a_new_one_used(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    path.write_bytes(b"this is no database" * 100)
    outbox = Outbox(path)
    outbox.put([a_message(1)])
    assert outbox.trouble is None
    assert outbox.set_aside is not None
    assert outbox.set_aside.read_bytes().startswith(b"this is no database")
    outbox.close()
    assert len(Outbox(path).waiting(5)) == 1


def test_file_damaged_inside_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    outbox = Outbox(path)
    outbox.put(a_message(i, size=500) for i in range(50))
    outbox.close()
    raw = bytearray(path.read_bytes())
    raw[4096 : 5 * 4096] = os.urandom(4 * 4096)
    path.write_bytes(raw)
    again = Outbox(path)
    again.put([a_message(99)])
    assert again.set_aside is not None
    assert again.trouble is None


def test_messages_wait_in_memory_while_the_disk_is_full(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs: a full disk is not tested")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted here: a full disk is not tested")
    try:
        outbox = Outbox(disk / "o.sqlite")
        outbox.put([a_message(0)])
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as f:
            try:
                while f.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        outbox.put(a_message(i, size=3000) for i in range(1, 20))
        assert outbox.trouble is not None
        assert "full" in outbox.trouble
        waiting = outbox.waiting(100)
        assert len(waiting) == 20  # deliverable all the same
        outbox.acknowledge([waiting[0].id, waiting[1].id])
        assert len(outbox.waiting(100)) == 18
        filler.unlink()
        outbox.put([a_message(20)])
        assert outbox.trouble is None
        assert outbox.counts() == outbox.counts() | {"messages": 19, "unsaved": 0}
        outbox.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


FULL = """
import resource, signal, sys
from pathlib import Path
from edge_agent.outbox import Message, Outbox
outbox = Outbox(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
outbox.put([Message("detection", "t", "x" * 3000, 1e12) for _ in range(100)])
assert outbox.trouble and len(outbox.waiting(1000)) == 100, outbox.trouble
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
outbox.put([])
assert outbox.trouble is None and outbox.counts()["unsaved"] == 0, outbox.trouble
outbox.close()
"""


def test_writes_that_fail_part_way_lose_nothing(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "o.sqlite")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Outbox(tmp_path / "o.sqlite").waiting(1000)) == 100


def test_read_only_place_is_reported_and_messages_still_deliverable() -> None:
    outbox = Outbox(Path("/proc/pdmu/outbox.sqlite"))
    outbox.put([a_message(1)])
    assert outbox.trouble is not None
    assert "/proc/pdmu/outbox.sqlite" in outbox.trouble
    (m,) = outbox.waiting(5)
    outbox.acknowledge([m.id])
    assert outbox.waiting(5) == []


def test_one_process_at_a_time_and_purge(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    lock = OutboxLock(path)
    with pytest.raises(UserError, match="another pdmu-agent uses this outbox"):
        OutboxLock(path)
    lock.release()
    OutboxLock(path).release()
    outbox = Outbox(path)
    outbox.put([a_message(1), a_message(2)])
    assert outbox.purge() == 2
    assert outbox.waiting(5) == []


def test_database_is_in_wal_mode(tmp_path: Path) -> None:
    Outbox(tmp_path / "o.sqlite").close()
    assert sqlite3.connect(tmp_path / "o.sqlite").execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_marks_of_the_last_runs_of_each_origin_are_kept(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    outbox.put([], {"board/b_0/first": 1, "board/bx0/only": 7})
    for run in range(MARKS_KEPT - 1):
        outbox.put([], {f"board/b_0/{run}": run + 1})
        outbox.put([], {"board/b_0/first": run + 2})
    assert outbox.mark("board/b_0/first") == MARKS_KEPT
    outbox.put([], {"board/b_0/new": 1})
    assert outbox.mark("board/b_0/0") == 0  # longest not heard of
    assert [outbox.mark(f"board/{name}") for name in ("b_0/first", "b_0/1", "b_0/new", "bx0/only")] == [MARKS_KEPT, 2, 1, 7]
    assert sqlite3.connect(outbox.path).execute("SELECT COUNT(*) FROM mark").fetchone() == (MARKS_KEPT + 1,)
