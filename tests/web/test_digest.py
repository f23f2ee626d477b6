"""Digest headers: what we write we read, what is damaged is refused."""

import hashlib

import pytest

from node.contract.problems import BadRequest
from node.web.digest import format_sha256, parse_sha256

DIGEST = hashlib.sha256(b"document").digest()
VALUE = format_sha256(DIGEST)


def test_known_value():
    assert format_sha256(hashlib.sha256(b"").digest()) == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"


@pytest.mark.parametrize(
    "header", [VALUE, f"sha-512=:AAAA:, {VALUE}", f"{VALUE},unixsum=:AA==:", f" {VALUE} ", f"{VALUE};x=1"]
)
def test_found(header):
    assert parse_sha256(header) == DIGEST


def test_other_algorithms_only():
    assert parse_sha256("sha-512=:AAAA:") is None


def test_the_last_of_two_counts():
    assert parse_sha256(f"{format_sha256(bytes(32))}, {VALUE}") == DIGEST


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha-256",
        "sha-256=abc",
        "SHA-256=:AAAA:",
        "sha-256=:AAAA:",
        "sha-256=:::",
        f"{VALUE},",
        VALUE[:-1],
        VALUE.replace("=:", "=:!", 1),
    ],
)
def test_damaged(header):
    with pytest.raises(BadRequest):
        parse_sha256(header)
