"""The contracts as files: they load, refer to what exists, declare what they must, and their examples fit."""

import importlib.resources
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import connexion
import jsonschema
import pytest
import yaml
from connexion.resolver import Resolver
from connexion.security import AbstractSecurityHandler
from connexion.validators import VALIDATOR_MAP, JSONResponseBodyValidator, MediaTypeDict

from node.contract.consents import PURPOSES
from node.contract.holders import SCHEMES
from node.contract.problems import PROBLEM_BASE, problem_types
from node.contract.sealing import MAX_SEALED
from node.contract.uri import MAX_URI

ROOT = Path(str(importlib.resources.files("openapi")))
SIDES = ("node", "locker")
METHODS = ("get", "head", "put", "post", "patch", "delete", "options", "trace")
ACTIONS = {"read", "head", "metadata", "search", "put", "status", "log.query", "holder.lookup", "resolve", "none"}
ROLES = {
    "node": {"public", "operator", "auditor", "monitor", "ticket", "locker", "log-grant"},
    "locker": {"public", "operator", "auditor", "node", "requester", "resident"},
}


class Bundle:
    """One contract with its file references replaced by what they refer to, and a record of what was used."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.parts: set[tuple[Path, str]] = set()
        self._loaded: dict[Path, Any] = {}
        self.document = self._resolve(self._load(root / name), root / name, ())

    @property
    def files(self) -> set[Path]:
        return set(self._loaded)

    def _load(self, path: Path) -> Any:
        if path not in self._loaded:
            text = path.read_text("utf-8")
            self._loaded[path] = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        return self._loaded[path]

    def _resolve(self, value: Any, path: Path, trail: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self._resolve(item, path, trail) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" not in value:
            return {key: self._resolve(item, path, trail) for key, item in value.items()}
        assert set(value) == {"$ref"}, f"{path}: nothing may stand beside $ref: {value}"
        return self._follow(value["$ref"], path, trail)

    def _follow(self, reference: str, path: Path, trail: tuple[str, ...]) -> Any:
        name, _, fragment = reference.partition("#")
        target = (path.parent / name).resolve() if name else path
        step = f"{target}#{fragment}"
        assert target.is_relative_to(self.root) and target.is_file(), f"{path}: no such file: {reference}"
        assert step not in trail, f"{path}: {reference} refers to itself"
        found = self._load(target)
        for part in fragment.split("/")[1:]:
            assert isinstance(found, dict) and part in found, f"{path}: no such part: {reference}"
            self.parts.add((target, part))
            found = found[part]
        return self._resolve(found, target, (*trail, step))


class Operation(NamedTuple):
    """One operation and where it stands."""

    side: str
    path: str
    method: str
    item: dict[str, Any]
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.side}: {self.method.upper()} {self.path}"


BUNDLES = {side: Bundle(ROOT, f"{side}.yaml") for side in SIDES}
OPERATIONS = [
    Operation(side, path, method, item, item[method])
    for side in SIDES
    for path, item in BUNDLES[side].document["paths"].items()
    for method in METHODS
    if method in item
]


def each_operation(test: Any) -> Any:
    return pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)(test)


def as_json_schema(schema: Any, *, closed: bool = False) -> Any:
    """Turn an OpenAPI 3.0 schema into JSON Schema; ``closed`` also refuses members that are not declared."""
    if isinstance(schema, list):
        return [as_json_schema(item, closed=closed) for item in schema]
    if not isinstance(schema, dict):
        return schema
    turned = {key: as_json_schema(value, closed=closed) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") is True and isinstance(schema.get("type"), str):
        turned["type"] = [schema["type"], "null"]
    if closed and isinstance(schema.get("properties"), dict):
        turned.setdefault("additionalProperties", False)
    return turned


def require_fits(schema: Any, value: Any, where: str) -> None:
    validator = jsonschema.Draft202012Validator(as_json_schema(schema, closed=True))
    faults = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not faults, f"{where}: {faults}"


def examples_of(holder: dict[str, Any]) -> Iterator[Any]:
    """The examples of a media type, parameter or header."""
    if "example" in holder:
        yield holder["example"]
    for example in holder.get("examples", {}).values():
        yield example["value"]


def media_of(operation: Operation) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where, media type and Media Type Object of every body that an operation takes or gives."""
    for media_type, media in operation.body.get("requestBody", {}).get("content", {}).items():
        yield "request", media_type, media
    for status, response in operation.body["responses"].items():
        for media_type, media in response.get("content", {}).items():
            yield status, media_type, media


def parameters_of(operation: Operation) -> list[dict[str, Any]]:
    return [*operation.item.get("parameters", []), *operation.body.get("parameters", [])]


def schemas_in(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and all schemas within it."""
    if not isinstance(schema, dict):
        return
    yield schema
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for part in [*inner, *schema.get("oneOf", []), *schema.get("allOf", []), *schema.get("anyOf", [])]:
        yield from schemas_in(part)


@pytest.mark.parametrize("side", SIDES)
def test_the_version_is_one_that_connexion_takes(side: str) -> None:
    assert BUNDLES[side].document["openapi"] == "3.0.3"


@pytest.mark.parametrize("side", SIDES)
def test_connexion_accepts_the_whole_contract(side: str) -> None:
    def handler(**_: Any) -> tuple[dict[str, str], int, dict[str, str]]:
        return {"status": "ok"}, 200, {"Content-Type": "application/json"}

    app = connexion.FlaskApp(__name__)
    app.add_api(BUNDLES[side].document, resolver=Resolver(lambda _: handler), strict_validation=True)
    with app.test_client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/healthz", params={"unknown": "1"}).status_code == 400
        assert client.get("/metrics").status_code == 401, "an operation without its security handler fails closed"


class AnyBearer(AbstractSecurityHandler):  # type: ignore[misc]  # connexion has no types
    """Lets every bearer credential in: these tests are about forms, not about rights."""

    def get_fn(self, security_scheme: dict[str, Any], required_scopes: list[str]) -> Any:
        return lambda request: {"sub": "anybody"} if "authorization" in request.headers else None


class LinesValidator(JSONResponseBodyValidator):  # type: ignore[misc]  # connexion has no types
    """NDJSON is a text; connexion would read it as one JSON value, since its ``*/*json`` fits the name."""

    def _parse(self, stream: Iterator[bytes]) -> str:
        return b"".join(stream).decode()


RESPONSES = MediaTypeDict({**VALIDATOR_MAP["response"], "application/x-ndjson": LinesValidator})


@pytest.mark.parametrize("side", SIDES)
def test_golden_requests_and_answers_pass_through_connexion(side: str) -> None:
    """Every example request is accepted as it stands, and every example answer is one that its request may get."""
    answers: dict[str, Any] = {}
    app = connexion.FlaskApp(__name__)
    app.add_api(
        BUNDLES[side].document,
        resolver=Resolver(lambda name: lambda **_: answers[name]),
        security_map={"bearer": AnyBearer},
        validator_map={**VALIDATOR_MAP, "response": RESPONSES},
        strict_validation=True,
        validate_responses=True,
    )
    exchanged = 0
    with app.test_client() as client:
        for operation in (row for row in OPERATIONS if row.side == side and "x-plane" not in row.item):
            for status, media_type, example in golden_answers(operation):
                answers[operation.body["operationId"]] = (
                    example,
                    status,
                    answer_headers(operation, status, media_type),
                )
                for request in golden_requests(operation):
                    response = client.request(operation.method.upper(), **request)
                    assert response.status_code == status, f"{operation.name}: {response.text}"
                    if media_type.endswith("json") and media_type != "application/x-ndjson":
                        assert response.json() == example
                    exchanged += 1
    assert exchanged > 100


def golden_requests(operation: Operation) -> Iterator[dict[str, Any]]:
    """The example requests of an operation as arguments for the test client."""
    where: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
    for parameter in parameters_of(operation):
        for example in examples_of(parameter):
            where[parameter["in"]][parameter["name"]] = example
    request = {
        "url": operation.path.format_map(where["path"]),
        "params": where["query"],
        "headers": {**where["header"], "Authorization": "Bearer any"},
    }
    bodies = operation.body.get("requestBody", {}).get("content", {})
    if not bodies:
        yield request
    for media_type, media in bodies.items():
        for example in examples_of(media):
            yield {**request, ("json" if media_type == "application/json" else "data"): example}


def golden_answers(operation: Operation) -> Iterator[tuple[int, str, Any]]:
    for where, media_type, media in media_of(operation):
        if where != "request":
            yield from ((int(where), media_type, example) for example in examples_of(media))


def answer_headers(operation: Operation, status: int, media_type: str) -> dict[str, str]:
    headers = operation.body["responses"][str(status)].get("headers", {})
    return {"Content-Type": media_type, **{name: header["example"] for name, header in headers.items()}}


def test_every_file_and_part_is_used() -> None:
    folders = (ROOT / "paths", ROOT / "components", ROOT / "examples")
    there = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    used = set().union(*(bundle.files for bundle in BUNDLES.values()))
    assert there - used == set()
    parts = {(path, name) for path in (ROOT / "components").glob("*.yaml") for name in yaml.safe_load(path.read_text())}
    assert parts - set().union(*(bundle.parts for bundle in BUNDLES.values())) == set()


@pytest.mark.parametrize("side", SIDES)
def test_operation_ids_are_unique_snake_case(side: str) -> None:
    names = [operation.body["operationId"] for operation in OPERATIONS if operation.side == side]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)


@each_operation
def test_declarations(operation: Operation) -> None:
    assert operation.body["x-audit"] in ACTIONS
    roles = operation.body["x-roles"]
    assert roles and set(roles) <= ROLES[operation.side] and len(roles) == len(set(roles))
    assert operation.body["security"] == ([] if roles == ["public"] else [{"bearer": []}])
    assert "public" not in roles or roles == ["public"]
    assert {"summary", "description", "tags"} <= set(operation.body)


@each_operation
def test_only_the_delivery_plane_moves_documents(operation: Operation) -> None:
    """Every path that answers with a document's bytes is delivery's, so no other code can reach them."""
    content = operation.body["responses"]["200"].get("content", {}) if "200" in operation.body["responses"] else {}
    if "application/pdf" in content or "application/pdf" in operation.body.get("requestBody", {}).get("content", {}):
        assert operation.item.get("x-plane") == "delivery"
        assert operation.body["x-audit"] in {"read", "put"}
    assert operation.item.get("x-plane", "delivery") == "delivery"


@each_operation
def test_problem_responses(operation: Operation) -> None:
    responses = operation.body["responses"]
    expected = {"400", "429", "431", "503"}
    if operation.body["x-roles"] != ["public"]:
        expected |= {"401", "403"}
    if "requestBody" in operation.body:
        expected |= {"408", "413", "415"}
    if any(parameter["in"] == "path" for parameter in parameters_of(operation)):
        expected |= {"404"}
    assert expected <= set(responses)
    for status, response in responses.items():
        if int(status) < 400 or operation.method == "head":
            continue
        token_endpoint_error = operation.body["operationId"] == "issue_token" and status in {"400", "401"}
        assert token_endpoint_error or "application/problem+json" in response["content"], status


@each_operation
def test_examples_fit_their_schemas(operation: Operation) -> None:
    for where, media_type, media in media_of(operation):
        for example in examples_of(media):
            require_fits(media["schema"], example, f"{where} {media_type}")
    for parameter in parameters_of(operation):
        for example in examples_of(parameter):
            require_fits(parameter["schema"], example, f"parameter {parameter['name']}")
    for status, response in operation.body["responses"].items():
        for name, header in response.get("headers", {}).items():
            for example in examples_of(header):
                require_fits(header["schema"], example, f"header {name} of {status}")


@each_operation
def test_every_json_body_has_an_example(operation: Operation) -> None:
    if operation.item.get("x-plane") == "delivery" and operation.method in {"get", "put", "head"}:
        media = [row for row in media_of(operation) if row[2]["schema"].get("required")]
    else:
        media = list(media_of(operation))
    for where, media_type, body in media:
        if where == "request" or int(where) < 400:
            assert list(examples_of(body)), f"{where} {media_type}"


@each_operation
def test_what_comes_in_is_bounded(operation: Operation) -> None:
    for parameter in parameters_of(operation):
        require_bounded(parameter["schema"], parameter["name"])
    for media_type, media in operation.body.get("requestBody", {}).get("content", {}).items():
        if media["schema"].get("format") == "binary" or media["schema"] == {}:
            assert operation.item.get("x-plane") == "delivery"
            continue
        for schema in schemas_in(media["schema"]):
            require_bounded(schema, media_type)


def require_bounded(schema: dict[str, Any], where: str) -> None:
    """Strings have a length and a form, numbers and lists an end, objects no unnamed members without a count."""
    kind = schema.get("type")
    if kind == "string":
        assert "enum" in schema or {"maxLength", "pattern"} <= set(schema), f"{where}: {schema}"
    if kind == "integer":
        assert {"minimum", "maximum"} <= set(schema), f"{where}: {schema}"
    if kind == "array":
        assert "maxItems" in schema, f"{where}: {schema}"
    if kind == "object":
        assert schema.get("additionalProperties") is False or "maxProperties" in schema, f"{where}: {schema}"


@each_operation
def test_patterns_are_anchored_ascii(operation: Operation) -> None:
    """A pattern is a search, so one without both anchors lets everything through; ``\\d`` would take Thai digits."""
    schemas = [schema for _, _, media in media_of(operation) for schema in schemas_in(media["schema"])]
    for schema in [*schemas, *(parameter["schema"] for parameter in parameters_of(operation))]:
        pattern = schema.get("pattern", "^$")
        assert pattern.startswith("^") and pattern.endswith("$") and "\\d" not in pattern and "\\w" not in pattern
        re.compile(pattern)


def test_problem_examples_agree_with_the_table() -> None:
    table = {PROBLEM_BASE + row.slug: (row.status, row.title) for row in problem_types()}
    seen = 0
    for operation in OPERATIONS:
        for status, media_type, media in media_of(operation):
            for example in examples_of(media) if media_type == "application/problem+json" else ():
                assert table[example["type"]] == (example["status"], example["title"])
                assert str(example["status"]) == status
                seen += 1
    assert seen


def test_the_contract_agrees_with_the_code() -> None:
    holders = yaml.safe_load((ROOT / "components" / "holders.yaml").read_text())
    consents = yaml.safe_load((ROOT / "components" / "consents.yaml").read_text())
    identifiers = yaml.safe_load((ROOT / "components" / "identifiers.yaml").read_text())
    assert tuple(holders["Scheme"]["enum"]) == SCHEMES
    assert tuple(consents["Purpose"]["properties"]["code"]["enum"]) == PURPOSES
    assert identifiers["DocumentURI"]["maxLength"] == MAX_URI
    assert holders["SealedValue"]["maxLength"] == MAX_SEALED


def test_a_broken_reference_is_found(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("paths:\n  /a:\n    $ref: paths/a.yaml\n")
    with pytest.raises(AssertionError, match="no such file"):
        Bundle(tmp_path, "node.yaml")
