"""What the bench compares with: bare Flask under gunicorn, without any check or log, and nginx with static files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.waiting import free_port, wait_for

FLASK_SEND_FILE = """
from flask import Flask, send_file
app = Flask(__name__)

@app.get("/<name>")
def document(name):
    return send_file({folder!r} + "/" + name)
"""

FLASK_LOOK_UP = """
from flask import Flask, jsonify
from sqlalchemy import create_engine, text
app = Flask(__name__)
engine = create_engine({url!r})

@app.post("/resolve")
def resolve():
    with engine.connect() as connection:
        row = connection.execute(text("SELECT value FROM place WHERE name = :name"), {{"name": "key-500"}}).one()
    return jsonify(value=row.value)
"""

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    server {{
        listen 127.0.0.1:{port};
        root {files};
    }}
}}
"""


@contextmanager
def running(arguments: list[str], url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; waits until it answers."""
    with (folder / "rival.log").open("ab") as log:
        process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(url)
        yield process
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def flask(folder: Path, name: str, source: str) -> Iterator[str]:
    """Serve a Flask application with one synchronous gunicorn worker."""
    (folder / f"{name}.py").write_text(source)
    port = free_port()
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "-w",
        "1",
        "-b",
        f"127.0.0.1:{port}",
        "--log-level",
        "error",
        f"{name}:app",
    ]
    with running(gunicorn, f"http://127.0.0.1:{port}/", folder):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def nginx(folder: Path, files: Path) -> Iterator[str]:
    """Serve a folder with one nginx worker."""
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, files=files, port=port))
    files.chmod(0o755)
    for parent in (files, *files.parents):
        if parent != Path("/") and parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    with running(["/usr/sbin/nginx", "-c", str(configuration)], f"http://127.0.0.1:{port}/", folder):
        yield f"http://127.0.0.1:{port}"
