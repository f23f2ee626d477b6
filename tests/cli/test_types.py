"""``type`` and ``issuer``: what a department says of its document types reaches the catalogue and the locker."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from node.services.matching import MatchRule

PAGE = Path(__file__).parents[2] / "docs" / "matching.md"


def test_a_type_is_named_searched_and_matched_as_was_said(command: Any, node_folder: Path, tmp_path: Path) -> None:
    rule = tmp_path / "rule.json"
    rule.write_text(json.dumps({"attributes": {"full_name": {"parameter": "name"}}}), encoding="utf-8")
    made = command(
        "type", "set", "in.gov.x", "INCOM", "--name", "Income certificate", "--search", "number:Certificate number",
        "--search", "name", "--match-rule", rule,
    )  # fmt: skip
    assert made.status == 0, made.err
    assert "register" in made.out
    assert command("type", "set", "IN.GOV.X", "incom", "--name", "Income").status == 0
    assert command("type", "list", "--json").json == [
        {
            "issuer": "in.gov.x", "doc_type": "INCOM", "name": "Income",
            "search_parameters": [
                {"name": "number", "label": "Certificate number", "required": True},
                {"name": "name", "label": "name", "required": True},
            ],
            "match_rule": {"attributes": {"full_name": {"parameter": "name"}}},
        }
    ]  # fmt: skip
    assert re.search(r"in\.gov\.x +INCOM +Income +number, name +holder, full_name", command("type", "list").out)


def test_an_issuer_gets_a_name(command: Any, node_folder: Path, incoming: Path) -> None:
    command("ingest", incoming)
    assert command("issuer", "set", "in.gov.x", "--name", "State of X").status == 0
    assert command("issuer", "list", "--json").json == [{"issuer": "in.gov.x", "name": "State of X"}]
    assert command("issuer", "set", "in.gov.y", "--name", "Y").status == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"holder": "if-known"}', "names attributes"),
        ('{"attributes": {"full_name": 5}}', ""),
        ('{"attributes": 5}', ""),
        ('{"sources": 5}', ""),
        ('{"sources": [{}]}', ""),
        ("[]", "JSON object"),
        ("{", ""),
        ("[" * 100_000, ""),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_in_one_line(
    command: Any, node_folder: Path, tmp_path: Path, content: str, said: str
) -> None:
    rule = tmp_path / "rule.json"
    rule.write_text(content, encoding="utf-8")
    refused = command("type", "set", "in.gov.x", "INCOM", "--match-rule", rule)
    assert (refused.status, refused.err.count("\n"), said in refused.err) == (2, 1, True)
    assert command("type", "list", "--json").json == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("in.gov.x", "INCOM", "--name", ""),
        ("in.gov.x", "INCOM", "--name", "x" * 201),
        ("in.gov.x", "INCOM", "--search", "1st"),
        ("in.gov.x", "INCOM", "--search", "a", "--search", "a"),
        ("in.gov.x", "IN COM"),
        ("in gov", "INCOM"),
    ],
)
def test_what_a_locker_would_refuse_is_refused_here(
    command: Any, node_folder: Path, arguments: tuple[str, ...]
) -> None:
    assert command("type", "set", *arguments).status in (1, 2)
    assert command("type", "list", "--json").json == []


def test_an_issuer_that_could_be_mistaken_for_another_is_refused(command: Any, node_folder: Path) -> None:
    assert command("type", "set", "in.x", "INCOM").status == 0
    refused = command("type", "set", "in.x-INCOM", "INCOM")
    assert (refused.status, "mistaken" in refused.err) == (2, True)


def test_the_rule_on_the_page_can_be_used() -> None:
    (written,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(MatchRule.from_json(json.loads(written)).attributes) == 2
