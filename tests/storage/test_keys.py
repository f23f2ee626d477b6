"""Keys: the grammar, and a name of its own for every representation."""

import itertools

import pytest

from node.contract.uri import DocumentURI
from node.storage.errors import InvalidKey
from node.storage.keys import EXTENSIONS, MAX_KEY, MAX_SEGMENT, is_key, object_key, require_key, require_prefix

SHA = "0123456789abcdef" * 4


def key_of(doc_id: str, *, issuer: str = "in.gov.x", doc_type: str = "INCOM", version: int = 1, sha256: str = SHA,
           media_type: str = "application/pdf", language: str | None = None) -> str:  # fmt: skip
    return object_key(DocumentURI.build(issuer, doc_type, doc_id), version, sha256, media_type, language)


@pytest.mark.parametrize("key", ["a", "a/b", "...", "a..b", "a./b", "con", ".x", "-", "~", "a" * MAX_SEGMENT])
def test_legal_keys(key: str) -> None:
    assert require_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "a/..", "../a", "a/./b", "/a", "a/", "a//b", "a b", "a\n", "a=b", "é", "٣", "ａ", "a" * 201, "a/" * 256 + "b"],
    ids=ascii,
)  # fmt: skip
def test_illegal_keys(key: str) -> None:
    assert not is_key(key)
    with pytest.raises(InvalidKey) as caught:
        require_key(key)
    assert caught.value.status == 400
    assert str(MAX_KEY) in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", "..", "a/.", "a/.."])
def test_legal_prefixes(prefix: str) -> None:
    assert require_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "a//", "../a", "a/../b", "é", "a b", "a" * 513])
def test_illegal_prefixes(prefix: str) -> None:
    with pytest.raises(InvalidKey):
        require_prefix(prefix)


def test_an_object_key_can_be_read_by_people() -> None:
    assert key_of("9606") == "in.gov.x/incom/8f/9606.v1-0123456789abcdef.pdf"
    assert key_of("9606", version=12, language="hi-IN").endswith("/9606.v12-hi-in-0123456789abcdef.pdf")


ODD = [
    ".", "..", "...", "....", "a..b", "a.", ".a", "a", "~", "~a", "-", "--", "_", "con", "con.pdf", "nul.x", "console", "COM1", "lpt9.",
    "x" * 96, "x" * 97, "x" * 128, "x" * 127 + "y", "." * 128, "a.v1-0123456789abcdef.pdf", "a.v1", "a.v1-en", "a-en",
]  # fmt: skip


def test_every_representation_has_its_own_key() -> None:
    """Odd ids, versions, languages and types in every combination give legal, different, lower-case keys."""
    keys = [
        key_of(doc_id, version=version, language=language, media_type=media_type)
        for doc_id, version, language, media_type in itertools.product(
            ODD, (1, 11), (None, "en", "hi-IN", "v1"), (*EXTENSIONS, "text/plain", "text/x-other")
        )
    ]
    assert len(set(keys)) == len(keys)
    assert all(is_key(key) and key == key.lower() for key in keys)


def test_ids_that_file_systems_mistake_are_replaced() -> None:
    for doc_id in (".", "..", "...", "con", "nul.x", "a.", ".tmp", "~a", "x" * 128):
        assert key_of(doc_id).rpartition("/")[2].startswith("~")
    for doc_id in ("a..b", "console", "icon", "a~b", "9606884969"):
        assert key_of(doc_id).rpartition("/")[2].startswith(doc_id + ".v1-")


def test_a_key_follows_the_uri_without_regard_to_case() -> None:
    assert key_of("AB-12", issuer="In.Gov.X", doc_type="incom") == key_of("ab-12")


def test_the_longest_uri_gives_a_legal_key() -> None:
    key = key_of("z" * 96, issuer="i" * 128, doc_type="T" * 32, version=10**9, media_type="application/x-long",
                 language="en-" + "abcdefgh-" * 3 + "abcd")  # fmt: skip
    assert is_key(key)


def test_issuers_and_types_named_like_devices() -> None:
    assert key_of("1", issuer="con", doc_type="AUX").startswith("~con/~aux/")
    assert key_of("1", issuer="nul.in").startswith("~nul.in/")


def test_extensions_are_one_to_one() -> None:
    assert len(set(EXTENSIONS.values())) == len(EXTENSIONS)
