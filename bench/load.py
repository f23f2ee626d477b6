"""Load by wrk, one thread, and what it reports."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_UNITS = {"B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Load:
    """One target under one load; ``body`` makes it a POST of JSON."""

    name: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    connections: int = 16


@dataclass(frozen=True)
class Measured:
    """Requests and bytes a second, the 99th percentile of latency in milliseconds, and answers that were no success."""

    requests: float
    bytes: float
    p99_ms: float
    failures: int


def run(load: Load, seconds: int, folder: Path) -> Measured:
    """Run wrk once and read its report."""
    arguments = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    for name, value in load.headers:
        arguments += ["-H", f"{name}: {value}"]
    if load.body is not None:
        script = folder / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = [==[{load.body}]==]\nwrk.headers["Content-Type"] = "application/json"\n'
        )
        arguments += ["-s", str(script)]
    report = subprocess.run([*arguments, load.url], capture_output=True, text=True, check=True).stdout
    return Measured(
        requests=float(_find(r"Requests/sec:\s+([\d.]+)", report)),
        bytes=_amount(_find(r"Transfer/sec:\s+([\d.]+[KMG]?B)", report), _UNITS),
        p99_ms=_amount(_find(r"99%\s+([\d.]+(?:us|ms|s))", report), _TIMES),
        failures=sum(int(number) for number in re.findall(r"(?:Non-2xx or 3xx responses: |timeout )(\d+)", report)),
    )


def _find(pattern: str, report: str) -> str:
    match = re.search(pattern, report)
    if match is None:
        raise ValueError(f"wrk said nothing of {pattern}:\n{report}")
    return match[1]


def _amount(text: str, units: dict[str, float]) -> float:
    match = re.fullmatch(r"([\d.]+)([A-Za-z]+)", text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * units[match[2]]
