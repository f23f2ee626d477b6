"""The reference pages tell of all that there is, of nothing else, and say the same as the code."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import SecretStr

import locker.cli
import locker.config
import locker.keys
import node.cli
import node.config
import node.keys
from node.contract.problems import problem_types
from node.hooks import specs
from node.storage.errors import SettingsError
from node.storage.registry import DriverRegistry

DOCS = Path(__file__).parents[2] / "docs"
NO_DEFAULT = "none, must be given"


def sections(page: str) -> dict[str, str]:
    """The text of a page by the heading of level two above it."""
    parts = re.split(r"^## (.+)$", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of all tables of a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    ruled = {number for number, row in enumerate(cells) if set(row[0]) == {"-"}}
    return [row for number, row in enumerate(cells) if number not in ruled and number + 1 not in ruled]


def as_written(value: Any) -> str:
    """A default as the pages have it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if value is None:
        return "not set"
    if value in ((), {}):
        return "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize(
    ("settings", "heading"),
    [
        (node.config.Settings, "A node's, in `node.toml`"),
        (locker.config.Settings, "A locker's, in `locker.toml`"),
    ],
)
def test_every_setting_has_its_default_and_one_sentence(settings, heading):
    listed = {name: (default, text) for name, default, text in rows(sections("settings.md")[heading])}
    fields = {name: field for name, field in settings.model_fields.items() if name != "folder"}
    assert list(listed) == list(fields), "in the order of the code, so that a reader finds either"
    for name, field in fields.items():
        default, text = listed[name]
        if field.is_required():
            assert default == NO_DEFAULT, name
        elif name == "stores":
            assert default == "one store `main` in the folder `storage"
        else:
            assert default == as_written(field.default), name
        assert text.endswith(".") and len(text) > 20, name


@pytest.mark.parametrize(("settings", "package"), [(node.config.Settings, "node"), (locker.config.Settings, "locker")])
def test_no_setting_is_without_effect(settings, package):
    code = "\n".join(path.read_text("utf-8") for path in (DOCS.parent / package).rglob("*.py"))
    unread = [name for name in settings.model_fields if not re.search(rf"(settings|self)\.{name}\b", code)]
    assert unread == []


def test_every_problem_type_is_explained():
    listed = [tuple(row[:3]) for row in rows((DOCS / "problems.md").read_text(encoding="utf-8"))]
    # Tests make problems of their own; the published ones are those of the table's module.
    import node.contract.problems as table

    published = {
        error.slug
        for error in vars(table).values()
        if isinstance(error, type) and issubclass(error, table.ProblemError)
    }
    expected = [(row.slug, str(row.status), row.title) for row in problem_types() if row.slug in published]
    assert listed == expected
    for row in rows((DOCS / "problems.md").read_text(encoding="utf-8")):
        assert len(row) == 5 and all(cell.endswith(".") for cell in row[3:]), row[0]


def driver_options(name: str) -> set[str]:
    """The options of a driver, from its own refusal of one that there is not."""
    driver = DriverRegistry.with_installed([]).load(name)
    with pytest.raises(SettingsError) as caught:
        driver.from_settings(
            {"root": str(DOCS), "no-such-option": 1} if name == "filesystem" else {"no-such-option": 1}
        )
    known = str(caught.value).rpartition("this driver's options are: ")[2]
    return set() if known == "none" else set(known.split(", "))


@pytest.mark.parametrize("name", DriverRegistry.with_installed([]).names)
def test_every_driver_has_its_options(name):
    assert {row[0] for row in rows(sections("drivers.md")[f"`{name}`"])} == driver_options(name)


def test_every_hook_is_listed():
    hooks = {name for name, value in vars(specs).items() if hasattr(value, f"{specs.PROJECT}_spec")}
    listed = rows((DOCS / "plugins.md").read_text(encoding="utf-8").partition("\n## ")[0])
    assert hooks and {row[0] for row in listed} == hooks


def test_every_option_of_the_bundled_plugin_is_listed():
    from plugins.sinks.jsonlines import audit_sinks

    for name, *_ in rows(sections("plugins.md")["`jsonlines`"]):
        with pytest.raises(ValueError, match=f"{name}: write"):
            audit_sinks({name: 1})


def commands(command: click.Command, name: str) -> list[tuple[str, str]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        # A plain group's own order is that of the alphabet; here it is the order in which the commands are declared.
        parts = list(command.commands) or command.list_commands(context)
        return [row for part in parts for row in commands(command.get_command(context, part), f"{name} {part}")]
    return [(name, command.get_short_help_str(300))]


@pytest.mark.parametrize(
    ("root", "name", "heading"),
    [
        (node.cli.root, "locker-node", "A node's: `locker-node`"),
        (locker.cli.main, "locker", "A locker's: `locker`"),
    ],
)
def test_every_command_is_listed_as_its_help_has_it(root, name, heading):
    assert [tuple(row) for row in rows(sections("commands.md")[heading])] == commands(root, name)


@pytest.mark.parametrize(("create", "heading"), [("node", "A node's"), ("locker", "A locker's")])
def test_every_key_file_has_its_row(tmp_path, create, heading):
    if create == "node":
        node.keys.create_keys(tmp_path)
    else:
        locker.keys.create_keys(tmp_path / "keys")
    table = rows(sections("keys.md")[heading])
    named = [file for row in table for file in re.findall(r"keys/([a-z-]+\.[a-z]+)", row[2])]
    assert sorted(named) == sorted(path.name for path in (tmp_path / "keys").iterdir())
    assert all(len(row) == 6 and all(row) for row in table)
