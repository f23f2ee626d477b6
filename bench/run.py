"""``make bench``: this node and locker beside bare rivals, in one run, written to ``bench/results.json``.

Client and servers share the machine. Each server has one process; the runs are interleaved and the median counts. The node checks
a ticket's signature, scope and consent and writes its log rows durably; the rivals check and write nothing.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy
from rich.console import Console
from rich.table import Table

from bench import rivals
from bench.federation import Federation, federation
from bench.load import Load, Measured, run
from bench.postgresql import running_postgresql

RESULTS = Path(__file__).parent / "results.json"
SMALL, LARGE = 20_000, 50_000_000

AIMS = [
    ("small document, SQLite", "node sqlite small", "flask small", "requests", 1.0),
    ("small document, PostgreSQL", "node postgresql small", "flask small", "requests", 0.8),
    ("large document, SQLite", "node sqlite large", "nginx large", "bytes", 0.5),
    ("large document, PostgreSQL", "node postgresql large", "nginx large", "bytes", 0.5),
    ("resolve, SQLite", "locker resolve", "flask look-up", "requests", 0.8),
]


def main() -> int:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="federated-locker-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        started = stack.enter_context(federation(folder, stack.enter_context(running_postgresql()), SMALL, LARGE))
        loads = [*node_loads(started), *stack.enter_context(rival_loads(folder, started))]
        memory = memory_during_large_reads(started, loads, folder)
        measured = interleaved(loads, options.rounds, options.seconds, folder)
        result = {
            **circumstances(started),
            "rounds": options.rounds,
            "seconds": options.seconds,
            **summary(measured),
            "memory": memory,
        }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    return 0


def node_loads(started: Federation) -> Iterator[Load]:
    """Return the loads on nodes and locker; tickets are those that the locker gave."""
    for database, node in started.nodes.items():
        for size, connections in (("small", 16), ("large", 2)):
            url, ticket = node.pulls[size]
            yield Load(
                f"node {database} {size}", url, (("Authorization", f"Bearer {ticket}"),), connections=connections
            )
    yield Load(
        "locker resolve",
        started.resolve_url,
        (("Authorization", f"Bearer {started.requester_token}"),),
        started.resolve_body,
    )


@contextmanager
def rival_loads(folder: Path, started: Federation) -> Iterator[list[Load]]:
    """Start the rivals on the same bytes."""
    database = folder / "rival.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE place (name TEXT PRIMARY KEY, value TEXT)")
        connection.executemany(
            "INSERT INTO place VALUES (?, ?)", [(f"key-{number}", "x" * 100) for number in range(1000)]
        )
    with ExitStack() as stack:
        send_file = stack.enter_context(
            rivals.flask(folder, "send_file_app", rivals.FLASK_SEND_FILE.format(folder=str(started.papers)))
        )
        look_up = stack.enter_context(
            rivals.flask(folder, "look_up_app", rivals.FLASK_LOOK_UP.format(url=f"sqlite:///{database}"))
        )
        static = stack.enter_context(rivals.nginx(folder, started.papers))
        yield [
            Load("flask small", f"{send_file}/small.pdf"),
            Load("flask large", f"{send_file}/large.pdf", connections=2),
            Load("nginx small", f"{static}/small.pdf"),
            Load("nginx large", f"{static}/large.pdf", connections=2),
            Load("flask look-up", f"{look_up}/resolve", body="{}"),
        ]


def interleaved(loads: list[Load], rounds: int, seconds: int, folder: Path) -> dict[str, list[Measured]]:
    """Run every load once a round, after one short run that is thrown away."""
    measured: dict[str, list[Measured]] = {load.name: [] for load in loads}
    for load in loads:
        run(load, 1, folder)
    for _ in range(rounds):
        for load in loads:
            result = run(load, seconds, folder)
            if result.failures:
                print(f"{load.name}: {result.failures} answers were no success", file=sys.stderr)
            measured[load.name].append(result)
            time.sleep(0.5)
    return measured


def memory_during_large_reads(started: Federation, loads: list[Load], folder: Path) -> dict[str, Any]:
    """Return the growth of the web process over several large reads, in bytes."""
    load = next(load for load in loads if load.name == "node sqlite large")
    process = started.web_process("sqlite")
    run(load, 2, folder)
    before = process.memory_info().rss
    run(load, 5, folder)
    return {"before": before, "after": process.memory_info().rss, "growth": process.memory_info().rss - before}


def summary(measured: dict[str, list[Measured]]) -> dict[str, Any]:
    """Return medians, and each aim with its ratio, met or not."""
    medians = {
        name: {
            "requests": round(statistics.median(row.requests for row in rows), 1),
            "bytes": round(statistics.median(row.bytes for row in rows)),
            "p99_ms": round(statistics.median(row.p99_ms for row in rows), 2),
            "failures": sum(row.failures for row in rows),
        }
        for name, rows in measured.items()
    }
    aims = []
    for words, ours, rival, figure, aim in AIMS:
        ratio = medians[ours][figure] / medians[rival][figure]
        aims.append(
            {"what": words, "ours": ours, "rival": rival, "ratio": round(ratio, 2), "aim": aim, "met": ratio >= aim}
        )
    return {"aims": aims, "medians": medians}


def circumstances(started: Federation) -> dict[str, Any]:
    """Return what the figures depend on, the databases' durability among it."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sqlalchemy": sqlalchemy.__version__,
        "processors": len(os.sched_getaffinity(0)),
        "memory": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
        "durability": started.durability(),
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures as tables."""
    console = Console()
    ratios = Table(title="Ratios, median of interleaved runs")
    for heading in ("what", "ratio", "aim", "met"):
        ratios.add_column(heading)
    for row in result["aims"]:
        ratios.add_row(
            row["what"], f"{row['ratio']:.2f} × {row['rival']}", f"{row['aim']:.1f}", "yes" if row["met"] else "no"
        )
    console.print(ratios)
    figures = Table(title="Medians")
    for heading in ("target", "requests/s", "MB/s", "p99 ms", "failures"):
        figures.add_column(heading)
    for name, row in result["medians"].items():
        figures.add_row(
            name, f"{row['requests']:.0f}", f"{row['bytes'] / 1e6:.0f}", f"{row['p99_ms']:.1f}", str(row["failures"])
        )
    console.print(figures)
    console.print(f"Memory growth over large reads: {result['memory']['growth'] / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
