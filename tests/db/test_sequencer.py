"""A leaf is the hash of canonical JSON, though it is not written by the general writer."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from node.contract.canonical import canonical_json
from node.db.sequencer import document_tag, leaf_hash


@given(st.integers(0, 2**53 - 1), st.text(max_size=20), st.integers(1, 2**53 - 1), st.binary(min_size=32, max_size=32))
def test_a_leaf_is_the_hash_of_the_canonical_entry(position: int, uri_key: str, doc_n: int, commitment: bytes) -> None:
    tag = document_tag(b"k" * 32, uri_key)
    entry = {"commitment": commitment.hex(), "doc_n": doc_n, "doc_tag": tag, "position": position}
    assert leaf_hash(position, tag, doc_n, commitment) == hashlib.sha256(b"\0" + canonical_json(entry)).digest()
