"""FC-19: ends hold to the second on both databases, whatever the zones of process and database session are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
ZONES = {"Asia/Kolkata": -19800, "America/New_York": 18000}


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request, tmp_path):
    """Databases of a node and a locker; on PostgreSQL their sessions have a zone that is neither UTC nor the process's."""
    if request.param == "sqlite":
        return [f"sqlite:///{tmp_path}/{name}.db" for name in ("node", "locker")]
    server = request.getfixturevalue("postgresql_server")
    made = [server.create_database() for _ in range(2)]
    for url in made:
        with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE \"{name}\" SET timezone TO 'America/St_Johns'")
    return made


@pytest.mark.parametrize("zone", ZONES)
def test_tokens_tickets_and_consents_end_to_the_second(tmp_path, urls, zone):
    (other,) = set(ZONES) - {zone}
    done = subprocess.run(
        [sys.executable, "-m", "tests.field_cases.expiry_in_a_zone", tmp_path, *urls, other],
        cwd=ROOT, env={**os.environ, "TZ": zone}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    planes = {
        f"{name} {when} on the {plane} plane": status
        for name in ("token", "ticket")
        for when, status in (("before", 200), ("after", 401))
        for plane in ("data", "control")
    }
    assert json.loads(done.stdout) == {
        "offset": ZONES[zone],
        **planes,
        "log times": True,
        "log within the hour": True,
        "consent before": "Granted",
        "consent after": "ConsentRequired",
        "access token before": "good",
        "access token after": "expired",
    }
