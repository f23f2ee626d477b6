import threading

import pytest
from sqlalchemy import select, text

from locker.db.models import Alert, Link
from locker.rotation import drop, rotate
from locker.services import links
from locker.services.principal import Principal
from locker.services.pulls import NodeAnswer
from node.contract.identifiers import uuid7
from node.contract.problems import BadRequest, Conflict
from node.contract.records import verify_request
from node.contract.signing import LOG_GRANT
from tests.locker.conftest import make_world

ISSUER = "in.gov.meeseva.ap"
INCOME = f"{ISSUER}-INCOM-9606884969"
MOBILE = ("mobile", "9876543210")


def outcomes(results) -> list[str]:
    return [result["outcome"] for result in results]


def test_a_document_is_linked_to_the_resident_whose_it_is(either_world) -> None:
    world = either_world
    resident, node = world.resident(), world.department()
    (result,) = world.push(node, world.row(INCOME, MOBILE))
    assert result["outcome"] == "linked" and len(result["holder_ref"]) >= 20
    (document,), cursor = world.services.links.documents(resident, None, None, None, 10)
    assert (document["uri"], document["title"], document["issuer_name"], cursor) == (
        INCOME,
        "Income",
        "An issuer",
        None,
    )


def test_a_pending_row_is_matched_when_the_resident_joins_and_the_node_learns_it(either_world) -> None:
    world = either_world
    node = world.department()
    (result,) = world.push(node, world.row(INCOME, MOBILE))
    assert (result["outcome"], result["holder_ref"]) == ("pending", None)
    assert world.services.links.changes(node.node_id, 0, 10) == ([], None)
    resident = world.resident()
    (change,), after = world.services.links.changes(node.node_id, 0, 10)
    assert (change["uri"], change["outcome"], after) == (INCOME, "linked", None)
    assert world.services.links.changes(node.node_id, change["position"], 10) == ([], None)
    (again,) = world.push(node, world.row(INCOME, MOBILE))
    assert again == {"row_id": again["row_id"], "outcome": "unchanged", "holder_ref": change["holder_ref"]}
    assert [d["uri"] for d in world.services.links.documents(resident, None, None, None, 10)[0]] == [INCOME]


def test_a_push_and_a_joining_resident_at_once_never_miss_each_other(either_world) -> None:
    world = either_world
    node = world.department()
    for number in range(10):
        mobile = f"98765432{number:02}"
        uri = f"{ISSUER}-INCOM-{number}"
        row = world.row(uri, ("mobile", mobile))
        threads = [
            threading.Thread(target=world.push, args=(node, row)),
            threading.Thread(target=world.resident, args=(mobile,)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with world.database.read() as session:
        assert None not in session.scalars(select(Link.resident_id)).all()


def test_a_resident_who_joins_during_a_push_waits_for_it(either_world, monkeypatch) -> None:
    """Else neither would see the other: the row is not committed yet, and the resident was not there when it was matched."""
    world, pushed, may_commit = either_world, threading.Event(), threading.Event()
    node = world.department()
    finish = links._Batch._alert

    def slow_finish(batch) -> None:
        finish(batch)
        pushed.set()
        may_commit.wait(5)

    monkeypatch.setattr(links._Batch, "_alert", slow_finish)
    pushing = threading.Thread(target=world.push, args=(node, world.row(INCOME, MOBILE)))
    joining = threading.Thread(target=world.resident)
    pushing.start()
    assert pushed.wait(5)
    joining.start()
    joining.join(0.3)
    assert joining.is_alive()
    may_commit.set()
    pushing.join()
    joining.join()
    with world.database.read() as session:
        assert session.scalars(select(Link.resident_id)).one() is not None


def test_what_people_say_of_themselves_links_nothing(world) -> None:
    node = world.department()
    world.resident(source="self-declared")
    assert outcomes(world.push(node, world.row(INCOME, MOBILE))) == ["pending"]


def test_a_verified_identifier_has_one_owner(world) -> None:
    world.resident()
    with pytest.raises(Conflict):
        world.resident()


def test_the_same_row_again_gets_the_stored_result(world) -> None:
    world.resident()
    node, row = world.department(), world.row(INCOME, MOBILE)
    first = world.push(node, row)
    assert world.push(node, row) == first
    changed = {**row, "revision": 9, "document": {**row["document"], "title": "Other"}}
    assert world.push(node, changed) == first
    with world.database.read() as session:
        assert session.scalars(select(Link.revision)).all() == [1]


def test_an_older_revision_changes_nothing_in_whatever_order_rows_come(world) -> None:
    node = world.department()
    newest = world.row(INCOME, MOBILE, revision=3, kind="change")
    results = world.push(node, newest, world.row(INCOME, MOBILE, revision=2), world.row(INCOME, MOBILE, revision=3))
    assert outcomes(results) == ["pending", "unchanged", "unchanged"]


def test_withdrawing_takes_a_document_out_of_the_list_and_adding_brings_it_back(world) -> None:
    resident, node = world.resident(), world.department()
    world.push(node, world.row(INCOME, MOBILE))
    withdrawal = world.row(INCOME, kind="withdraw", revision=2, document=None)
    assert outcomes(world.push(node, withdrawal)) == ["withdrawn"]
    assert world.services.links.documents(resident, None, None, None, 10) == ([], None)
    assert outcomes(world.push(node, world.row(INCOME, revision=3, kind="change"))) == ["linked"]


def test_the_node_learns_of_each_turn_of_a_document_once(world) -> None:
    world.resident()
    world.resident("9876500000")
    node = world.department()
    turns = ("add", "withdraw", "withdraw", "add", "change", "withdraw")
    for revision, kind in enumerate(turns, 1):
        gone = {"document": None} if kind == "withdraw" else {}
        world.push(node, world.row(INCOME, MOBILE if revision == 1 else None, kind=kind, revision=revision, **gone))
    world.push(node, world.row(INCOME, ("mobile", "9876500000"), revision=9))
    changes, _ = world.services.links.changes(node.node_id, 0, 10)
    assert [change["outcome"] for change in changes] == ["linked", "withdrawn", "linked", "withdrawn", "linked"]
    assert changes[0]["holder_ref"] == changes[2]["holder_ref"] != changes[4]["holder_ref"]


def test_a_document_withdrawn_while_pending_links_when_it_comes_back(world) -> None:
    node = world.department()
    world.push(node, world.row(INCOME, MOBILE), world.row(INCOME, kind="withdraw", revision=2, document=None))
    world.resident()
    assert outcomes(world.push(node, world.row(INCOME, revision=3))) == ["linked"]


def test_a_corrected_holder_takes_the_document_away(world) -> None:
    wrong, right, node = world.resident(), world.resident("9876500000"), world.department()
    world.push(node, world.row(INCOME, MOBILE))
    assert outcomes(world.push(node, world.row(INCOME, ("mobile", "9876500000"), revision=2))) == ["linked"]
    assert world.services.links.documents(wrong, None, None, None, 10)[0] == []
    assert len(world.services.links.documents(right, None, None, None, 10)[0]) == 1
    changes, _ = world.services.links.changes(node.node_id, 0, 10)
    assert [change["outcome"] for change in changes] == ["linked", "withdrawn", "linked"]


def moved_to(world, node_id: str):
    """The issuer's documents are another node's from now on."""
    world.services.suspensions.issuer(ISSUER)
    return world.department(node_id=node_id)


def test_a_document_whose_issuer_moves_is_taken_anew_whatever_the_revision(either_world) -> None:
    world = either_world
    resident, old = world.resident(), world.department()
    (before,) = world.push(old, world.row(INCOME, MOBILE, revision=7))
    new = moved_to(world, "node-new")
    (after,) = world.push(new, world.row(INCOME, MOBILE, revision=1))
    assert after["outcome"] == "linked" and after["holder_ref"] != before["holder_ref"]
    grant = world.services.grants.issue(Principal("resident", resident), "node-new", world.clock())
    claims = verify_request(grant.token, LOG_GRANT, world.keys.public, audience="node-new", now_us=world.clock())
    assert claims["holder_ref"] == after["holder_ref"]
    (gone,) = world.services.links.changes("node-ap", 1, 10)[0]
    assert (gone["outcome"], gone["holder_ref"]) == ("withdrawn", before["holder_ref"])
    (linked,) = world.services.links.changes("node-new", 0, 10)[0]
    assert (linked["outcome"], linked["holder_ref"]) == ("linked", after["holder_ref"])
    assert outcomes(world.push(new, world.row(INCOME, MOBILE, revision=1))) == ["unchanged"]


def test_a_new_node_that_names_no_holder_is_told_no_name_of_the_old_one(world) -> None:
    world.resident()
    world.push(world.department(), world.row(INCOME, MOBILE))
    new = moved_to(world, "node-new")
    (result,) = world.push(new, world.row(INCOME, kind="change"))
    assert (result["outcome"], result["holder_ref"]) == ("pending", None)


def test_rows_outside_the_scope_are_refused_one_by_one_and_raise_an_alert(world) -> None:
    node = world.department()
    world.department(node_id="node-ts", issuers=("in.gov.meeseva.ts",))
    rows = [world.row(uri) for uri in (INCOME, f"{ISSUER}-BIRTH-1", "in.gov.meeseva.ts-INCOM-1", "in.nobody-INCOM-1")]
    results = world.push(node, *rows)
    assert outcomes(results) == ["pending", "refused", "refused", "refused"]
    assert {r["problem"]["type"].rpartition("/")[2] for r in results[1:]} == {"out-of-scope"}
    with world.database.read() as session:
        assert [(a.node_id, a.kind, a.detail) for a in session.scalars(select(Alert))] == [
            (
                "node-ap",
                "out-of-scope",
                f'{{"rows": 3, "doc_types": ["?", "{ISSUER}-BIRTH", "in.gov.meeseva.ts-INCOM"]}}',
            )
        ]
        assert session.scalars(select(Link.uri)).all() == [INCOME]


@pytest.mark.parametrize("fault", ["another key", "another document", "not a number", "another scheme", "garbage"])
def test_a_holder_that_cannot_be_used_refuses_its_row_alone(world, fault: str, caplog) -> None:
    node, good = world.department(), world.row(f"{ISSUER}-INCOM-2", MOBILE)
    holder = world.seal(*MOBILE, INCOME)
    if fault == "another key":
        holder["key_id"] = "other"
    elif fault == "another document":
        holder = world.seal(*MOBILE, f"{ISSUER}-INCOM-3")
    elif fault == "not a number":
        holder["sealed"] = world.keys.opening.public.seal(b"not-a-number", INCOME.lower())
    elif fault == "another scheme":
        holder["scheme"] = "aadhaar"
    else:
        holder["sealed"] = "AAAA"
    results = world.push(node, world.row(INCOME, holder=None) | {"holder": holder}, good)
    assert outcomes(results) == ["refused", "pending"]
    assert results[0]["problem"]["status"] == 422 and "9876543210" not in str(results) + caplog.text


def test_values_that_were_sealed_before_the_opening_key_changed_are_still_read(world, tmp_path) -> None:
    resident, node = world.resident(), world.department()
    waited = world.row(INCOME, MOBILE)
    old = world.keys.opening.kid
    rotate(tmp_path / "keys", "holder-opening", world.clock(), at_once=True)
    renewed = make_world(tmp_path, world.database)
    assert renewed.keys.opening.kid != old == waited["holder"]["key_id"]
    assert outcomes(renewed.push(node, waited, renewed.row(f"{ISSUER}-INCOM-2", MOBILE))) == ["linked", "linked"]
    renewed.answers += [NodeAnswer(200, b"{}"), NodeAnswer(200, b'{"outcome": "no"}')]
    renewed.services.pulls.search(resident, ISSUER, "INCOM", {"number": "1"})
    assert renewed.asked[1][2]["holders"] == [{"scheme": "mobile", "value": "+919876543210"}]
    drop(tmp_path / "keys", old, renewed.clock(), early=True)
    late = make_world(tmp_path, world.database)
    results = late.push(node, waited | {"row_id": uuid7(), "revision": 2})
    assert outcomes(results) == ["refused"] and results[0]["problem"]["status"] == 422


def test_a_malformed_uri_refuses_its_row_alone(world) -> None:
    node = world.department()
    results = world.push(node, world.row("nonsense"), world.row(INCOME), world.row(f"{ISSUER}-INCOM-4", document=None))
    assert outcomes(results) == ["refused", "pending", "refused"]


def test_too_many_rows_or_a_row_id_twice_refuse_the_batch(world) -> None:
    node, row = world.department(), world.row(INCOME)
    for rows in ([], [row, row], [world.row(INCOME) for _ in range(501)]):
        with pytest.raises(BadRequest):
            world.push(node, *rows)


def test_two_nodes_know_a_resident_by_different_names(world) -> None:
    world.resident()
    first, second = world.department(), world.department(node_id="node-ts", issuers=("in.gov.meeseva.ts",))
    one = world.push(first, world.row(INCOME, MOBILE), world.row(f"{ISSUER}-CASTE-1", MOBILE))
    (two,) = world.push(second, world.row("in.gov.meeseva.ts-INCOM-1", MOBILE))
    assert one[0]["holder_ref"] == one[1]["holder_ref"] != two["holder_ref"]


def test_no_clear_holder_value_is_kept_anywhere(world, tmp_path, capfd) -> None:
    node = world.department()
    world.push(node, world.row(INCOME, MOBILE), world.row(f"{ISSUER}-CASTE-1", ("aadhaar", "234123412346")))
    world.resident()
    needles = (b"9876543210", b"234123412346")
    with world.database.engine.connect() as connection:
        connection.execute(text("PRAGMA wal_checkpoint"))
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert any(INCOME.encode() in data for data in kept)
    assert not any(needle in data for data in kept for needle in needles)
    printed = capfd.readouterr()
    assert not any(needle.decode() in printed.out + printed.err for needle in needles)


def test_pages_of_documents_follow_each_other(world) -> None:
    resident, node = world.resident(), world.department()
    world.push(node, *[world.row(f"{ISSUER}-INCOM-{n}", MOBILE) for n in range(5)])
    world.push(node, world.row(f"{ISSUER}-CASTE-1", MOBILE))
    seen, cursor = [], None
    while True:
        page, cursor = world.services.links.documents(resident, ISSUER.upper(), "incom", cursor, 2)
        seen += [document["uri"] for document in page]
        if cursor is None:
            break
    assert seen == [f"{ISSUER}-INCOM-{n}" for n in range(5)]


def test_uris_are_compared_without_case_and_kept_as_first_spelled(world) -> None:
    node = world.department()
    world.push(node, world.row(INCOME))
    (result,) = world.push(node, world.row(INCOME.upper(), row_id=uuid7()))
    assert result["outcome"] == "unchanged"
    with world.database.read() as session:
        assert session.scalars(select(Link.uri)).all() == [INCOME]
