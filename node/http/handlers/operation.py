"""The node itself: descriptor, keys, health, counts, metrics, contract."""

from connexion.lifecycle import ConnexionResponse

from node.contract.times import SECOND, format_time
from node.http.calls import Call
from node.http.handlers.answers import json_answer, text_answer
from node.http.ports import ControlServices, ReadinessCheck
from node.services.access import TokenScope

VERSIONS = ("v1",)


class OperationHandlers:
    """Answers what is asked about the node."""

    def __init__(self, services: ControlServices, specification: bytes) -> None:
        """``specification`` is the whole contract as JSON, both planes included."""
        self._identity = services.identity
        self._catalogue = services.catalogue
        self._readiness = services.readiness
        self._counts = services.counts
        self._metrics = services.metrics
        self._clock = services.clock
        self._specification = specification

    def get_node_descriptor(self, call: Call) -> ConnexionResponse:
        """Describe the node, its issuers and where its keys are."""
        identity = self._identity
        types: dict[str, list[str]] = {}
        for record in self._catalogue.doc_types():
            types.setdefault(record.issuer.lower(), []).append(record.doc_type)
        return json_answer(
            {
                "node_id": identity.node_id,
                "name": identity.name,
                "base_url": identity.base_url,
                "exposure": "gateway-only" if identity.gateway_only else "direct",
                "issuers": [
                    {"issuer": issuer, "name": name, "doc_types": types.get(issuer.lower(), [])}
                    for issuer, name in self._catalogue.issuer_names().items()
                ],
                "jwks_uri": f"{identity.base_url}/.well-known/jwks.json",
                "encryption_keys": [dict(key) for key in identity.encryption_keys],
                "versions": list(VERSIONS),
            }
        )

    def get_jwks(self, call: Call) -> ConnexionResponse:
        """Publish the signing keys."""
        return json_answer(dict(self._identity.jwks))

    def get_health(self, call: Call) -> ConnexionResponse:
        """Tell that the process is alive."""
        return json_answer({"status": "ok"})

    def get_readiness(self, call: Call) -> ConnexionResponse:
        """Tell whether everything that serving needs is there."""
        checks = self._readiness()
        ready = all(check.ok for check in checks)
        body = {"status": "ready" if ready else "not-ready", "checks": [_check(check) for check in checks]}
        return json_answer(body, status=200 if ready else 503)

    def get_counts(self, call: Call) -> ConnexionResponse:
        """Count documents and reads of what the token covers."""
        now_us = self._clock()
        counts = self._counts(now_us)
        scope = call.principal.token.scope
        issuers = {issuer.lower(): issuer for issuer in self._catalogue.directory()}
        types = {
            (record.issuer.lower(), record.doc_type.lower()): record.doc_type for record in self._catalogue.doc_types()
        }

        def named(issuer_key: str, doc_type_key: str) -> dict[str, str]:
            doc_type = types.get((issuer_key, doc_type_key), doc_type_key)
            return {"issuer": issuers.get(issuer_key, issuer_key), "doc_type": doc_type}

        return json_answer(
            {
                "as_of": format_time(now_us),
                "documents": [
                    {**named(*key), "count": count} for key, count in counts.documents.items() if _covers(scope, *key)
                ],
                "reads": [
                    {
                        "day": format_time(row.day_us)[:10],
                        **named(row.issuer_key, row.doc_type_key),
                        "outcome": row.outcome,
                        "count": row.count,
                    }
                    for row in counts.reads
                    if _covers(scope, row.issuer_key, row.doc_type_key)
                ],
                "outbox": {
                    "waiting": counts.waiting,
                    "lag_seconds": max(0, now_us - counts.oldest_us) // SECOND if counts.oldest_us is not None else 0,
                },
            }
        )

    def get_metrics(self, call: Call) -> ConnexionResponse:
        """Give the Prometheus page."""
        page, content_type = self._metrics()
        return text_answer(page, content_type)

    def get_specification(self, call: Call) -> ConnexionResponse:
        """Publish the whole contract."""
        return text_answer(self._specification, "application/json", headers={"Cache-Control": "public, max-age=300"})


def _check(check: ReadinessCheck) -> dict[str, str]:
    return {"name": check.name, "result": "ok" if check.ok else "failed", "detail": check.detail[:500]}


def _covers(scope: TokenScope, issuer_key: str, doc_type_key: str) -> bool:
    issuers = [issuer.lower() for issuer in scope.issuers]
    doc_types = [doc_type.lower() for doc_type in scope.doc_types]
    return (not issuers or issuer_key in issuers) and (not doc_types or doc_type_key in doc_types)
