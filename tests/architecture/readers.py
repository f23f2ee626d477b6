"""Who may call what, written by hand from the design's table of readers, and apart from what the contracts declare.

Of the access log: the public reads descriptor and keys; a resident and a requester their own rows; a department's auditor the rows
of its issuers, by scope; the operator counts and health, and no person's documents; a locker's staff none of it.
"""

PUBLIC = frozenset({"public"})


def only(*roles: str) -> frozenset[str]:
    return frozenset(roles)


NODE_READERS = {
    ("GET", "/v1/documents"): only("operator"),
    ("GET", "/v1/documents/{uri}"): only("ticket", "operator"),
    ("HEAD", "/v1/documents/{uri}"): only("ticket", "operator"),
    ("PUT", "/v1/documents/{uri}"): only("operator"),
    ("GET", "/v1/documents/{uri}/metadata"): only("ticket", "operator", "auditor"),
    ("PATCH", "/v1/documents/{uri}/metadata"): only("operator"),
    ("GET", "/v1/documents/{uri}/status"): only("ticket", "operator", "auditor"),
    ("PUT", "/v1/documents/{uri}/status"): only("operator"),
    ("GET", "/v1/doc-types"): PUBLIC,
    ("POST", "/v1/pulls"): only("locker"),
    ("POST", "/v1/holders/lookup"): only("auditor"),
    ("GET", "/v1/access-log"): only("auditor", "log-grant"),
    ("GET", "/v1/counts"): only("operator", "monitor"),
    ("GET", "/.well-known/federated-locker"): PUBLIC,
    ("GET", "/.well-known/jwks.json"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): only("operator", "monitor"),
    ("GET", "/v1/openapi.json"): PUBLIC,
}

LOCKER_READERS = {
    ("POST", "/v1/oauth/token"): PUBLIC,
    ("POST", "/v1/registrations"): PUBLIC,
    ("GET", "/v1/registrations/{node_id}"): only("node"),
    ("POST", "/v1/push"): only("node"),
    ("GET", "/v1/links"): only("node"),
    ("GET", "/v1/issuers"): PUBLIC,
    ("GET", "/v1/issuers/{issuer}/doc-types"): PUBLIC,
    ("POST", "/v1/resolve"): only("requester"),
    ("GET", "/v1/gateway/documents/{uri}"): only("requester"),
    ("HEAD", "/v1/gateway/documents/{uri}"): only("requester"),
    ("GET", "/v1/residents/me/documents"): only("resident"),
    ("GET", "/v1/residents/me/documents/{uri}"): only("resident"),
    ("HEAD", "/v1/residents/me/documents/{uri}"): only("resident"),
    ("POST", "/v1/residents/me/tickets"): only("resident"),
    ("POST", "/v1/residents/me/pulls"): only("resident"),
    ("GET", "/v1/residents/me/activity"): only("resident"),
    ("GET", "/v1/consents"): only("resident", "requester", "auditor"),
    ("POST", "/v1/consents"): only("resident"),
    ("GET", "/v1/consents/{consent_id}"): only("resident", "requester", "auditor"),
    ("POST", "/v1/consents/{consent_id}/narrow"): only("resident"),
    ("POST", "/v1/consents/{consent_id}/revoke"): only("resident"),
    ("GET", "/v1/consents/{consent_id}/artefact"): only("resident", "requester", "auditor"),
    ("GET", "/v1/consents/{consent_id}/events"): only("resident", "requester", "auditor"),
    ("GET", "/v1/revocations/latest"): PUBLIC,
    ("GET", "/v1/revocations/{sequence}"): PUBLIC,
    ("GET", "/v1/ticket-records"): only("auditor"),
    ("GET", "/v1/attempts"): only("auditor"),
    ("POST", "/v1/log-grants"): only("resident", "requester"),
    ("GET", "/.well-known/federated-locker"): PUBLIC,
    ("GET", "/.well-known/jwks.json"): PUBLIC,
    ("GET", "/.well-known/revoked-keys"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): only("operator"),
    ("GET", "/v1/openapi.json"): PUBLIC,
}
