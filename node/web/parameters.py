"""Checks of path, query, header and cookie parameters that do not repeat what was sent."""

from typing import Any

from connexion.utils import is_null, is_nullable
from connexion.validators.parameter import ParameterValidator
from jsonschema import Draft4Validator

from node.contract.problems import BadRequest

_compiled: dict[int, tuple[Any, Draft4Validator]] = {}
_MOST_COMPILED = 4096


class MaskedParameterValidator(ParameterValidator):  # type: ignore[misc]  # Connexion has no annotations
    """Connexion's parameter checks with the name of the parameter as the whole of the message.

    The schema of each parameter is compiled once: doing it at each request costs an eighth of a small request.
    """

    @staticmethod
    def validate_parameter(kind: str, value: Any, parameter: dict[str, Any], param_name: str | None = None) -> None:
        """Raise BadRequest when the value does not fit."""
        name = param_name or parameter["name"]
        if value is None:
            if parameter.get("required"):
                raise BadRequest(f"The {kind} parameter '{name}' is missing", reason="missing-parameter")
            return
        if is_nullable(parameter) and is_null(value):
            return
        if not compiled(parameter.get("schema", parameter)).is_valid(value):
            raise BadRequest(
                f"The {kind} parameter '{name}' has a value that is not allowed here", reason="bad-parameter"
            )


def compiled(schema: dict[str, Any]) -> Draft4Validator:
    """Return the validator of a schema, made at the first call for it."""
    known = _compiled.get(id(schema))
    if known is None or known[0] is not schema:
        if len(_compiled) >= _MOST_COMPILED:
            _compiled.clear()
        known = _compiled[id(schema)] = (schema, Draft4Validator(schema, format_checker=Draft4Validator.FORMAT_CHECKER))
    return known[1]
