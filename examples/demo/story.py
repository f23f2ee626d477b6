"""The demo's story: each step says in plain words what happens, does it, and checks it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from examples.demo import certificates
from examples.demo.processes import DemoFailed, Server, command, free_port

DEGREE = certificates.DEGREES[0]
INCOME = certificates.INCOME[0]
NO_CONSENT = "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b"
PATIENCE_SECONDS = 30


@dataclass
class Story:
    """The demo's cast: a locker, two nodes, a resident, a requester, auditors; and how many checks have passed."""

    folder: Path
    say: Callable[[str], None]
    passed: int = 0
    servers: dict[str, Server] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20))

    def check(self, holds: bool, words: str) -> None:
        """Note one fact that must hold; raises DemoFailed when it does not."""
        if not holds:
            raise DemoFailed(words)
        self.passed += 1
        self.say(f"    ok  {words}")

    def eventually(self, holds: Callable[[], bool], words: str) -> None:
        """Note a fact that must come to hold within half a minute."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.2)
        self.check(holds(), words)

    @property
    def locker(self) -> Server:
        return self.servers["locker"]

    def locker_command(self, *arguments: str) -> Any:
        return command("locker", *arguments, "--folder", str(self.locker.folder))

    def node_command(self, name: str, *arguments: str) -> Any:
        return command("locker-node", *arguments, "--folder", str(self.servers[name].folder))

    def call(self, method: str, url: str, token: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}", **options.pop("headers", {})}
        return self.client.request(method, url, headers=headers, **options)

    def as_resident(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.call(method, f"{self.locker.url}/v1/{path}", self.tokens["resident"], **options)

    def as_requester(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.call(method, f"{self.locker.url}/v1/{path}", self.tokens["requester"], **options)

    def resolve(self, consent_id: str, *uris: str) -> list[dict[str, Any]]:
        answer = self.as_requester("POST", "resolve", json={"consent_id": consent_id, "uris": list(uris)})
        if answer.status_code != 200:
            return [{"outcome": "refused", "problem": answer.json()} for _ in uris]
        results: list[dict[str, Any]] = answer.json()["results"]
        return results

    def give_consent(self, *uris: str) -> str:
        until = datetime.now(UTC) + timedelta(days=30)
        body = {
            "requester": "university-of-example",
            "uris": list(uris),
            "purpose": {"code": "admission", "text": "Admission to the master's course 2027"},
            "expires_at": until.isoformat(),
            "once": False,
        }
        answer = self.as_resident("POST", "consents", json=body)
        if answer.status_code != 201:
            raise DemoFailed(f"the consent was not recorded: {answer.text}")
        return str(answer.json()["consent_id"])

    def original(self, certificate: certificates.Certificate) -> bytes:
        return next(self.folder.glob(f"papers-*/{certificate.doc_id}.pdf")).read_bytes()


def set_up(story: Story) -> None:
    """Make a locker and two nodes, each in its own folder, as three operators would."""
    story.say("1. Three operators set up: a locker, an eDistrict department's node, a university's node.")
    ports = {name: free_port() for name in ("locker", "edistrict", "university")}
    for name, port in ports.items():
        program = "locker" if name == "locker" else "locker-node"
        story.servers[name] = Server(program, story.folder / name, f"http://127.0.0.1:{port}")
    loopback = ("--allow-private", "127.0.0.0/8", "--environment", "demo")
    command(
        "locker", "init", str(story.locker.folder), "--name", "Demo locker", "--base-url", story.locker.url,
        "--port", str(ports["locker"]), *loopback,
    )  # fmt: skip
    for name, title in (("edistrict", "eDistrict of Example"), ("university", "University of Example")):
        server = story.servers[name]
        made = command(
            "locker-node", "init", str(server.folder), "--name", title, "--base-url", server.url,
            "--port", str(ports[name]), *loopback,
        )  # fmt: skip
        story.tokens[f"{name} operator"] = made["token"]
        story.tokens[f"{name} auditor"] = story.node_command(
            name, "token", "create", "--role", "auditor", "--name", "Demo auditor"
        )["token"]
    story.check(len(story.tokens) == 4, "each node has an operator and an auditor, whose tokens were shown once")


def ingest(story: Story) -> None:
    """Take in real PDF files, and show that a second run adds nothing."""
    story.say("2. The departments take in their certificates: real PDF files and a manifest.")
    for name, papers in (("edistrict", certificates.INCOME), ("university", certificates.DEGREES)):
        manifest = certificates.write_manifest(story.folder / f"papers-{name}", papers)
        first = story.node_command(name, "ingest", str(manifest))
        again = story.node_command(name, "ingest", str(manifest))
        story.check(
            first["created"] == len(papers) and not first["refused"],
            f"{name}: {len(papers)} certificates are in the node's own storage",
        )
        story.check(again["created"] == 0 and again["unchanged"] == len(papers), f"{name}: a second run adds nothing")


def federate(story: Story) -> None:
    """Start everything, register the nodes, approve them by fingerprint, and let them announce their documents."""
    story.say("3. All three serve. The nodes register; an officer compares fingerprints and approves.")
    for server in story.servers.values():
        server.start()
    for name, issuer in (("edistrict", INCOME.issuer), ("university", DEGREE.issuer)):
        registered = story.node_command(name, "register", story.locker.url)
        node_id = json.loads(story.client.get(f"{story.servers[name].url}/.well-known/federated-locker").text)[
            "node_id"
        ]
        try:
            story.locker_command("issuer", "approve", issuer, "--node", node_id, "--fingerprint", "0000-0000")
        except DemoFailed:
            story.check(True, f"{issuer}: a wrong fingerprint is refused")
        else:
            raise DemoFailed("a wrong fingerprint was approved")
        story.locker_command("issuer", "approve", issuer, "--node", node_id, "--fingerprint", registered["fingerprint"])
    issuers = story.client.get(f"{story.locker.url}/v1/issuers").json()["issuers"]
    story.check(len(issuers) == 2, "the locker's directory lists both issuers")


def resident(story: Story) -> None:
    """A resident joins and finds what waits for them; they read their own document."""
    story.say("4. Anita opens an account. What the departments announced for her is there.")
    joined = story.locker_command(
        "resident", "add", certificates.RESIDENT_NAME, "--holder", f"mobile:{certificates.RESIDENT_MOBILE}"
    )
    story.tokens["resident"] = joined["token"]

    def listed() -> set[str]:
        return {row["uri"] for row in story.as_resident("GET", "residents/me/documents").json()["documents"]}

    story.eventually(
        lambda: listed() == {INCOME.uri, DEGREE.uri}, "her list shows her two certificates and nobody else's"
    )
    read = story.as_resident("GET", f"residents/me/documents/{INCOME.uri}")
    story.check(
        read.content == story.original(INCOME),
        "she reads her income certificate, byte for byte as the department has it",
    )


def requester(story: Story) -> None:
    """A requester without consent gets nothing."""
    story.say("5. The University's admission office asks for her documents without her consent.")
    added = story.locker_command(
        "requester", "add", "university-of-example", "--name", "University of Example, admissions"
    )
    answer = story.client.post(
        f"{story.locker.url}/v1/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=("university-of-example", added["client_secret"]),
    )
    story.tokens["requester"] = answer.json()["access_token"]
    (refused,) = story.resolve(NO_CONSENT, INCOME.uri)
    story.check(refused["outcome"] == "refused", "the locker gives no ticket")
    direct = story.client.get(f"{story.servers['edistrict'].url}/v1/documents/{INCOME.uri}")
    story.check(direct.status_code == 401, "the node gives nothing to a caller without a ticket")


def pull(story: Story) -> str:
    """With consent the requester resolves and pulls, from the node and through the gateway."""
    story.say("6. Anita consents. The office resolves both URIs and pulls from the sources.")
    consent_id = story.give_consent(INCOME.uri, DEGREE.uri)
    for certificate, result in zip((INCOME, DEGREE), story.resolve(consent_id, INCOME.uri, DEGREE.uri), strict=True):
        pulled = story.call("GET", result["url"], result["ticket"])
        story.check(
            pulled.content == story.original(certificate), f"{certificate.uri} comes from {result['node']['base_url']}"
        )
    through = story.as_requester("GET", f"gateway/documents/{DEGREE.uri}", headers={"consent-id": consent_id})
    story.check(
        through.content == story.original(DEGREE),
        "the degree comes through the locker's gateway too, which keeps no byte of it",
    )
    other = story.as_requester(
        "GET", f"gateway/documents/{certificates.INCOME[1].uri}", headers={"consent-id": consent_id}
    )
    story.check(other.status_code in (403, 404), "the same consent opens nobody else's certificate")
    return consent_id


def narrow_and_revoke(story: Story, consent_id: str) -> None:
    """Narrowing and revoking act on tickets that are already out."""
    story.say("7. Anita narrows the consent to her degree, then revokes it.")
    (income,) = story.resolve(consent_id, INCOME.uri)
    narrowed = story.as_resident("POST", f"consents/{consent_id}/narrow", json={"uris": [DEGREE.uri]})
    story.check(narrowed.status_code == 200, "the consent is narrowed")
    (refused,) = story.resolve(consent_id, INCOME.uri)
    story.check(refused["outcome"] == "refused", "no new ticket for the income certificate")
    story.eventually(
        lambda: story.call("GET", income["url"], income["ticket"]).status_code == 401,
        "the ticket given before is void at the node",
    )
    (degree,) = story.resolve(consent_id, DEGREE.uri)
    story.check(story.call("GET", degree["url"], degree["ticket"]).status_code == 200, "the degree is still open")
    revoked = story.as_resident("POST", f"consents/{consent_id}/revoke", json={"reason": "I was admitted elsewhere"})
    story.check(revoked.status_code == 200, "the consent is revoked")
    story.eventually(
        lambda: story.call("GET", degree["url"], degree["ticket"]).status_code == 401,
        "its last ticket is void at the node",
    )


def without_the_locker(story: Story) -> None:
    """Tickets already given go on working while the locker is away."""
    story.say("8. The locker goes down. A ticket given before still opens its document.")
    (result,) = story.resolve(story.give_consent(DEGREE.uri), DEGREE.uri)
    story.locker.stop()
    pulled = story.call("GET", result["url"], result["ticket"])
    story.check(pulled.content == story.original(DEGREE), "the node answers with the locker stopped")
    story.locker.start()
    story.check(story.client.get(f"{story.locker.url}/healthz").status_code == 200, "the locker is back")


def audit(story: Story, consent_id: str) -> None:
    """The departments' auditors find every one of these reads, and the locker's what it refused."""
    story.say("9. The auditors ask who read what, and under which consent.")
    rows = {name: _log(story, name) for name in ("edistrict", "university")}

    def has(name: str, **wanted: Any) -> bool:
        return any(all(row.get(key) == value for key, value in wanted.items()) for row in rows[name])

    story.check(has("edistrict", uri=INCOME.uri, basis="holder", outcome="allowed"), "Anita's own read")
    story.check(
        has("edistrict", uri=INCOME.uri, client_id="university-of-example", basis="consent", outcome="allowed"),
        "the office's pull",
    )
    story.check(
        has("university", uri=DEGREE.uri, client_id="university-of-example", act="gateway", outcome="allowed"),
        "the pull through the gateway",
    )
    story.check(
        has("edistrict", uri=INCOME.uri, outcome="refused", reason="missing-credential"), "the pull without consent"
    )
    story.check(
        has("edistrict", uri=INCOME.uri, outcome="refused", reason="consent-revoked"), "the refusal after narrowing"
    )
    story.check(
        has("university", uri=DEGREE.uri, outcome="refused", reason="consent-revoked"), "the refusal after revoking"
    )
    whole = [row for row in rows["university"] if row.get("phase") == "end" and row["outcome"] == "complete"]
    story.check(
        all(row["bytes"] == len(story.original(DEGREE)) for row in whole),
        "each complete read tells how many bytes went out",
    )
    audit_locker(story, consent_id)


def audit_locker(story: Story, consent_id: str) -> None:
    """The locker's auditor finds what was refused there, which no node has heard of."""
    made = story.locker_command("token", "create", "Demo auditor", "--role", "auditor")
    story.tokens["locker auditor"] = made["token"]

    def refused(reason: str, **wanted: str) -> bool:
        parameters = {"outcome": "refused", "reason": reason, "subject": "university-of-example", **wanted}
        rows = story.call("GET", f"{story.locker.url}/v1/attempts", made["token"], params=parameters).json()["rows"]
        return bool(rows)

    story.check(refused("no-consent", uri=INCOME.uri, consent_id=NO_CONSENT), "the ticket refused without consent")
    other = certificates.INCOME[1].uri
    story.check(
        refused("not-covered", uri=other, consent_id=consent_id, operation="gateway"),
        "the gateway's refusal of somebody else's certificate",
    )
    story.check(refused("not-covered", uri=INCOME.uri, consent_id=consent_id), "the ticket refused after narrowing")


def _log(story: Story, name: str) -> list[dict[str, Any]]:
    """Return a node's log once everything of the story has its place in it."""
    time.sleep(2)
    url = f"{story.servers[name].url}/v1/access-log"
    rows: list[dict[str, Any]] = []
    after: int | None = None
    while True:
        parameters = {"limit": 500} if after is None else {"limit": 500, "after": after}
        page = story.call("GET", url, story.tokens[f"{name} auditor"], params=parameters).json()
        rows += [row.get("event", row) for row in page["rows"]]
        after = page.get("next_after")
        if after is None:
            return rows


def tell(story: Story) -> None:
    """Run the whole story."""
    set_up(story)
    ingest(story)
    federate(story)
    resident(story)
    requester(story)
    consent_id = pull(story)
    narrow_and_revoke(story, consent_id)
    without_the_locker(story)
    audit(story, consent_id)
