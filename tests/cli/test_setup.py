"""init, check, db upgrade, and how faults are told."""

import json
import re
import socket
import sqlite3
import stat
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from node.config import load_settings
from node.contract.problems import PROBLEM_BASE, OutOfScope
from node.db.lockers import change_locker, save_locker
from node.db.models import Document, HolderSeal, OutboxRow
from node.db.session import Database
from node.db.tokens import find_tokens, token_hash


def test_init_makes_a_node_that_check_finds_well(command: Any, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    name = 'Revenue "Dept" \\ आय'
    made = command("init", folder, "--name", name, "--port", 9000, "--environment", "demo", "--json")
    assert made.status == 0
    settings = load_settings(folder)
    assert (settings.name, settings.port, settings.environment) == (name, 9000, "demo")
    assert (settings.node_id, settings.base_url) == (made.json["node_id"], "http://127.0.0.1:9000")
    checked = command("check", "--folder", folder, "--json")
    assert (checked.status, [row for row in checked.json if row["ok"] is False]) == (0, [])
    assert {"settings", "keys", "database", "schema", "free space", "store main, write"} <= {
        it["name"] for it in checked.json
    }


def test_the_first_token_works_and_is_shown_once(command: Any, tmp_path: Path) -> None:
    made = command("init", tmp_path / "node", "--json").json
    database = Database(load_settings(tmp_path / "node").resolved_database_url)
    with database.reading() as connection:
        grant = find_tokens(connection, [token_hash(made["token"])])[token_hash(made["token"])]
    database.close()
    assert grant.role == "operator"
    assert made["token"].encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_what_is_secret_is_closed_to_others(node_folder: Path) -> None:
    for path in (node_folder, node_folder / "node.toml", node_folder / "keys", *(node_folder / "keys").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_init_refuses_a_folder_with_something_in_it(command: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    refused = command("init", tmp_path)
    assert (refused.status, [path.name for path in tmp_path.iterdir()]) == (2, ["mine.txt"])
    assert "not empty" in refused.err


@pytest.mark.parametrize("option", [("--database-url", "mysql://x"), ("--base-url", "ftp://x"), ("--node-id", "a b")])
def test_an_init_that_fails_leaves_nothing_half_made(command: Any, tmp_path: Path, option: tuple[str, str]) -> None:
    refused = command("init", tmp_path / "node", *option)
    assert (refused.status, refused.out, list(tmp_path.iterdir())) == (2, "", [])
    assert "Traceback" not in refused.err


def test_init_on_postgresql(command: Any, tmp_path: Path, postgres_url: str) -> None:
    assert command("init", tmp_path / "node", "--database-url", postgres_url).status == 0
    checked = command("check", "--folder", tmp_path / "node", "--json")
    assert {"name": "database", "ok": True}.items() <= next(
        it for it in checked.json if it["name"] == "database"
    ).items()
    assert postgres_url not in checked.out


def _named(checked: Any) -> dict[str, str]:
    return {row["name"]: row["text"] for row in checked.json if row["ok"] is False}


def _edit(folder: Path, old: str, new: str) -> None:
    file = folder / "node.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_check_names_each_thing_that_must_be_mended(command: Any, node_folder: Path) -> None:
    (node_folder / "keys" / "client.pem").chmod(0o644)
    _edit(node_folder, 'root = "storage"', 'root = "absent"')
    _edit(node_folder, "reserve_bytes = 67108864", f"reserve_bytes = {2**62}")
    _edit(
        node_folder, '# tls_certificate = "tls/certificate.pem"\n# tls_key', 'tls_certificate = "absent.pem"\ntls_key'
    )
    with sqlite3.connect(node_folder / "node.db") as database:
        database.execute("UPDATE node_version SET version_num = 'n0000'")
    checked = command("check", "--json")
    assert checked.status == 1
    assert set(_named(checked)) == {"keys", "store main", "free space", "tls", "schema"}
    assert "mode to 600" in _named(checked)["keys"]
    assert "locker-node db upgrade" in _named(checked)["schema"]
    assert "5 must be mended" in command("check").out


def test_check_names_every_bad_setting(command: Any, node_folder: Path) -> None:
    _edit(node_folder, 'exposure = "direct"', 'exposure = "shut"\ncolour = "red"')
    checked = command("check", "--json")
    assert checked.status == 1
    assert all(word in checked.out for word in ("exposure", "colour: there is no such setting"))


def test_check_says_that_a_database_is_away_without_its_password(
    command: Any, node_folder: Path, free_port: Any
) -> None:
    url = f"postgresql+psycopg://u:secret-word@127.0.0.1:{free_port()}/x"
    _edit(node_folder, "sqlite:///node.db", url)
    checked = command("check", "--json")
    assert "cannot be used" in _named(checked)["database"]
    assert "secret-word" not in checked.out + checked.err
    refused = command("documents", "list")
    assert (refused.status, "secret-word" in refused.err, refused.err.count("\n")) == (2, False, 1)


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(command: Any, node_folder: Path) -> None:
    told = command("db", "upgrade", "--json").json
    assert told["before"] == told["after"] is not None


def test_a_command_on_an_older_schema_says_how_to_mend_it(command: Any, node_folder: Path) -> None:
    with sqlite3.connect(node_folder / "node.db") as database:
        database.execute("UPDATE node_version SET version_num = 'n0000'")
    refused = command("documents", "list")
    assert (refused.status, "locker-node db upgrade" in refused.err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("documents", "list", "--folder", "/nowhere"),
        ("token", "create"),
        ("log", "query", "--from", "yesterday"),
    ],
)
def test_faults_of_usage_and_settings_are_one_line_and_status_two(command: Any, arguments: tuple[str, ...]) -> None:
    refused = command(*arguments)
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)


def test_the_next_steps_work_from_any_folder_and_a_missing_one_is_explained(command: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a node"
    assert f"export LOCKER_NODE_FOLDER='{folder}'\n" in command("init", folder).out
    refused = command("documents", "list", "--folder", tmp_path)
    assert refused.err.index("--folder or LOCKER_NODE_FOLDER") < refused.err.index("locker-node init")


def test_check_tells_sizes_as_people_read_them(command: Any, node_folder: Path) -> None:
    out = command("check").out
    assert re.search(r"[0-9] [KMGT]iB", out)
    assert not re.search(r"[0-9]{5,} bytes", out)


def test_an_unknown_fault_shows_no_text_of_its_own(
    command: Any, node_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("9876543210")

    monkeypatch.setattr("node.services.documents.DocumentAdministration.page", fail)
    refused = command("documents", "list")
    assert (refused.status, refused.err) == (1, "something went wrong inside: RuntimeError\n")


def test_a_locker_that_cannot_be_used_is_told_in_one_line(command: Any, node_folder: Path, incoming: Path) -> None:
    assert "no document type" in command("register", "http://127.0.0.1:1").err
    assert command("ingest", incoming).status == 0
    refused = command("register", "http://127.0.0.1:1")
    assert (refused.status, "allow_private" in refused.err) == (1, True)
    _edit(node_folder, 'exposure = "direct"', 'exposure = "direct"\nallow_private = ["127.0.0.0/8"]')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused = command("register", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (refused.status, "cannot be reached" in refused.err) == (1, True)
    assert command("push").status == 1


def test_refused_announcements_are_not_all_well(command: Any, node_folder: Path, incoming: Path) -> None:
    database = Database(f"sqlite:///{node_folder / 'node.db'}")
    iss = "https://locker.invalid"
    with database.writing() as connection:
        save_locker(connection, iss=iss, base_url=iss, jwks="{}", encryption_key="", endpoints={}, now_us=1)
        change_locker(connection, iss, state="active")
    command("ingest", incoming)
    with database.writing() as connection:
        problem = json.dumps({"type": PROBLEM_BASE + OutOfScope.slug})
        connection.execute(update(OutboxRow).values(state="refused", result=problem))
    checked = command("check")
    assert (checked.status, "all is well" in checked.out) == (1, False)
    told = f"3 of in.gov.x-INCOM refused: out-of-scope. Have the type approved: locker-node register {iss}"
    assert f"MEND  {iss}, push: {told}" in checked.out
    pushed = command("push")
    assert (pushed.status, f"  {told}\n" in pushed.out) == (1, True)
    (shown,) = command("push", "--json").json.values()
    assert shown["refusals"] == [{"issuer": "in.gov.x", "doc_type": "INCOM", "reason": "out-of-scope", "count": 3}]
    assert "refused" not in command("push", "--retry-refused").out
    assert "3 announcements wait" in command("check").out
    assert "holders' values" not in command("check").out
    with database.writing() as connection:
        document_id = connection.execute(select(Document.document_id).limit(1)).scalar_one()
        connection.execute(insert(HolderSeal).values(document_id=document_id, iss=iss, key_id="", sealed=""))
    checked = command("check")
    assert (checked.status, f"MEND  {iss}, holders: 1 documents" in checked.out) == (1, True)
    database.close()


def test_production_is_refused_by_serve_in_the_words_of_check(command: Any, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    assert command("init", folder, "--base-url", "https://n.example").status == 0
    assert load_settings(folder).environment == "production"
    _edit(folder, 'base_url = "https://n.example"', 'base_url = "http://n.example"\nallow_private = ["0.0.0.0/0"]')
    found = _named(command("check", "--folder", folder, "--json"))
    assert set(found) == {"base_url", "tls_certificate", "allow_private"}
    refused = command("serve", "--folder", folder)
    assert refused.status == 2
    assert set(refused.err.splitlines()) == {f"{folder / 'node.toml'}: {key}: {text}" for key, text in found.items()}


def test_a_node_made_for_trying_out_does_not_become_a_real_one(command: Any, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    assert "demo node" in command("init", folder).out
    _edit(folder, 'environment = "demo"', 'environment = "production"')
    refused = command("serve", "--folder", folder)
    assert refused.status == 2 and "environment: this was made for a demonstration" in refused.err


@pytest.fixture
def installed_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install plugins as pip would: a distribution's entry points, a module each."""

    def install(**sources: str) -> None:
        folder = tmp_path / "site"
        metadata = folder / "their_plugins-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugins\nVersion: 1.0\n")
        lines = [f"{name} = {name}_of_theirs" for name in sources]
        (metadata / "entry_points.txt").write_text("\n".join(["[federated_locker.plugins]", *lines]))
        for name, source in sources.items():
            (folder / f"{name}_of_theirs.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(folder))

    return install


def test_check_names_a_broken_plugin_and_shows_that_the_healthy_ones_load(
    command: Any, node_folder: Path, installed_plugins: Any
) -> None:
    installed_plugins(
        raising="raise RuntimeError('no such library')",
        unsigned="""
            from node.hooks.specs import hookimpl
            @hookimpl
            def audit_sinks(settings):
                return []
        """,
        healthy="""
            from node.hooks.specs import hookimpl
            @hookimpl
            def audit_sinks(options):
                return None
        """,
    )
    checked = command("check", "--json")
    assert checked.status == 1
    found = {row["name"]: row for row in checked.json if row["name"].startswith("plugin")}
    assert {name: row["ok"] for name, row in found.items()} == {
        "plugin raising": False, "plugin unsigned": False, "plugin healthy": True, "plugin jsonlines": True,
    }  # fmt: skip
    assert "no such library" in found["plugin raising"]["text"] and "their-plugins" in found["plugin raising"]["text"]
    assert "settings" in found["plugin unsigned"]["text"]
