"""The process that a query of unknown origin runs in: a script for `execution.py` alone.

It reads one JSON object from standard input and answers with one JSON line for each query, so that whoever waits knows
how far it came when it had to be killed. Only the standard library is imported here.
"""

import json
import math
import resource
import sqlite3
import sys
import time
from typing import Any

MOST_BYTES = 64 << 20
"""Of a result, and so of what is sent back."""
MEMORY_BYTES = 1 << 30
SQLITE_LIMITS = (
    (sqlite3.SQLITE_LIMIT_LENGTH, 16 << 20),  # of a value and of a row: zeroblob(1e9) is refused before it is made
    (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1 << 20),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
)
STEPS = 1000
"""Instructions of SQLite's machine between two looks at the clock."""
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
LEAVING = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}
FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}


def only_reading(action: int, _: str | None, name: str | None, *__: str | None) -> int:
    """Permits what a SELECT needs and nothing else."""
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if name in FORBIDDEN_FUNCTIONS else sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if action in READING else sqlite3.SQLITE_DENY


def only_here(action: int, *_: str | None) -> int:
    """Permits everything that stays in this database; settings are skipped, as a dump holds some that do not matter."""
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_IGNORE
    return sqlite3.SQLITE_DENY if action in LEAVING else sqlite3.SQLITE_OK


def opened(request: dict[str, Any]) -> sqlite3.Connection:
    """The database of a request: a file that is only read, or a new one in memory that the script has filled."""
    if request["file"]:
        connection = sqlite3.connect(f"{request['file']}?mode=ro&immutable=1", uri=True, isolation_level=None)
    else:
        connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = lambda text: text.decode(errors="replace")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("SELECT count(*) FROM sqlite_master")  # the file is read no earlier than here
    if request["script"]:
        until(connection, request["seconds"])
        connection.set_authorizer(only_here)
        connection.executescript(request["script"])
    for limit, value in SQLITE_LIMITS:
        connection.setlimit(limit, value)
    return connection


def until(connection: sqlite3.Connection, seconds: float) -> None:
    """Interrupts what runs on the connection when the time is over; ends the process where that does not help."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    allowed = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (allowed if most == resource.RLIM_INFINITY else min(allowed, most), most))


def size(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 8


def selected(connection: sqlite3.Connection, query: str, most: int) -> dict[str, Any]:
    """The rows of a SELECT, or why there are none."""
    rows: list[list[Any]] = []
    room = MOST_BYTES
    cursor = connection.execute(query)
    if cursor.description is None:
        return {"error": "not a SELECT"}
    for row in cursor:
        room -= sum(map(size, row))
        if len(rows) == most or room < 0:
            return {"error": f"more than {most} rows" if room >= 0 else f"more than {MOST_BYTES} bytes"}
        rows.append([{"hex": value.hex()} if isinstance(value, bytes) else value for value in row])
    return {"rows": rows}


def compiled(connection: sqlite3.Connection, query: str) -> dict[str, Any]:
    """Whether SQLite can compile a statement, which is not run."""
    explain = "" if query.lstrip()[:7].upper() == "EXPLAIN" else "EXPLAIN "
    cursor = connection.execute(explain + query)
    return {"error": "no statement"} if cursor.description is None else {"rows": []}


def answered(connection: sqlite3.Connection, query: str, request: dict[str, Any]) -> dict[str, Any]:
    until(connection, request["seconds"])
    connection.set_authorizer(only_here if request["compile"] else only_reading)
    try:
        return compiled(connection, query) if request["compile"] else selected(connection, query, request["rows"])
    except MemoryError:
        return {"error": "out of memory"}
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        return {"error": "time is over" if str(error) == "interrupted" else str(error)}


def main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    for limit, value in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        *([(resource.RLIMIT_AS, MEMORY_BYTES)] if sys.platform == "linux" else []),  # others refuse to limit it
    ):
        resource.setrlimit(limit, (value, value))
    try:
        connection = opened(request)
    except (sqlite3.Error, ValueError, MemoryError) as error:
        print(json.dumps({"broken": str(error) or "out of memory"}), flush=True)
        return
    for query in request["queries"]:
        print(json.dumps(answered(connection, query, request)), flush=True)


if __name__ == "__main__":
    main()
