"""How names, dates and rules compare: the same in another spelling matches, a look-alike does not (FC-05)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.services.matching import (
    Candidate,
    Described,
    MatchRule,
    Verdict,
    best,
    compare_dates,
    compare_names,
    judge,
    normal_form,
    parameter_hash,
)

VERIFIED = "identity-provider-verified"


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("José Nuñez", "Jose\u0301 Nun\u0303ez"),
        ("\u0958मर", "\u0915\u093cमर"),
        ("RAVI  KUMAR", "Ravi Kumar"),
        ("Ravi\u00a0Kumar", "Ravi Kumar"),
        ("Anita Rao", "Anita Rao\u200d"),
        ("Anita Rao", "\ufeffAnita\u00ad Rao\u200b"),
        ("Anita Rao", "Anita\t\u2003Rao\u2028"),
        ("José", "Jose\u200d\u0301"),
        ("José", "Jose\u034f\u0301"),
        ("Straße", "STRASSE"),
        ("Ravi Kumar", "\uff32avi Kumar"),
        ("Δημήτρης", "ΔΗΜΉΤΡΗΣ"),
        ("क्\u200dष", "क्ष"),
    ],
)
def test_the_same_name_in_other_code_points_matches(stored, asked):
    assert compare_names(stored, asked) is Verdict.MATCH
    assert compare_names(asked, stored) is Verdict.MATCH
    assert parameter_hash(b"k", "name", stored) == parameter_hash(b"k", "name", asked)


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("Ravi Kumar", "Ravi Kumari"),
        ("R\u0430vi", "Ravi"),
        ("R\u0430vi Kumar", "Ravi Kumar"),
        ("Ravi", "Sita"),
        ("Ravi Kumar", "R. K."),
        ("Ravi Kumar", "Sita K."),
        ("Ravi Kumar", ""),
        ("", "Ravi Kumar"),
        ("Ravi Kumar", "..."),
        ("कमल", "कमला"),
    ],
)
def test_another_name_does_not_match_and_is_not_near(stored, asked):
    assert compare_names(stored, asked) is Verdict.NO
    assert compare_names(asked, stored) is Verdict.NO


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("Ravi Kumar", "R. Kumar"),
        ("Ravi Kumar", "Ravi K"),
        ("Ravi Kumar", "Kumar Ravi"),
        ("Ravi", "Ravi Kumar"),
        ("Smt. Anita Rao", "Anita Rao"),
        ("Anita-Maria Rao", "Anita Maria Rao"),
        ("S. Ravi Kumar", "Ravi Kumar Sharma S"),
        ("अनिता राव", "अ. राव"),
    ],
)
def test_initials_order_and_one_word_names_are_near(stored, asked):
    assert compare_names(stored, asked) is Verdict.NEAR
    assert compare_names(asked, stored) is Verdict.NEAR


@pytest.mark.parametrize(
    ("stored", "asked", "verdict"),
    [
        ("1990-06-15", "15-06-1990", Verdict.MATCH),
        ("15/06/1990", "15.6.1990", Verdict.MATCH),
        ("1990-06-15", "१५-०६-१९९०", Verdict.MATCH),
        ("1990-01-01", "1990-01-01", Verdict.MATCH),
        ("01-01-1990", "1990-06-15", Verdict.NEAR),
        ("1990", "1990-06-15", Verdict.NEAR),
        ("1990", "1990", Verdict.NEAR),
        ("01-01-1991", "1990-06-15", Verdict.NO),
        ("1990-06-15", "1990-06-16", Verdict.NO),
        ("1990-06-15", "1990-15-06", Verdict.NO),
        ("unknown", "unknown", Verdict.NO),
        ("", "", Verdict.NO),
    ],
)
def test_dates_of_birth(stored, asked, verdict):
    assert compare_dates(stored, asked) is verdict
    assert compare_dates(asked, stored) is verdict


@given(st.text(max_size=60))
def test_any_text_has_a_normal_form_that_is_its_own(text):
    form = normal_form(text)
    assert normal_form(form) == form
    assert len(parameter_hash(b"k", "name", text)) == 64
    compare_names(text, form)
    compare_dates(text, form)


def test_a_parameter_hash_depends_on_key_name_and_value():
    hashes = {
        parameter_hash(key, name, value) for key in (b"a", b"b") for name in ("x", "y") for value in ("1", "2")
    }  # fmt: skip
    assert len(hashes) == 8
    assert parameter_hash(b"a", "born", "15-06-1990") == parameter_hash(b"a", "born", "1990-06-15")


def described(name="Sita Devi", source=VERIFIED, hashes=("h1",)):
    return Described(frozenset(hashes), {"full_name": (name, source)})


RULE = MatchRule.from_json({"attributes": {"full_name": {"parameter": "name"}}})
DOCUMENT = Candidate("d1", "in.x-T-1", "h1", {"name": "Sita Devi"})


@pytest.mark.parametrize(
    ("rule", "document", "who", "verdict"),
    [
        (RULE, DOCUMENT, described(), Verdict.MATCH),
        (RULE, DOCUMENT, described(source="self-declared"), Verdict.NO),
        (RULE, DOCUMENT, described(source="something-new"), Verdict.NO),
        (RULE, DOCUMENT, described(name="S. Devi"), Verdict.NEAR),
        (RULE, DOCUMENT, described(name="Gita Devi"), Verdict.NO),
        (RULE, DOCUMENT, described(hashes=("h2",)), Verdict.NO),
        (RULE, DOCUMENT, described(hashes=()), Verdict.NO),
        (RULE, DOCUMENT, described(name="S. Devi", hashes=("h2",)), Verdict.NO),
        (RULE, DOCUMENT, Described(frozenset({"h1"}), {}), Verdict.NO),
        (RULE, Candidate("d1", "u", "h1", {}), described(name=""), Verdict.NO),
        (RULE, Candidate("d1", "u", None, {"name": "Sita Devi"}), described(), Verdict.NO),
        (MatchRule(), DOCUMENT, Described(frozenset({"h1"}), {}), Verdict.MATCH),
        (MatchRule(), Candidate("d1", "u", None, {}), Described(frozenset({"h1"}), {}), Verdict.NO),
    ],
)
def test_every_part_of_a_rule_counts(rule, document, who, verdict):
    assert judge(rule, document, who) is verdict


def test_a_document_without_a_holder_is_given_by_its_attributes_only_where_the_rule_says_so():
    rule = MatchRule.from_json({"holder": "if-known", "attributes": {"full_name": {"parameter": "name"}}})
    nameless = Candidate("d1", "u", None, {"name": "Sita Devi"})
    assert judge(rule, nameless, described()) is Verdict.MATCH
    assert judge(rule, DOCUMENT, described(hashes=("h2",))) is Verdict.NO


def test_sources_can_be_narrowed_but_never_widened():
    rule = MatchRule.from_json({"attributes": {"full_name": {}}, "sources": ["issuer-confirmed"]})
    document = Candidate("d1", "u", "h1", {"full_name": "Sita Devi"})
    assert judge(rule, document, described()) is Verdict.NO
    assert judge(rule, document, described(source="issuer-confirmed")) is Verdict.MATCH


@pytest.mark.parametrize(
    "members",
    [
        {"sources": ["self-declared"]},
        {"sources": []},
        {"holder": "ignored"},
        {"holder": "if-known"},
        {"attributes": {"full_name": {"compare": "sounds-like"}}},
        {"attributes": {"full_name": {"weight": 1}}},
        {"atributes": {}},
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(members):
    with pytest.raises(ValueError, match=r"rule|sources|holder|attribute"):
        MatchRule.from_json(members)


def test_the_best_of_several_documents_counts_and_finding_none_is_judged_too():
    other = Candidate("d2", "in.x-T-2", "h9", {"name": "Sita Devi"})
    assert best(RULE, [DOCUMENT, other], described()) == (Verdict.MATCH, DOCUMENT)
    assert best(RULE, [], described())[0] is Verdict.NO
