"""Descriptor, keys, health, metrics, the contract itself."""

from collections.abc import Callable, Mapping
from typing import Any

import flask
from prometheus_client import CollectorRegistry

from locker.http.handlers.answers import JWT, Answer
from locker.key_publication import KeyPublication
from locker.services.readiness import Check
from node.web.metrics import render_metrics

_PUBLIC_MINUTE = {"Cache-Control": "public, max-age=60"}


class OperationHandlers:
    """What operators and machines ask of the service itself."""

    def __init__(
        self,
        *,
        iss: str,
        name: str,
        keys: KeyPublication,
        specification: Mapping[str, Any],
        registry: CollectorRegistry,
        checks: Callable[[], list[Check]],
    ) -> None:
        self._iss = iss
        self._name = name
        self._keys = keys
        self._specification = specification
        self._registry = registry
        self._checks = checks

    def get_locker_descriptor(self) -> Answer:
        """Say who this locker is and where everything is."""
        paths = {
            "token": "/v1/oauth/token", "registrations": "/v1/registrations", "push": "/v1/push",
            "issuers": "/v1/issuers", "resolve": "/v1/resolve", "gateway": "/v1/gateway/documents",
            "consents": "/v1/consents", "revocations": "/v1/revocations", "log_grants": "/v1/log-grants",
            "links": "/v1/links",
        }  # fmt: skip
        document = {
            "iss": self._iss, "name": self._name, "jwks_uri": f"{self._iss}/.well-known/jwks.json",
            **self._keys.described(),
            "endpoints": {name: self._iss + path for name, path in paths.items()}, "versions": ["v1"],
        }  # fmt: skip
        return document, 200, _PUBLIC_MINUTE

    def get_jwks(self) -> Answer:
        """Publish the signing keys; what holders' values are sealed to is in the descriptor."""
        return self._keys.jwks(), 200, _PUBLIC_MINUTE

    def get_revoked_keys(self) -> Answer:
        """Publish the list of keys that the offline root has revoked."""
        return self._keys.revoked_keys(), 200, {**JWT, "Cache-Control": "no-cache"}

    def get_health(self) -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    def get_readiness(self) -> Answer:
        """Look at every dependency."""
        checks = self._checks()
        ready = all(check.ok for check in checks)
        rows = [
            {"name": check.name, "result": "ok" if check.ok else "failed", "detail": check.detail} for check in checks
        ]
        return {"status": "ready" if ready else "not-ready", "checks": rows}, 200 if ready else 503, {}

    def get_metrics(self) -> flask.Response:
        """Give the metrics in Prometheus' text format, whose media type carries a version that Connexion would not let pass."""
        page, media_type = render_metrics(self._registry)
        return flask.Response(page, 200, {"Content-Type": media_type})

    def get_specification(self) -> Answer:
        """Publish the contract, both planes included."""
        return dict(self._specification), 200, _PUBLIC_MINUTE
