"""Requests made from a specification alone, sent as each role, and the answers held against it."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from node.web.specification import METHODS, load_specification

CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
REJECTION = [*CONFORMANCE, negative_data_rejection]
TEXTS = ("application/jwt", "application/x-ndjson", "text/csv")


@schemathesis.serializer("application/pdf", "image/png", "image/jpeg")
def write_document(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """Documents are sent as the bytes that they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/json", *TEXTS)
def read_answer(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """Read an answer as its schema means it. Schemathesis takes ``application/jwt`` for JSON, so JSON is read here as well."""
    [media_type] = response.headers["content-type"]
    text = response.content.decode("utf-8")
    return text if media_type.partition(";")[0] in TEXTS else json.loads(text)


@cache
def operations(side: str) -> dict[str, APIOperation]:
    """The operations of one contract by their identifier.

    Without their security: the walk sends credentials itself, so a request made without one would not be as unfit as it is said
    to be.
    """
    contract = load_specification(resources.files("openapi"), f"{side}.yaml")
    for item in contract["paths"].values():
        for method in METHODS:
            item.get(method, {}).pop("security", None)
    listed = [found.ok() for found in schemathesis.openapi.from_dict(contract).get_all_operations()]
    return {operation.definition.raw["operationId"]: operation for operation in listed}


def _is_sent(case: Case) -> bool:
    """Whether all of a query goes onto the wire: an empty list or object does not, and nobody can refuse it there."""
    return not any(value in ([], {}, None) for value in (case.query or {}).values())


def cases(operation: APIOperation, known: Mapping[str, list[Any]]) -> st.SearchStrategy[tuple[Case, list[Any]]]:
    """Requests, each with the checks of its answer: that fit the contract, that do not, and about what is really there.

    ``known`` gives values for parameters by name, and under ``body`` media types with bodies: from a pattern alone a request would
    only ever find nothing.
    """
    fitting = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    unfit = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE).filter(_is_sent)
    modes = [st.tuples(fitting, st.just(CONFORMANCE)), st.tuples(unfit, st.just(REJECTION))]
    declared = {parameter.name: parameter.location.value for parameter in operation.iter_parameters()}
    named = {name: st.sampled_from(values) for name, values in known.items() if name in declared}
    if operation.body and "body" in known:
        named["body"] = st.sampled_from(known["body"])
    if not named:
        return st.one_of(modes)
    aimed = st.builds(_aimed, fitting, st.just(declared), st.fixed_dictionaries(named), st.booleans())
    return st.one_of(st.tuples(aimed, st.just(CONFORMANCE)), *modes)


def _aimed(case: Case, declared: Mapping[str, str], known: Mapping[str, Any], bare: bool) -> Case:
    """Put in what is known; a bare request has no other headers and no other query."""
    if bare:
        case.headers, case.query = CaseInsensitiveDict(), {}
    for name, value in known.items():
        if name == "body":
            case.media_type, case.body = value
        else:
            place = {"path": "path_parameters", "query": "query", "header": "headers"}[declared[name]]
            getattr(case, place)[name] = value
    return case


def walk(
    operation: APIOperation,
    *,
    url: str,
    roles: Iterable[str],
    bearer: Callable[[str, Any], str],
    known: Mapping[str, list[Any]],
    examples: int,
) -> set[int]:
    """Send requests as nobody, as each role that may, and as one that may not, and check every answer.

    Returns the statuses that were seen. "Not ready" is a truthful answer of readiness, and no fault of the server.
    """
    seen: set[int] = set()
    declared = operation.definition.raw
    permitted = [role for role in roles if role in declared["x-roles"]]
    others = [role for role in roles if role not in permitted][:1]
    allowed = {None} if declared["x-roles"] == ["public"] else set(permitted)
    truthful = {not_a_server_error} if declared["operationId"] == "get_readiness" else set()

    with requests.Session() as session:

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(made=cases(operation, known))
        def ask(made: tuple[Case, list[Any]]) -> None:
            case, checks = made
            for role in (None, *permitted, *others):
                headers = {"Authorization": f"Bearer {bearer(role, case.body)}"} if role else {}
                answer = case.call(base_url=url, session=session, headers=headers)
                held = checks if role in allowed else CONFORMANCE
                case.validate_response(answer, checks=[check for check in held if check not in truthful])
                seen.add(answer.status_code)

        ask()
    return seen
