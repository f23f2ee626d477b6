from pathlib import Path

import pytest

from locker.config import SettingsRefused, load_settings
from locker.keys import KeysRefused, create_keys, load_keys


def write(folder: Path, text: str) -> Path:
    (folder / "keys").mkdir(exist_ok=True)
    file = folder / "locker.toml"
    file.write_text(text)
    return file


GOOD = 'base_url = "http://127.0.0.1:8400"\n'


def test_settings_are_frozen_and_hide_the_database_password(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + 'database_url = "postgresql://u:sesame@h/d"\n'))
    assert "sesame" not in repr(settings) and "sesame" not in settings.model_dump_json()
    with pytest.raises(Exception, match="frozen"):
        settings.port = 1  # type: ignore[misc]  # on purpose


def test_a_relative_database_lies_beside_the_settings(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.resolved_database_url == f"sqlite:///{tmp_path.resolve()}/locker.db"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD + "ports = 1\n", "locker.toml: ports: not a setting"),
        (GOOD + 'port = "many"\n', "locker.toml: port: "),
        (GOOD + "port = 70000\n", "locker.toml: port: "),
        ("port = 1\n", "locker.toml: base_url: "),
        (GOOD + 'folder = "/"\n', "folder: not a setting"),
        (GOOD + "tls_certificate = 'c.pem'\ntls_key = 'k.pem'\n", "tls_certificate: there is no file c.pem"),
        (GOOD + "tls_certificate = 'c.pem'\n", "tls_certificate and tls_key are given together"),
        (GOOD + "web_processes = 2\n", "web_processes: SQLite takes exactly 1"),
        (GOOD + 'keys_folder = "nowhere"\n', "keys_folder: there is no folder"),
        ("port = \n", "locker.toml: "),
    ],
)
def test_bad_settings_stop_the_start_and_name_key_and_file(tmp_path: Path, text: str, named: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(SettingsRefused) as refused:
        load_settings(file)
    assert named in str(refused.value) and str(tmp_path) in str(refused.value)


def test_a_refusal_does_not_repeat_the_value(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused) as refused:
        load_settings(write(tmp_path, GOOD + 'port = "sesame"\n'))
    assert "sesame" not in str(refused.value)


def test_the_environment_wins_and_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, GOOD + "port = 1\n")
    monkeypatch.setenv("LOCKER_PORT", "2")
    assert load_settings(file).port == 2
    monkeypatch.setenv("LOCKER_PORT", "two")
    with pytest.raises(SettingsRefused, match="environment: LOCKER_PORT"):
        load_settings(file)
    monkeypatch.setenv("LOCKER_PORT", "2")
    monkeypatch.setenv("LOCKER_PROT", "2")
    with pytest.raises(SettingsRefused, match="LOCKER_PROT: not a setting"):
        load_settings(file)


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match=r"locker\.toml"):
        load_settings(tmp_path)


def test_keys_are_made_once_one_for_each_purpose_and_for_their_owner_alone(tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys")
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "keys").iterdir()} == {0o600}
    assert len({key.kid for key in keys.signing.values()}) == 5
    assert create_keys(tmp_path / "keys").public.jwks() == keys.public.jwks()
    assert "***" in repr(keys.reference)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "ticket.pem").chmod(0o640)
    with pytest.raises(KeysRefused, match=r"ticket\.pem: others can read it"):
        load_keys(tmp_path)


def test_one_key_for_two_purposes_is_refused(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "consent.pem").write_bytes((tmp_path / "ticket.pem").read_bytes())
    with pytest.raises(KeysRefused, match="two purposes share one key"):
        load_keys(tmp_path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "holder-reference.json").unlink()
    with pytest.raises(KeysRefused, match=r"holder-reference\.json"):
        load_keys(tmp_path)
