"""Messages kept on disk from before they are published until the broker has acknowledged them.

SQLite in WAL mode; nothing but an acknowledgement (or the caps) deletes a row. A disk that is full or read-only does not stop the
agent: messages wait in memory meanwhile, are delivered from there if the broker can be reached, and `trouble` says what is wrong.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from pdmu.errors import UserError

Kind = Literal["detection", "state", "rejected", "health"]
PRIORITY: dict[Kind, int] = {"detection": 2, "state": 1, "rejected": 0, "health": 0}
LATEST_ONLY = ("state", "health")  # a newer message of the topic replaces the waiting one
MEMORY_ROWS = 10_000  # kept while the disk refuses
MARKS_KEPT = 8  # of one origin, the last that were set
CLOCK_SET_S = 5.0  # a wall clock that moves further against the boot clock was set
SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT, priority INTEGER NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL,
    payload TEXT NOT NULL, retain INTEGER NOT NULL, created_s REAL NOT NULL, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS drop_order ON message (priority, id);
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class OutboxConfig:
    """Where messages wait, and how many."""

    path: str = ""  # default: outbox.sqlite in the agent's state folder
    max_bytes: int = 50_000_000  # of payloads; beyond it the oldest of the lowest priority are dropped and counted
    max_age_s: float = 30 * 86400.0
    sync: Literal["full", "normal"] = "full"  # "full" survives a power cut; "normal" spares the SD card and survives a killed process

    def __post_init__(self) -> None:
        if self.max_bytes < 10_000 or self.max_age_s <= 0:
            raise ValueError("max_bytes must be at least 10000 and max_age_s positive")


class Message(NamedTuple):
    """A message waiting for its acknowledgement."""

    kind: Kind
    topic: str
    payload: str  # JSON
    created_s: float
    retain: bool = False
    id: int = 0  # given by the outbox; negative while it could not be stored


def clock_offset_s() -> float:
    """Wall time less the time since boot, suspension included: it changes only when the wall clock is set."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def message(kind: Kind, topic: str, payload: dict[str, Any], retain: bool = False, age_s: float = 0.0) -> Message:
    """Make a message of now, or of something that was known `age_s` ago."""
    return Message(kind, topic, json.dumps(payload, separators=(",", ":"), allow_nan=False), time.time() - age_s, retain)


class Outbox:
    """The store. Safe to use from several threads; one process at a time (see `OutboxLock`).

    Parameters
    ----------
    path : Path
        Made with its folder if absent. A damaged file is set aside as ``<name>.damaged-<time>`` and a new one begun.
    config : OutboxConfig

    Attributes
    ----------
    trouble : str or None
        What the disk refuses at present.
    set_aside : Path or None
        The damaged file, if there was one.
    """

    def __init__(self, path: Path, config: OutboxConfig | None = None) -> None:
        self.path, self.config = path, config or OutboxConfig()
        self.trouble: str | None = None
        self.set_aside: Path | None = None
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._unsaved: list[Message] = []
        self._acknowledged: set[int] = set()  # rows the disk has not let us delete yet
        self._counters: dict[str, int] = {}
        self._unsaved_marks: dict[str, int] = {}
        self._memory_id = 0
        self._clock_offset_s = clock_offset_s()
        self._last_before = 0  # the last message from before this process
        with self._lock:
            self._sync()

    def next_seq(self, name: str) -> int:
        """Return the next number of a counter that survives restarts; it is stored with the next `put`."""
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + 1
            return self._counters[name]

    def mark(self, name: str) -> int:
        """Return how far a numbered run of messages has been stored, 0 where nothing of it has.

        The name is ``<origin>/<run>``; of an origin's runs the last `MARKS_KEPT` are known.
        """
        with self._lock:
            if name in self._unsaved_marks:
                return self._unsaved_marks[name]
            try:
                row = self._open().execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
            except (sqlite3.Error, OSError) as error:
                self._report(error)
                return 0
            return row[0] if row else 0

    def put(self, messages: Iterable[Message], marks: Mapping[str, int] | None = None) -> bool:
        """Store messages, and what `mark` shall return from now on, in one transaction.

        Returns
        -------
        bool
            They are on disk; otherwise `trouble` is set and they are in memory.
        """
        with self._lock:
            self._unsaved_marks.update(marks or {})
            for m in messages:
                self._memory_id -= 1
                self._unsaved.append(m._replace(id=self._memory_id))
            while len(self._unsaved) > MEMORY_ROWS:
                lowest = min(self._unsaved, key=lambda m: (PRIORITY[m.kind], -m.id))
                self._unsaved.remove(lowest)
                self._counters["dropped"] = self._counters.get("dropped", 0) + 1
            return self._sync()

    def waiting(self, limit: int, exclude: Sequence[int] = ()) -> list[Message]:
        """Return the next messages to send, oldest first."""
        with self._lock:
            if self._unsaved or self._acknowledged:
                self._sync()
            skip = set(exclude) | self._acknowledged
            rows: list[Message] = []
            try:
                if self._db is not None:
                    query = "SELECT kind, topic, payload, created_s, retain, id FROM message ORDER BY id LIMIT ?"
                    rows = [Message(r[0], r[1], r[2], r[3], bool(r[4]), r[5]) for r in self._db.execute(query, (limit + len(skip),))]
            except sqlite3.Error as error:
                self._report(error)
            return [m for m in rows + self._unsaved if m.id not in skip][:limit]

    def acknowledge(self, ids: Iterable[int]) -> None:
        """Delete what the broker has acknowledged."""
        with self._lock:
            for i in ids:
                if i < 0:
                    self._unsaved = [m for m in self._unsaved if m.id != i]
                else:
                    self._acknowledged.add(i)
            self._sync()

    def counts(self) -> dict[str, int]:
        """Return ``messages``, ``detections``, ``bytes`` waiting, ``unsaved`` in memory, and ``dropped`` so far."""
        with self._lock:
            row = (0, 0, 0)
            try:
                if self._db is not None:
                    query = "SELECT COUNT(*), COALESCE(SUM(kind = 'detection'), 0), COALESCE(SUM(bytes), 0) FROM message"
                    row = self._db.execute(query).fetchone()
            except sqlite3.Error as error:
                self._report(error)
            n, detections, size = row
            detections += sum(m.kind == "detection" for m in self._unsaved)
            size += sum(len(m.payload) for m in self._unsaved)
            return {"messages": n + len(self._unsaved), "detections": detections, "bytes": size,
                    "unsaved": len(self._unsaved), "dropped": self._counters.get("dropped", 0)}  # fmt: skip

    def oldest_s(self) -> float | None:
        """Return the POSIX time of the oldest waiting message."""
        first = self.waiting(1)
        return first[0].created_s if first else None

    def purge(self) -> int:
        """Delete everything that waits; return how many messages that were."""
        with self._lock:
            n = self.counts()["messages"]
            self._unsaved.clear()
            try:
                db = self._open()
                with db:
                    db.execute("DELETE FROM message")
            except (sqlite3.Error, OSError) as error:
                raise UserError(f"{self.path}: cannot be emptied: {error}") from None
            return n

    def close(self) -> None:
        """Store what can be stored and close the file."""
        with self._lock:
            self._sync()
            if self._db is not None:
                self._db.close()
                self._db = None

    # What follows runs under the lock.

    def _sync(self) -> bool:
        """Bring the file up to what memory knows, in one transaction; on failure memory keeps it and the next call tries again."""
        try:
            db = self._open()
            if not (self._unsaved or self._acknowledged or self._unsaved_marks):
                return True
            offset_s = clock_offset_s()
            with db:
                if abs(offset_s - self._clock_offset_s) > CLOCK_SET_S:
                    # A board without a battery clock learns the time when the network comes: its messages are no older for that.
                    shift_s = offset_s - self._clock_offset_s
                    db.execute("UPDATE message SET created_s = created_s + ? WHERE id > ?", (shift_s, self._last_before))
                for m in self._unsaved:
                    if m.kind in LATEST_ONLY:
                        db.execute("DELETE FROM message WHERE topic = ? AND kind = ?", (m.topic, m.kind))
                    row = (PRIORITY[m.kind], m.kind, m.topic, m.payload, m.retain, m.created_s, len(m.payload))
                    db.execute("INSERT INTO message (priority, kind, topic, payload, retain, created_s, bytes) VALUES (?,?,?,?,?,?,?)", row)
                db.executemany("DELETE FROM message WHERE id = ?", [(i,) for i in self._acknowledged])
                dropped = self._trim(db) if self._unsaved else 0
                counters = self._counters | {"dropped": self._counters.get("dropped", 0) + dropped}
                db.executemany("INSERT INTO counter VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", counters.items())
                for name, value in self._unsaved_marks.items():
                    _set_mark(db, name, value)
        except (sqlite3.Error, OSError) as error:
            self._report(error)
            return False
        self._unsaved.clear()
        self._unsaved_marks.clear()
        self._acknowledged.clear()
        self._counters, self._clock_offset_s = counters, offset_s
        self.trouble = None
        return True

    def _trim(self, db: sqlite3.Connection) -> int:
        """Apply the caps; return how many messages fell to them."""
        n = db.execute("DELETE FROM message WHERE created_s < ?", (time.time() - self.config.max_age_s,)).rowcount
        excess = db.execute("SELECT COALESCE(SUM(bytes), 0) FROM message").fetchone()[0] - self.config.max_bytes
        while excess > 0:
            row_id, size = db.execute("SELECT id, bytes FROM message ORDER BY priority, id LIMIT 1").fetchone()
            db.execute("DELETE FROM message WHERE id = ?", (row_id,))
            excess, n = excess - size, n + 1
        return n

    def _report(self, error: Exception) -> None:
        self.trouble = (
            f"{self.path}: the outbox cannot be written ({error}); messages wait in memory until it can: free the disk or its permissions"
        )
        if self._db is not None and isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self._db.close()  # damaged while in use: the next call sets it aside
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            db = self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # "file is not a database", "malformed"
            self.set_aside = _set_aside(self.path)
            db = self._connect()
        stored = dict(db.execute("SELECT name, value FROM counter"))
        self._last_before = next(db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'message'"), (0,))[0]
        self._counters = {name: max(stored.get(name, 0), self._counters.get(name, 0)) for name in stored | self._counters}
        self._db = db
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=5, check_same_thread=False)
        try:
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("malformed")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self.config.sync.upper()}")
            db.executescript(SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db


def _set_mark(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute("INSERT OR REPLACE INTO mark VALUES (?,?)", (name, value))  # as the newest row, whether it was there or not
    origin = name.rpartition("/")[0] + "/"
    of_origin = "SELECT rowid FROM mark WHERE substr(name, 1, ?) = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?"
    db.execute(f"DELETE FROM mark WHERE rowid IN ({of_origin})", (len(origin), origin, MARKS_KEPT))


def _set_aside(path: Path) -> Path:
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    os.replace(path, kept)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)  # they belong to the damaged file and would damage the new one
    return kept


class OutboxLock:
    """Holds an outbox for one process; the kernel lets go of it when the process dies, however it dies.

    Raises
    ------
    UserError
        Another process holds it.
    """

    def __init__(self, path: Path) -> None:
        name = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] | None = name.open("a")
        except OSError:
            self._file = None  # a read-only disk: nobody else can use the outbox either
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(f"{path}: another pdmu-agent uses this outbox; stop it first, or give this one its own state folder") from None

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
