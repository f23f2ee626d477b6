"""Settings of a node: what is unknown, wrong or missing stops the start and is named; secrets print as stars."""

import pytest

from node.config import SETTINGS_FILE, SettingsError, load_settings

GOOD = 'node_id = "n"\nname = "N"\nbase_url = "https://n.example"\n'


@pytest.fixture
def load(tmp_path):
    def write_and_load(text=GOOD):
        (tmp_path / SETTINGS_FILE).write_text(text)
        return load_settings(tmp_path)

    return write_and_load


def test_defaults_are_an_embedded_node(load, tmp_path):
    settings = load()
    assert settings.uses_sqlite and settings.web_processes == 1 and settings.environment == "production"
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/node.db"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD + "prot = 1\n", "prot: there is no such setting"),
        (GOOD + 'port = "x"\n', "port: "),
        (GOOD + "port = 70000\n", "port: "),
        (GOOD + 'folder = "/"\n', "folder: there is no such setting"),
        (GOOD + 'trusted_proxies = ["nonsense"]\n', "trusted_proxies.0: "),
        (GOOD + "web_processes = 2\n", "web_processes must be 1 on SQLite"),
        (GOOD + 'tls_key = "k.pem"\n', "tls_certificate and tls_key"),
        (GOOD + 'default_store = "other"\n', "default_store names no table"),
        (
            GOOD + '[[lockers]]\niss = "https://l.example"\nissuer = ["x"]\n',
            "lockers.0.issuer: there is no such setting",
        ),
        (GOOD.replace("https://n.example", "n.example/"), "base_url: "),
        ('name = "N"\n', "node_id: this setting is missing"),
        ("name = \n", SETTINGS_FILE),
        ("\xff", SETTINGS_FILE),
    ],
)
def test_what_is_wrong_is_named_with_its_file(load, tmp_path, text, named):
    with pytest.raises(SettingsError) as caught:
        load(text)
    assert named in str(caught.value) and str(tmp_path / SETTINGS_FILE) in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(SettingsError, match="locker-node init"):
        load_settings(tmp_path)


def test_the_environment_goes_first_but_never_moves_the_folder(load, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCKER_NODE_PORT", "9999")
    monkeypatch.setenv("LOCKER_NODE_FOLDER", "/somewhere/else")
    settings = load()
    assert settings.port == 9999 and settings.folder == tmp_path
    monkeypatch.setenv("LOCKER_NODE_PROT", "1")
    with pytest.raises(SettingsError, match="LOCKER_NODE_PROT"):
        load()


def test_a_database_password_prints_as_stars(load):
    settings = load(GOOD + 'database_url = "postgresql+psycopg://u:hunter2@h/d"\n')
    assert "hunter2" not in repr(settings) and "hunter2" in settings.resolved_database_url
