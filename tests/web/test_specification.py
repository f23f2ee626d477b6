"""Bundling of OpenAPI files from their parts, the planes and the declarations."""

import json
import textwrap

import pytest
from connexion.spec import Specification

from node.web.specification import (
    SpecificationError,
    allowed_methods,
    load_specification,
    operations,
    require_declarations,
    split_planes,
)

FILES = {
    "node.yaml": """
        openapi: 3.0.3
        info: {title: t, version: "1"}
        components:
          securitySchemes: {$ref: components/security.yaml}
          schemas:
            Renamed: {$ref: "components/schemas.yaml#/Holder"}
            Local: {type: object, properties: {self: {$ref: "#/components/schemas/Local"}}}
        paths:
          /v1/documents/{uri}: {$ref: paths/document.yaml}
          /v1/tree: {$ref: "paths/tree.yaml"}
    """,
    "components/security.yaml": """
        token: {type: http, scheme: bearer}
    """,
    "components/schemas.yaml": """
        Holder:
          type: object
          properties: {value: {type: string}, since: {type: string, format: date, example: 2026-11-25}}
        Tree:
          type: object
          properties:
            holder: {$ref: "#/Holder"}
            children: {type: array, items: {$ref: "#/Tree"}}
            other: {$ref: "other.yaml#/Tree"}
    """,
    "components/other.yaml": """
        Tree: {type: string, enum: [none, 2026-01-01]}
    """,
    "components/parameters.yaml": """
        URI: {name: uri, in: path, required: true, schema: {$ref: "schemas.yaml#/Holder/properties/value"}}
    """,
    "components/responses.yaml": """
        Problem:
          description: wrong
          content: {application/problem+json: {schema: {$ref: "schemas.yaml#/Tree"}}}
    """,
    "paths/document.yaml": """
        x-plane: delivery
        parameters: [{$ref: ../components/parameters.yaml#/URI}]
        get:
          operationId: get_document
          x-audit: read
          x-roles: [requester, resident]
          responses:
            200: {description: ok}
            404: {$ref: ../components/responses.yaml#/Problem}
    """,
    "paths/tree.yaml": """
        post:
          operationId: post_tree
          x-audit: none
          x-roles: [operator]
          requestBody:
            required: true
            content:
              application/json:
                schema: {$ref: ../components/schemas.yaml#/Tree}
                example: {$ref: ../examples/tree.json}
          responses:
            200: {description: ok, content: {application/json: {schema: {$ref: ../components/schemas.yaml#/Holder}}}}
    """,
    "examples/tree.json": '{"holder": {"value": "x"}, "children": []}',
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


@pytest.fixture
def bundled(folder):
    return load_specification(folder, "node.yaml")


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_one_document_in_which_every_reference_is_local_and_leads_somewhere(bundled):
    json.dumps(bundled)
    for reference in references(bundled):
        found = bundled
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert isinstance(found, dict)
        assert found.get("$ref") != reference


def test_connexion_takes_it(bundled):
    Specification.from_dict({**bundled, "paths": {}})


def test_each_part_is_a_component_once_under_its_own_name(bundled):
    schemas = bundled["components"]["schemas"]
    assert set(schemas) == {"Renamed", "Local", "Tree", "other_Tree", "value"}
    assert schemas["Renamed"]["properties"]["value"] == {"type": "string"}
    assert schemas["Tree"]["properties"]["holder"] == {"$ref": "#/components/schemas/Renamed"}
    assert schemas["Tree"]["properties"]["children"]["items"] == {"$ref": "#/components/schemas/Tree"}
    assert schemas["Tree"]["properties"]["other"] == {"$ref": "#/components/schemas/other_Tree"}
    assert schemas["Local"]["properties"]["self"] == {"$ref": "#/components/schemas/Local"}
    assert bundled["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert set(bundled["components"]["parameters"]) == {"URI"}
    assert set(bundled["components"]["responses"]) == {"Problem"}


def test_dates_stay_text_examples_are_put_in_and_keys_are_text(bundled):
    schemas = bundled["components"]["schemas"]
    assert schemas["Renamed"]["properties"]["since"]["example"] == "2026-11-25"
    assert schemas["other_Tree"]["enum"] == ["none", "2026-01-01"]
    post = bundled["paths"]["/v1/tree"]["post"]
    assert post["requestBody"]["content"]["application/json"]["example"]["holder"] == {"value": "x"}
    assert "200" in post["responses"]


def test_planes(bundled):
    control, delivery = split_planes(bundled)
    assert list(control["paths"]) == ["/v1/tree"]
    assert [(route.method, route.path, route.operation_id) for route in delivery] == [
        ("GET", "/v1/documents/{uri}", "get_document")
    ]
    assert "/v1/documents/{uri}" in bundled["paths"]


def test_operations_carry_their_declarations(bundled):
    first, second = operations(bundled)
    assert (first.roles, first.audit) == (("requester", "resident"), "read")
    assert (second.method, second.operation_id, second.audit) == ("POST", "post_tree", "none")


@pytest.mark.parametrize("key", ["operationId", "x-audit", "x-roles"])
def test_a_missing_declaration_is_named(bundled, key):
    del bundled["paths"]["/v1/tree"]["post"][key]
    with pytest.raises(SpecificationError, match=f"POST /v1/tree has no {key}"):
        require_declarations(bundled)


def test_a_taken_operation_id_is_named(bundled):
    bundled["paths"]["/v1/tree"]["post"]["operationId"] = "get_document"
    with pytest.raises(SpecificationError, match="operationId of another"):
        require_declarations(bundled)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("paths/tree.yaml", "post: {$ref: missing.yaml}", "no file paths/missing.yaml"),
        (
            "paths/tree.yaml",
            "parameters: [{$ref: ../components/parameters.yaml#/No}]",
            "parameters.yaml#/No, which is not there",
        ),
        ("paths/tree.yaml", "post: {$ref: ../../outside.yaml}", "outside"),
        ("paths/tree.yaml", "$ref: tree.yaml", "refers to itself"),
        ("paths/tree.yaml", "a: [", "is not YAML"),
        ("node.yaml", "openapi: 3.0.3", "has no paths"),
    ],
)
def test_broken_files_are_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(SpecificationError, match=message):
        load_specification(folder, "node.yaml")


def test_allowed_methods(bundled):
    listed = operations(bundled)
    assert allowed_methods(listed, "/v1/documents/a-b-c") == ("GET", "HEAD")
    assert allowed_methods(listed, "/v1/tree") == ("POST",)
    assert allowed_methods(listed, "/v1/documents/a/b") == ()
