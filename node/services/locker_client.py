"""Talking to a locker: answers read with care, access tokens obtained with the node's client key and kept while they are good."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

from node.contract.records import ASSERTION_TYPE, client_assertion
from node.contract.signing import SigningKey
from node.contract.times import SECOND

MOST_DESCRIPTOR_BYTES = 256 * 1024
MOST_ANSWER_BYTES = 1024 * 1024
RENEW_BEFORE = 30 * SECOND

_FORM = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
_ASK_JSON = {"accept": "application/json"}
_SEND_JSON = {**_ASK_JSON, "content-type": "application/json"}


class Response(Protocol):
    """An answer with its whole content."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def content(self) -> bytes:
        """The body."""


class HttpClient(Protocol):
    """Sends requests to outside addresses; its errors are ProblemErrors."""

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        most_bytes: int | None = None,
    ) -> Response:
        """Send a request and return the answer, at most ``most_bytes`` of it; an error status is an answer."""


class LockerEndpoints(Protocol):
    """A locker, as far as its addresses go."""

    @property
    def iss(self) -> str:
        """Its issuer name."""

    @property
    def endpoints(self) -> Mapping[str, str]:
        """Addresses by the names that the locker's descriptor has for them."""


class LockerFault(Exception):
    """A locker gave an answer that cannot be used, or refused; ``status`` and ``problem`` are its own when it sent them."""

    def __init__(self, text: str, *, status: int | None = None, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.problem: Mapping[str, Any] = problem or {}


class LockerClient:
    """Requests to lockers in this node's name; safe to use from several threads."""

    def __init__(self, http: HttpClient, *, node_id: str, key: SigningKey, clock: Callable[[], int]) -> None:
        """``key`` is the one for client authentication, ``node_id`` the client id."""
        self._http = http
        self._node_id = node_id
        self._key = key
        self._clock = clock
        self._tokens: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()

    def fetch(self, url: str, *, accept: str, most_bytes: int) -> bytes | None:
        """Return what is published at an address, None when there is nothing; raises LockerFault or the client's errors."""
        response = self._http.request("GET", url, headers={"accept": accept}, most_bytes=most_bytes)
        if response.status == 404:
            return None
        if response.status != 200:
            raise LockerFault(f"the locker answered with status {response.status}", status=response.status)
        return response.content

    def fetch_json(self, url: str) -> dict[str, Any]:
        """Return the JSON object published at an address; raises LockerFault."""
        content = self.fetch(url, accept="application/json", most_bytes=MOST_DESCRIPTOR_BYTES)
        if content is None:
            raise LockerFault("the locker publishes nothing at one of its addresses", status=404)
        return read_object(content)

    def send(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST a JSON body without a credential and return the answer; raises LockerFault."""
        content = json.dumps(body).encode("ascii")
        return _answer(self._http.request("POST", url, headers=_SEND_JSON, content=content))

    def call(
        self, locker: LockerEndpoints, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request with an access token; a token that is not taken any more is replaced once. Raises LockerFault."""
        content = None if body is None else json.dumps(body).encode("ascii")
        response = self._authorized(locker, method, url, content)
        if response.status == 401:
            self.forget_token(locker.iss)
            response = self._authorized(locker, method, url, content)
        if response.status in (401, 403):
            self.forget_token(locker.iss)
        return _answer(response)

    def forget_token(self, iss: str) -> None:
        """Get a new access token for the next request to a locker, because what the node may do has changed."""
        with self._lock:
            self._tokens.pop(iss, None)

    def _authorized(self, locker: LockerEndpoints, method: str, url: str, content: bytes | None) -> Response:
        base = _ASK_JSON if content is None else _SEND_JSON
        headers = {**base, "authorization": f"Bearer {self._token(locker)}"}
        return self._http.request(method, url, headers=headers, content=content, most_bytes=MOST_ANSWER_BYTES)

    def _token(self, locker: LockerEndpoints) -> str:
        with self._lock:
            kept = self._tokens.get(locker.iss)
        now_us = self._clock()
        if kept is not None and kept[1] - RENEW_BEFORE > now_us:
            return kept[0]
        token, expires_us = self._obtain(locker, now_us)
        with self._lock:
            self._tokens[locker.iss] = token, expires_us
        return token

    def _obtain(self, locker: LockerEndpoints, now_us: int) -> tuple[str, int]:
        """Ask the token endpoint (RFC 6749 section 4.4, authenticated as RFC 7523 section 2.2 has it)."""
        endpoint = endpoint_of(locker, "token")
        form = {
            "grant_type": "client_credentials", "client_id": self._node_id, "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": client_assertion(self._node_id, self._key, audience=endpoint, now_us=now_us),
        }  # fmt: skip
        answer = _answer(self._http.request("POST", endpoint, headers=_FORM, content=urlencode(form).encode("ascii")))
        token, lifetime = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or type(lifetime) is not int:
            raise LockerFault("the locker's token endpoint gave no access token")
        return token, now_us + lifetime * SECOND


def endpoint_of(locker: LockerEndpoints, name: str) -> str:
    """Return one of a locker's addresses; raises LockerFault when its descriptor does not name it."""
    url = locker.endpoints.get(name)
    if url is None:
        raise LockerFault(f"the locker's descriptor names no address for {name}")
    return url


def read_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object; raises LockerFault."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LockerFault("the locker's answer is not JSON") from error
    if not isinstance(value, dict):
        raise LockerFault("the locker's answer is not a JSON object")
    return value


def _answer(response: Response) -> dict[str, Any]:
    if 200 <= response.status < 300:
        return read_object(response.content)
    try:
        problem = read_object(response.content)
    except LockerFault:
        problem = {}
    title = problem.get("title") or problem.get("error_description") or problem.get("error")
    said = f": {title[:200]}" if isinstance(title, str) else ""
    raise LockerFault(
        f"the locker answered with status {response.status}{said}", status=response.status, problem=problem
    )
