"""The access log as its readers may see it (design section 5, table of readers)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from connexion.lifecycle import ConnexionResponse

from node.contract.problems import BadRequest, DocumentNotFound, Forbidden, MalformedURI, NotAcceptable
from node.contract.times import parse_date, parse_time, start_of_day
from node.contract.uri import DocumentURI
from node.db.audit_log import LogFilter, LogRow
from node.http.calls import Call
from node.http.handlers.answers import JSON, json_answer, text_answer
from node.http.log_rows import FIRST_POSITION, shown_row
from node.http.log_tables import csv_page, ndjson_page
from node.http.ports import ControlServices
from node.http.principals import LogGrant
from node.services.access import TokenScope
from node.web.negotiation import choose

NDJSON = "application/x-ndjson"
CSV = "text/csv"
PATH = "/v1/access-log"


class AccessLogHandlers:
    """Answers queries of the log: an auditor the rows within the token's scope, others their own."""

    def __init__(self, services: ControlServices) -> None:
        self._log = services.log
        self._catalogue = services.catalogue

    def query_access_log(self, call: Call, limit: int, **filters: Any) -> ConnexionResponse:
        """Return one page in the form that Accept asks for; the query is itself a row."""
        media_type = _negotiated(call.accept)
        call.fields.update(self._asked(filters))
        grant = call.principal.log_grant
        wanted = _own(_wanted(filters), grant) if grant else _scoped(_wanted(filters), call.principal.token.scope)
        rows = self._log.log_rows(wanted, limit)
        events = self._visible(rows, call)
        call.fields["rows"] = len(events)
        after = rows[-1].position + FIRST_POSITION if len(rows) == limit else None
        return _page(media_type, events, after, {**filters, "limit": limit})

    def _asked(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the query's own row says of its filters; one about a document or resident is found with their rows."""
        asked = {name: str(value) for name, value in filters.items() if name not in ("uri", "holder_ref", "after")}
        fields: dict[str, Any] = {"filter": asked or None, "holder_ref": filters.get("holder_ref")}
        if "uri" in filters:
            fields["uri"] = filters["uri"]
            uri = self._parsed(filters["uri"])
            fields.update(issuer=uri.issuer if uri else None, doc_type=uri.doc_type if uri else None)
        return fields

    def _parsed(self, uri_text: str) -> DocumentURI | None:
        try:
            return DocumentURI.parse(uri_text, self._catalogue.directory())
        except (MalformedURI, DocumentNotFound):
            return None

    def _visible(self, rows: Sequence[LogRow], call: Call) -> list[dict[str, Any]]:
        events = [(row.position, row.event) for row in rows]
        grant = call.principal.log_grant
        if grant is None:
            allows = self._office_filter(call.principal.token.scope, [event for _, event in events])
            return [shown_row(position, event) for position, event in events if allows(event)]
        if grant.client_id is not None:
            # Requesters' names are a locker's own: two lockers may each have one of this name.
            return [shown_row(position, event) for position, event in events if _is_of_locker(event, grant.scope.iss)]
        own = [(position, event) for position, event in events if not _is_of_another_locker(event, grant.scope.iss)]
        return [_without_others(shown_row(position, event)) for position, event in own]

    def _office_filter(
        self, scope: TokenScope, events: Sequence[Mapping[str, Any]]
    ) -> Callable[[Mapping[str, Any]], bool]:
        """Return a test of rows for a token limited to an office: what the row's document says now."""
        if scope.office is None:
            return lambda event: True
        keys = {str(event["uri"]).lower() for event in events if event.get("uri")}
        offices = {key: document.office for key, document in self._log.documents(keys).items()}
        return lambda event: offices.get(str(event.get("uri", "")).lower()) == scope.office


def _wanted(filters: Mapping[str, Any]) -> LogFilter:
    uri = filters.get("uri")
    return LogFilter(
        uri_key=uri.lower() if uri else None,
        holder_ref=filters.get("holder_ref"),
        client_id=filters.get("client_id"),
        consent_id=filters.get("consent_id"),
        action=filters.get("action"),
        outcome=filters.get("outcome"),
        from_us=_moment(filters, "from"),
        until_us=_moment(filters, "to"),
        after=filters.get("after", 0) - FIRST_POSITION,
    )


def _moment(filters: Mapping[str, Any], name: str) -> int | None:
    try:
        return parse_time(filters[name]) if name in filters else None
    except (ValueError, OverflowError):
        raise BadRequest(f"The query parameter '{name}' is not a time", reason="bad-parameter") from None


def _own(wanted: LogFilter, grant: LogGrant) -> LogFilter:
    """Limit a query to the rows that a log grant is for, among those of issuers and types that its locker serves here.

    Raises Forbidden for a filter that asks for somebody else's.
    """
    own = grant.holder_ref
    foreign_client = grant.client_id is not None and wanted.client_id not in (None, grant.client_id)
    if foreign_client or (own and wanted.holder_ref not in (None, own)):
        raise Forbidden("A log grant is for one's own rows", reason="not-own-rows")
    return replace(
        wanted, client_id=grant.client_id or wanted.client_id, holder_ref=own or wanted.holder_ref,
        holder_iss=grant.scope.iss if own else None,
        issuers=_keys(grant.scope.issuers), doc_types=_keys(grant.scope.doc_types),
    )  # fmt: skip


def _scoped(wanted: LogFilter, scope: TokenScope) -> LogFilter:
    """Limit a query to what a token covers: issuers, types, and the days of its period, the last one included."""
    from_us, until_us = wanted.from_us, wanted.until_us
    if scope.from_date is not None:
        first = start_of_day(parse_date(scope.from_date))
        from_us = first if from_us is None else max(from_us, first)
    if scope.until_date is not None:
        end = start_of_day(parse_date(scope.until_date) + timedelta(days=1))
        until_us = end if until_us is None else min(until_us, end)
    return replace(
        wanted, from_us=from_us, until_us=until_us, issuers=_keys(scope.issuers), doc_types=_keys(scope.doc_types)
    )  # fmt: skip


def _keys(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


def _is_of_locker(event: Mapping[str, Any], iss: str) -> bool:
    principal = event.get("principal")
    return isinstance(principal, dict) and principal.get("iss") == iss


def _is_of_another_locker(event: Mapping[str, Any], iss: str) -> bool:
    """Tell whether somebody read under a ticket of another locker, whose references mean nothing at this one."""
    principal = event.get("principal")
    return isinstance(principal, dict) and principal.get("iss") not in (None, iss)


def _without_others(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the reader's network address: residents see who read, not from where."""
    return {name: value for name, value in row.items() if name != "source"}


def _negotiated(accept: str | None) -> str:
    offers = (JSON, NDJSON, CSV)
    chosen = choose([(offer, None) for offer in offers], accept, None)
    if chosen is None:
        raise NotAcceptable("The access log is available as JSON, NDJSON and CSV")
    return offers[chosen]


def _page(
    media_type: str, rows: Sequence[dict[str, Any]], after: int | None, query: Mapping[str, Any]
) -> ConnexionResponse:
    headers = {"Vary": "Accept"}
    if after is not None:
        headers["Link"] = f'<{PATH}?{urlencode({**query, "after": after})}>; rel="next"'
    if media_type == JSON:
        return json_answer({"rows": rows, "next_after": after}, headers=headers)
    if media_type == NDJSON:
        return text_answer(ndjson_page(rows), NDJSON, headers=headers)
    return text_answer(csv_page(rows), "text/csv; charset=utf-8; header=present", headers=headers)
