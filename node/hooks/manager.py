"""Finding and asking plugins: one fresh pluggy manager for each application; a broken plugin is named, the healthy ones load."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points

import pluggy

from node.hooks import specs
from node.hooks.types import AuditSink, PluginReport

GROUP = "federated_locker.plugins"


class Plugins:
    """The installed plugins of one application, loaded and asked once."""

    def __init__(
        self, settings: Mapping[str, Mapping[str, object]], installed: Iterable[EntryPoint] | None = None
    ) -> None:
        """``settings`` has a table of options by plugin name; ``installed`` is for tests, else the entry-point group."""
        self._settings = settings
        self._manager = pluggy.PluginManager(specs.PROJECT)
        self._manager.add_hookspecs(specs)
        self._reports: dict[str, PluginReport] = {}
        self._load(entry_points(group=GROUP) if installed is None else installed)
        self.audit_sinks: tuple[tuple[str, AuditSink], ...] = tuple(self._collect_sinks())

    @property
    def reports(self) -> tuple[PluginReport, ...]:
        """Every plugin that is installed or named in the settings, by name, with what is the matter with it."""
        return tuple(self._reports[name] for name in sorted(self._reports))

    def _load(self, installed: Iterable[EntryPoint]) -> None:
        by_name: dict[str, list[EntryPoint]] = {}
        for point in installed:
            by_name.setdefault(point.name, []).append(point)
        for name, points in by_name.items():
            distribution = ", ".join(sorted({point.dist.name if point.dist else "unknown" for point in points}))
            self._reports[name] = PluginReport(name, distribution)
            with self._noting_trouble(name):
                self._register(name, points)
        for name in set(self._settings) - set(self._reports):
            self._reports[name] = PluginReport(name, "none", "the settings name it, but it is not installed")

    def _register(self, name: str, points: list[EntryPoint]) -> None:
        if len(points) > 1:
            raise ValueError("two plugins have this name, so neither is used")
        plugin = points[0].load()
        self._manager.register(plugin, name)
        try:
            # A hook that the plugin misspells, or that is gone, would else never be called and nobody would know.
            self._manager.check_pending()
            if not self._manager.get_hookcallers(plugin):
                raise ValueError("it has no function that is marked as a hook, so it does nothing")
        except (pluggy.PluginValidationError, ValueError):
            self._manager.unregister(plugin)
            raise

    def _collect_sinks(self) -> Iterator[tuple[str, AuditSink]]:
        """Ask each plugin alone, so that one that fails costs nobody else's sinks."""
        plugins = self._manager.list_name_plugin()
        for name, plugin in plugins:
            ask = self._manager.subset_hook_caller(
                "audit_sinks", [other for _, other in plugins if other is not plugin]
            )
            sinks: list[AuditSink] = []
            with self._noting_trouble(name):
                for answer in ask(options=self._settings.get(name, {})):
                    sinks += [_require_sink(sink) for sink in answer]
            yield from ((name, sink) for sink in sinks)

    @contextmanager
    def _noting_trouble(self, name: str) -> Iterator[None]:
        """Put whatever a foreign module raises into its plugin's report."""
        try:
            yield
        except (Exception, SystemExit) as error:  # a module may mean to end the program when it is imported
            self._reports[name] = PluginReport(
                name, self._reports[name].distribution, f"{type(error).__name__}: {error}"
            )


def _require_sink(sink: AuditSink) -> AuditSink:
    if not callable(getattr(sink, "emit", None)):
        raise TypeError("a sink has no emit(event)")
    return sink
