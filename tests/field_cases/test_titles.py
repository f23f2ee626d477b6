"""FC-15: whatever a document is called, it is served, with one header line that names it."""

import pytest

from tests.openapi.joined import joined_node

TITLES = (
    "प्रमाणपत्र 2026.pdf", "José.pdf", 'a"b.pdf', "a;b.pdf", "a\r\nX-Evil: 1.pdf", "../x.pdf", "", "क" * 300,
    "a\u2028b", "\u202egnp.pdf",
)  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("titles")
    with joined_node(folder / "node", f"sqlite:///{folder}/node.db") as joined:
        yield joined


@pytest.mark.parametrize("number", range(len(TITLES)))
def test_any_title_is_served(node, number):
    uri = node.served.add(f"title-{number}", b"%PDF-1.7", title=TITLES[number])
    answer = node.http.get(f"/v1/documents/{uri}", headers={"authorization": f"Bearer {node.bearer('operator')}"})
    assert answer.status_code == 200 and "x-evil" not in answer.headers
    [line] = answer.headers.get_list("content-disposition")
    fallback = line.partition('filename="')[2].partition('"')[0]
    assert fallback.isascii() and fallback.strip() and not fallback.startswith(".")
    assert not set("/\\\r\n") & set(fallback)
