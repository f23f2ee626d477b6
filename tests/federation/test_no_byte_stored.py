"""The locker keeps no byte of any document, and nobody keeps an identifier of a person in clear."""

import base64
import os

import pytest

from node.contract.identifiers import uuid7
from tests.federation.running import HOLDERS, PartialRead, canary
from tests.federation.searching import DocumentSearch, files_below, forms_of, found_forms, open_files

BANK = "bank-of-example"
CANARY, LARGE = "in.gov.alpha-CERT-canary", "in.gov.alpha-CERT-large"
PERSONS = [identifier.partition(":")[::2] for identifiers in HOLDERS.values() for identifier in identifiers]

ENCODINGS = {
    "raw": bytes,
    "hex": lambda data: data.hex().encode(),
    "upper hex": lambda data: data.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 from the second byte": lambda data: base64.b64encode(b"x" + data),
    "base64 from the third byte": lambda data: base64.b64encode(b"xx" + data),
    "base64url": base64.urlsafe_b64encode,
}


@pytest.fixture(scope="module")
def search():
    return DocumentSearch(canary())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 700_001, 1024 * 1024 - 32])
def test_the_search_finds_any_32_bytes_that_were_planted(search, tmp_path, encoding, start):
    planted = ENCODINGS[encoding](canary()[start : start + 32])
    file = tmp_path / "deep" / "down.db"
    file.parent.mkdir()
    file.write_bytes(os.urandom(5000) + b"\x00" + planted + b"\x00" + os.urandom(777))
    assert [name for name, data in files_below(tmp_path) if search.is_in(data)] == [str(file)]
    file.write_bytes(os.urandom(5000) + ENCODINGS[encoding](os.urandom(32)))
    assert not any(search.is_in(data) for _, data in files_below(tmp_path))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("scheme", "value"), PERSONS)
def test_the_search_finds_every_form_of_an_identifier_that_was_planted(scheme, value, encoding):
    for form in forms_of(scheme, value):
        data = os.urandom(300) + b"\x00" + ENCODINGS[encoding](form) + b"\x00" + os.urandom(300)
        assert form in found_forms(forms_of(scheme, value), data)
    assert found_forms(forms_of(scheme, value), os.urandom(5000)) == []


def places_of_the_locker(federation):
    folder = federation.folder
    return folder / "locker", folder / "locker-tmp", folder / "locker.log"


def holding(federation, search):
    """Return the names of the locker's files that hold a part of the canary."""
    files = list(files_below(*places_of_the_locker(federation)))
    assert {"locker.db", "locker.log"} <= {name.rpartition("/")[2] for name, _ in files}
    files += open_files(federation.processes(federation.locker))
    return [name for name, data in files if search.is_in(data)]


def test_the_locker_stores_no_byte_of_a_document(federation, search):
    consent = federation.consent("anita", BANK, CANARY, LARGE)
    through = federation.gateway(BANK, consent, CANARY)
    assert through.content.endswith(canary())
    assert federation.own("anita", CANARY).content == through.content
    part = federation.gateway(BANK, consent, CANARY, headers={"range": "bytes=5000-700000"})
    assert part.content == through.content[5000:700_001]

    federation.alpha.place()
    asked = uuid7()
    address = f"{federation.locker.url}/v1/gateway/documents/{LARGE}"
    headers = {
        "authorization": f"Bearer {federation.requesters[BANK]}", "consent-id": consent, "x-request-id": asked,
    }  # fmt: skip
    reading = PartialRead(address, headers, 1_500_000)
    assert search.is_in(reading.body)
    assert holding(federation, search) == []  # while it is on its way
    reading.leave()
    assert federation.alpha.log_of(asked, ends=True)[1]["outcome"] == "aborted"
    assert holding(federation, search) == []


def provoke(federation):
    """Have identifiers come to locker and nodes in right and wrong places."""
    auditor, operator = federation.alpha.auditor, federation.alpha.operator
    for scheme, value in PERSONS:
        federation.call("POST", f"{federation.alpha.url}/v1/holders/lookup", value, json={"value": value})
        for token in (auditor, operator):
            for body in (
                {"scheme": scheme, "value": value}, {"scheme": scheme, "value": value + "9"},
                {"scheme": value, "value": value}, {"scheme": scheme, "value": value, value: value}, value,
            ):  # fmt: skip
                federation.call("POST", f"{federation.alpha.url}/v1/holders/lookup", token, json=body)
        for base, token in ((federation.alpha.url, operator), (federation.locker.url, federation.residents["anita"])):
            federation.call("POST", f"{base}/v1/pulls", token, json={"holder": value})
            federation.call("GET", f"{base}/v1/issuers", token, params={"holder": value})
        resident = federation.residents["anita"]
        pulls = f"{federation.locker.url}/v1/residents/me/pulls"
        for parameters in ({"number": value}, {value: value}, value):
            body = {"issuer": "in.gov.alpha", "doc_type": "CERT", "parameters": parameters}
            federation.call("POST", pulls, resident, json=body)
        body = {"requester": value, "uris": [value], "purpose": {"code": value, "text": ""}, "once": value}
        federation.call("POST", f"{federation.locker.url}/v1/consents", resident, json=body)
        federation.call("POST", f"{federation.locker.url}/v1/oauth/token", None, data={"grant_type": value})
        push = {"rows": [{"row_id": value, "uri": value, "holder": {"scheme": scheme, "sealed": value}}]}
        federation.call("POST", f"{federation.locker.url}/v1/push", resident, json=push)


def test_no_identifier_of_a_person_is_kept_in_clear(federation):
    provoke(federation)
    assert len(federation.errors) > 30
    forms = [form for scheme, value in PERSONS for form in forms_of(scheme, value)]
    names = ("locker", *federation.nodes)
    folder = federation.folder
    storage = [node.server.folder / "storage" for node in federation.nodes.values()]
    files = [
        (name, data)
        for name, data in files_below(*(folder / name for name in names), *(folder / f"{name}.log" for name in names))
        if not any(name.startswith(str(place)) for place in storage)  # documents, as the departments wrote them
    ]
    assert {"locker.db", "node.db", "locker.log", "alpha.log"} <= {name.rpartition("/")[2] for name, _ in files}
    assert [(name, found) for name, data in files if (found := found_forms(forms, data))] == []
    assert found_forms(forms, b"\n".join(federation.errors)) == []
