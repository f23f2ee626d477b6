"""Plugins: found by entry point, each named with what is the matter with it, the healthy ones used."""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from node.hooks.manager import GROUP, Plugins
from node.hooks.types import PluginReport

MODULES = {
    "good_plugin": """
        from node.hooks.specs import hookimpl
        class Sink:
            def __init__(self, options): self.options = options
            def emit(self, event): pass
        @hookimpl
        def audit_sinks(options):
            return [Sink(options), Sink(options)]
    """,
    "silent_plugin": """
        from node.hooks.specs import hookimpl
        @hookimpl
        def audit_sinks(options):
            return None
    """,
    "no_hooks_plugin": "",
    "import_fails": "raise RuntimeError('no such library')",
    "unknown_hook": """
        from node.hooks.specs import hookimpl
        @hookimpl
        def audit_sink(options):
            return []
    """,
    "wrong_argument": """
        from node.hooks.specs import hookimpl
        @hookimpl
        def audit_sinks(option):
            return []
    """,
    "hook_raises": """
        from node.hooks.specs import hookimpl
        @hookimpl
        def audit_sinks(options):
            raise ValueError('file: write a path')
    """,
    "no_sink": """
        from node.hooks.specs import hookimpl
        @hookimpl
        def audit_sinks(options):
            return ['not a sink']
    """,
    "exits": "raise SystemExit('odd')",
    "unmarked": """
        def audit_sinks(options):
            return []
    """,
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def load(*names: str, settings: Mapping[str, Mapping[str, object]] | None = None) -> Plugins:
    return Plugins(settings or {}, [EntryPoint(name, name, GROUP) for name in names])


def test_a_plugin_gets_its_own_options_and_hands_over_sinks() -> None:
    plugins = load("good_plugin", settings={"good_plugin": {"file": "x"}})
    assert plugins.reports == (PluginReport("good_plugin", "unknown"),)
    assert [(name, sink.options) for name, sink in plugins.audit_sinks] == [("good_plugin", {"file": "x"})] * 2


def test_a_plugin_may_have_no_sink() -> None:
    plugins = load("silent_plugin")
    assert plugins.audit_sinks == ()
    assert plugins.reports[0].trouble is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("import_fails", "RuntimeError: no such library"),
        ("exits", "odd"),
        ("unknown_hook", "audit_sink"),
        ("wrong_argument", "option"),
        ("hook_raises", "ValueError: file: write a path"),
        ("no_sink", "emit"),
        ("no_hooks_plugin", "marked as a hook"),
        ("unmarked", "marked as a hook"),
        ("not_installed_module", "ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_is_named_and_healthy_ones_load(name: str, said: str) -> None:
    plugins = load(name, "good_plugin")
    trouble = {report.name: report.trouble for report in plugins.reports}
    assert trouble["good_plugin"] is None
    assert said in (trouble[name] or "")
    assert [name for name, _ in plugins.audit_sinks] == ["good_plugin", "good_plugin"]


def test_two_plugins_with_one_name_are_both_left_out() -> None:
    points = [EntryPoint("twice", "good_plugin", GROUP), EntryPoint("twice", "silent_plugin", GROUP)]
    plugins = Plugins({}, points)
    assert plugins.audit_sinks == ()
    assert "two plugins" in (plugins.reports[0].trouble or "")


def test_settings_for_a_plugin_that_is_not_installed_are_shown() -> None:
    (report,) = load(settings={"kafka": {"topic": "x"}}).reports
    assert report.name == "kafka"
    assert "not installed" in (report.trouble or "")


def test_each_application_has_plugins_of_its_own() -> None:
    one = load("good_plugin", settings={"good_plugin": {"n": 1}})
    two = load("good_plugin", settings={"good_plugin": {"n": 2}})
    assert one.audit_sinks[0][1].options == {"n": 1}
    assert two.audit_sinks[0][1].options == {"n": 2}
    assert load().audit_sinks == ()


def test_the_bundled_plugin_comes_in_by_the_same_door(tmp_path: Path) -> None:
    plugins = Plugins({"jsonlines": {"file": str(tmp_path / "audit.jsonl")}})
    assert PluginReport("jsonlines", "federated-locker") in plugins.reports
    assert "jsonlines" in [name for name, _ in plugins.audit_sinks]
    assert "jsonlines" not in [name for name, _ in Plugins({}).audit_sinks]
