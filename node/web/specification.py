"""OpenAPI files: bundled from their parts, split between the planes, and held to their declarations."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import yaml

Document = dict[str, Any]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

# What stands below a key of each kind of object; "*" is every key of a map and every element of a list. A reference to
# another file becomes a component of the kind that its place asks for; where no kind is named, its content is put in.
_CONTENT = {"schema": "schemas", "examples": "map examples", "headers": "map headers", "content": "map media"}
_SCHEMA_LISTS = dict.fromkeys(("allOf", "anyOf", "oneOf"), "map schemas")
_GRAMMAR: dict[str, dict[str, str]] = {
    "root": {"paths": "map path", "components": "components"},
    "components": {},
    "path": {"parameters": "map parameters", **dict.fromkeys(METHODS, "operation")},
    "operation": {
        "parameters": "map parameters",
        "requestBody": "requestBodies",
        "responses": "map responses",
        "callbacks": "map callbacks",
    },
    "callbacks": {"*": "path"},
    "requestBodies": _CONTENT,
    "responses": {**_CONTENT, "links": "map links"},
    "parameters": _CONTENT,
    "headers": _CONTENT,
    "media": _CONTENT,
    "schemas": {
        "properties": "map schemas",
        "items": "schemas",
        "not": "schemas",
        "additionalProperties": "schemas",
        **_SCHEMA_LISTS,
    },
    "examples": {},
    "links": {},
    "securitySchemes": {},
}
_COMPONENT_KINDS = (
    "schemas",
    "responses",
    "parameters",
    "examples",
    "requestBodies",
    "headers",
    "securitySchemes",
    "links",
    "callbacks",
)
_GRAMMAR["components"] = {kind: f"map {kind}" for kind in _COMPONENT_KINDS}
_NAME = re.compile(r"[^A-Za-z0-9._-]")


class SpecificationError(ValueError):
    """A specification that cannot be used, in one sentence that names the file or the operation."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as the specification declares it; ``audit`` is the action of its log row or ``none``."""

    method: str
    path: str
    operation_id: str
    roles: tuple[str, ...]
    audit: str


def load_specification(folder: Traversable, name: str) -> Document:
    """Return an OpenAPI file with every part that it refers to, as one document without references to files.

    ``folder`` is a package's (``importlib.resources.files("openapi")``) or a path. Raises SpecificationError for a file or
    part that is not there or is no YAML.
    """
    return _Bundler(folder, name).bundle()


def operations(specification: Mapping[str, Any]) -> tuple[Operation, ...]:
    """List the operations in the order of the file; raises SpecificationError as ``require_declarations`` does."""
    require_declarations(specification)
    return tuple(
        Operation(method.upper(), path, entry["operationId"], tuple(entry["x-roles"]), entry["x-audit"])
        for method, path, entry in _entries(specification)
    )


def require_declarations(specification: Mapping[str, Any]) -> None:
    """Raise SpecificationError, naming all of them, for operations without operationId, ``x-audit`` or ``x-roles``, or with a
    taken operationId."""
    faults, seen = [], set()
    for method, path, entry in _entries(specification):
        place = f"{method.upper()} {path}"
        faults += [f"{place} has no {key}" for key in ("operationId", "x-audit") if not _is_text(entry.get(key))]
        if not _is_text_list(entry.get("x-roles")):
            faults.append(f"{place} has no x-roles")
        if entry.get("operationId") in seen:
            faults.append(f"{place} has the operationId of another operation")
        seen.add(entry.get("operationId"))
    if faults:
        raise SpecificationError("; ".join(faults))


def split_planes(specification: Mapping[str, Any]) -> tuple[Document, tuple[Operation, ...]]:
    """Return the specification without the paths marked ``x-plane: delivery``, and the operations of those paths."""
    delivery = {path for path, item in specification["paths"].items() if item.get("x-plane") == "delivery"}
    control = {path: item for path, item in specification["paths"].items() if path not in delivery}
    routes = tuple(operation for operation in operations(specification) if operation.path in delivery)
    return {**specification, "paths": control}, routes


def allowed_methods(listed: Iterable[Operation], path: str) -> tuple[str, ...]:
    """Return the methods that a path takes, sorted; HEAD goes with GET. Empty for a path that is none of the listed."""
    methods = {operation.method for operation in listed if _template(operation.path).fullmatch(path)}
    return tuple(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _template(path: str) -> re.Pattern[str]:
    return re.compile(
        "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"({[^}]+})", path))
    )


def _entries(specification: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, item in specification["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


class _Loader(yaml.CSafeLoader):
    """YAML as JSON has it: dates stay text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True, slots=True)
class _Target:
    """A place in a file."""

    file: str
    pointer: tuple[str, ...]


class _Bundler:
    def __init__(self, folder: Traversable, name: str) -> None:
        self._folder = folder
        self._root_name = name
        self._files: dict[str, Any] = {}
        self._names: dict[tuple[str, _Target], str] = {}
        self._components: dict[str, dict[str, Any]] = {}

    def bundle(self) -> Document:
        root = self._load(self._root_name)
        if not isinstance(root, dict) or "paths" not in root:
            raise SpecificationError(f"{self._root_name} has no paths")
        named = list(self._named_components(root.get("components") or {}))
        for kind, name, place, entry in named:
            self._names[kind, place] = name
            if isinstance(entry, dict) and "$ref" in entry:
                self._names.setdefault((kind, self._target(entry["$ref"], place.file)), name)
        bundled: Document = self._copy({**root, "components": {}}, self._root_name, "root", ())
        for kind, name, place, entry in named:
            self._components.setdefault(kind, {})[name] = self._definition(kind, name, place, entry)
        return {**bundled, "components": self._components}

    def _named_components(self, components: Mapping[str, Any]) -> Iterator[tuple[str, str, _Target, Any]]:
        """Yield kind, name, place and content of the components that the root file names itself."""
        for kind, entries in components.items():
            place = _Target(self._root_name, ("components", kind))
            if "$ref" in entries:
                place = self._target(entries["$ref"], self._root_name)
                entries = self._find(place, self._root_name)
            for name, entry in entries.items():
                yield kind, name, _Target(place.file, (*place.pointer, name)), entry

    def _definition(self, kind: str, name: str, place: _Target, entry: Any) -> Any:
        """Copy a component's content: that of the file's part which it stands for, when it is the one that does."""
        if isinstance(entry, dict) and "$ref" in entry:
            target = self._target(entry["$ref"], place.file)
            if self._names[kind, target] == name:
                return self._copy(self._find(target, place.file), target.file, kind, (target,))
        return self._copy(entry, place.file, kind, ())

    def _copy(self, node: Any, file: str, kind: str, opened: tuple[_Target, ...]) -> Any:
        """Copy a part with its references to files resolved; ``opened`` are the parts whose content is being put in."""
        if isinstance(node, list):
            return [self._copy(item, file, self._below(kind, "*"), opened) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(node.get("$ref"), str):
            return self._refer(node, file, kind, opened)
        return {str(key): self._copy(value, file, self._below(kind, str(key)), opened) for key, value in node.items()}

    @staticmethod
    def _below(kind: str, key: str) -> str:
        if kind.startswith("map "):
            return kind.removeprefix("map ")
        rules = _GRAMMAR.get(kind, {})
        return rules.get(key) or rules.get("*", "")

    def _refer(self, node: Mapping[str, Any], file: str, kind: str, opened: tuple[_Target, ...]) -> Any:
        target = self._target(node["$ref"], file)
        if kind in _COMPONENT_KINDS:
            return {"$ref": f"#/components/{kind}/{self._component(kind, target)}"}
        if target in opened:
            raise SpecificationError(f"{file} refers to itself through {node['$ref']}")
        content = self._copy(self._find(target, file), target.file, kind, (*opened, target))
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return (
            {**content, **self._copy(beside, file, kind, opened)} if beside and isinstance(content, dict) else content
        )

    def _component(self, kind: str, target: _Target) -> str:
        """Return the name of the component that holds a part of a file, making the component at the first call."""
        name = self._names.get((kind, target))
        if name is None:
            name = self._names[kind, target] = self._free_name(kind, target)
            entries = self._components.setdefault(kind, {})
            entries[name] = None  # keeps its place while what it refers to is copied, itself included
            entries[name] = self._copy(self._find(target, target.file), target.file, kind, (target,))
        return name

    def _free_name(self, kind: str, target: _Target) -> str:
        stem = PurePosixPath(target.file).stem
        wanted = _NAME.sub("_", target.pointer[-1] if target.pointer else stem)
        taken = {name for (taken_kind, _), name in self._names.items() if taken_kind == kind}
        candidates = (wanted, f"{stem}_{wanted}", *(f"{stem}_{wanted}_{number}" for number in range(2, 100)))
        return next(name for name in candidates if name not in taken)

    def _target(self, reference: str, file: str) -> _Target:
        path, _, pointer = reference.partition("#")
        parts = tuple(unquote(part).replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
        return _Target(self._resolve(path, file) if path else file, parts)

    @staticmethod
    def _resolve(path: str, file: str) -> str:
        resolved: list[str] = []
        for part in (*PurePosixPath(file).parent.parts, *PurePosixPath(path).parts):
            if part == "..":
                if not resolved:
                    raise SpecificationError(f"{file} refers to {path}, outside of the specification's folder")
                resolved.pop()
            elif part != ".":
                resolved.append(part)
        return "/".join(resolved)

    def _find(self, target: _Target, file: str) -> Any:
        found = self._load(target.file)
        for part in target.pointer:
            if isinstance(found, dict):
                found = {str(key): value for key, value in found.items()}.get(part, _MISSING)
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                found = _MISSING
            if found is _MISSING:
                raise SpecificationError(
                    f"{file} refers to {target.file}#/{'/'.join(target.pointer)}, which is not there"
                )
        return found

    def _load(self, name: str) -> Any:
        if name not in self._files:
            try:
                text = self._folder.joinpath(*name.split("/")).read_text("utf-8")
                self._files[name] = yaml.load(text, _Loader)  # noqa: S506 - a safe loader without dates
            except FileNotFoundError:
                raise SpecificationError(f"there is no file {name}") from None
            except yaml.YAMLError as error:
                raise SpecificationError(f"{name} is not YAML: {error}") from error
        return self._files[name]


_MISSING = object()
