"""Holders: normal forms, check digits, and a value that never shows itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.contract.holders import Holder, InvalidHolder, verhoeff_valid
from node.contract.sealing import CannotOpen, OpeningKey, SealingKey


@pytest.mark.parametrize(
    ("scheme", "text", "value"),
    [
        ("aadhaar", "2341 2341 2346", "234123412346"), ("Aadhaar", "2341-2341-2346", "234123412346"),
        ("aadhaar", "D41D8CD98F00B204E9800998ECF8427E", "d41d8cd98f00b204e9800998ecf8427e"),
        ("mobile", "98765 43210", "+919876543210"), ("mobile", "098765-43210", "+919876543210"),
        ("mobile", "+91 98765 43210", "+919876543210"), ("mobile", "+44 20 7946 0000", "+442079460000"),
        ("email", " Anita@Example.IN ", "anita@example.in"), ("local", "KA/2024/7", "KA/2024/7"),
    ],
)  # fmt: skip
def test_normal_forms(scheme, text, value):
    assert Holder.parse(scheme, text).value == value


@pytest.mark.parametrize(
    ("scheme", "text"),
    [("aadhaar", "234123412345"), ("aadhaar", "034123412346"), ("aadhaar", "23412341234"), ("aadhaar", "x"), ("mobile", "12345"),
     ("mobile", "+0123456789"), ("email", "anita"), ("email", "a b@c"),
     ("passport", "K123"), ("local", ""), ("local", "é"), ("local", "x" * 129)],
)  # fmt: skip
def test_what_is_no_holder_is_refused_without_repeating_it(scheme, text):
    with pytest.raises(InvalidHolder) as caught:
        Holder.parse(scheme, text)
    assert not text or text not in str(caught.value) or len(text) < 2


@given(st.text("0123456789", min_size=11, max_size=11), st.integers(0, 11), st.integers(1, 9))
def test_verhoeff_finds_every_wrong_digit(digits, position, change):
    number = next(digits + check for check in "0123456789" if verhoeff_valid(digits + check))
    wrong = number[:position] + str((int(number[position]) + change) % 10) + number[position + 1 :]
    assert not verhoeff_valid(wrong)


def test_the_keyed_hash_depends_on_key_scheme_and_value():
    hashes = {
        Holder(scheme, value).keyed_hash(key)
        for scheme in ("local", "email")
        for value in ("a", "b")
        for key in (b"1", b"2")
    }
    assert len(hashes) == 8


def test_the_value_does_not_show():
    holder = Holder.parse("mobile", "9876543210")
    assert "9876543210" not in repr(holder) and holder.last_four == "3210"
    assert Holder("local", "1234").last_four == "4"


def test_a_sealed_value_opens_for_its_key_and_document_only():
    key, other = OpeningKey.generate(), OpeningKey.generate()
    sealed = SealingKey.from_jwk(key.public.jwk()).seal(b"234123412346", "in.gov.example-incom-1")
    assert OpeningKey.from_pem(key.pem()).open(sealed, "in.gov.example-incom-1") == b"234123412346"
    assert key.public.seal(b"234123412346", "in.gov.example-incom-1") != sealed
    for opener, context, text in [
        (other, "in.gov.example-incom-1", sealed),
        (key, "in.gov.example-incom-2", sealed),
        (key, "in.gov.example-incom-1", sealed[:-4] + "AAAA"),
        (key, "x", "not!base64"),
        (key, "x", "A" * 5000),
    ]:
        with pytest.raises(CannotOpen):
            opener.open(text, context)
