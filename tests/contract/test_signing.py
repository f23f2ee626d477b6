"""JWS: one algorithm, one purpose a key, and a reason for every refusal."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.contract.signing import (
    CONSENT,
    LOCKER_PURPOSES,
    TICKET,
    KeySet,
    SignatureRefused,
    SigningKey,
    VerifyingKey,
    decode_base64url,
    encode_base64url,
    fingerprint,
    sign,
    verify,
)

KEY = SigningKey.generate(TICKET)
KEYS = KeySet([KEY.public])


def part(value):
    return encode_base64url(json.dumps(value).encode())


def forged(header, claims=None, signature=None):
    signed = f"{part(header)}.{part(claims or {'a': 1})}"
    return f"{signed}.{signature if signature is not None else encode_base64url(KEY.key.sign(signed.encode()))}"


def reason(token, typ=TICKET, keys=KEYS):
    with pytest.raises(SignatureRefused) as caught:
        verify(token, typ, keys)
    return caught.value.reason


def test_what_was_signed_comes_back():
    claims = {"iss": "https://locker.example", "name": "अनिता", "n": 7, "none": None}
    assert verify(sign(claims, KEY), TICKET, KeySet.from_jwks(KEYS.jwks())) == claims


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256", "ES256", "EdDSA ", "eddsa", None, 1])
def test_only_eddsa_is_taken(alg):
    assert reason(forged({"alg": alg, "typ": TICKET, "kid": KEY.kid})) == "wrong-alg"


def test_a_public_key_used_as_an_hmac_secret_is_refused():
    signed = f"{part({'alg': 'HS256', 'typ': TICKET, 'kid': KEY.kid})}.{part({'a': 1})}"
    mac = hmac.new(KEY.public.key.public_bytes_raw(), signed.encode(), hashlib.sha256).digest()
    assert reason(f"{signed}.{encode_base64url(mac)}") == "wrong-alg"


def test_each_purpose_is_refused_as_each_other():
    keys = [SigningKey.generate(purpose) for purpose in LOCKER_PURPOSES]
    known = KeySet(key.public for key in keys)
    for key in keys:
        for purpose in LOCKER_PURPOSES:
            token = sign({"a": 1}, key)
            if purpose == key.typ:
                assert verify(token, purpose, known) == {"a": 1}
            else:
                assert reason(token, purpose, known) == "wrong-typ"


def test_a_key_of_another_purpose_cannot_claim_the_typ():
    other = SigningKey.generate(CONSENT)
    signed = f"{part({'alg': 'EdDSA', 'typ': TICKET, 'kid': other.kid})}.{part({'a': 1})}"
    token = f"{signed}.{encode_base64url(other.key.sign(signed.encode()))}"
    assert reason(token, TICKET, KeySet([other.public])) == "key-purpose"


def test_an_unknown_key_and_another_key_under_a_known_kid():
    other = SigningKey.generate(TICKET)
    assert reason(sign({"a": 1}, other)) == "unknown-key"
    wearing = SigningKey(TICKET, other.key, KEY.kid)
    assert reason(sign({"a": 1}, wearing)) == "bad-signature"
    assert (
        reason(sign({"a": 1}, wearing), keys=KeySet([VerifyingKey("x", TICKET, KEY.key.public_key())])) == "unknown-key"
    )


@pytest.mark.parametrize(
    "token",
    ["", "a", "a.b", "a.b.c.d", "....", "é.a.b", "!.!.!", "x" * 20_000 + ".a.b", f"{'W' * 8}.e30.e30", "bnVsbA.e30.AA",
     f"{part([1])}.e30.AA", base64.b64encode(b'{"a":1}').decode() + ".e30.AA"],
)  # fmt: skip
def test_what_is_no_jws_is_malformed(token):
    assert reason(token) == "malformed"


def test_deep_json_is_malformed_and_nothing_worse():
    deep = encode_base64url(b"[" * 9_000)
    assert reason(f"{deep}.e30.AA") == "malformed"


def test_critical_extensions_are_refused():
    assert reason(forged({"alg": "EdDSA", "typ": TICKET, "kid": KEY.kid, "crit": ["b64"]})) == "wrong-alg"


@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=1, max_value=255))
def test_any_flipped_byte_is_refused(position, flip):
    token = bytearray(sign({"iss": "https://locker.example", "n": 1}, KEY).encode())
    position %= len(token)
    token[position] ^= flip
    with pytest.raises(SignatureRefused):
        verify(token.decode("latin-1"), TICKET, KEYS)


@pytest.mark.parametrize("text", ["a", "ab=", "a+b/", "YQ==", "YR", "a b", "é"])
def test_base64url_has_one_spelling(text):
    with pytest.raises(ValueError, match="base64url"):
        decode_base64url(text)


def test_the_fingerprint_does_not_depend_on_order():
    other = SigningKey.generate(CONSENT)
    assert fingerprint(KeySet([KEY.public, other.public])) == fingerprint(KeySet([other.public, KEY.public]))
    assert fingerprint(KEYS) != fingerprint(KeySet([other.public]))


def test_a_key_survives_its_file_and_does_not_show_itself():
    assert SigningKey.from_pem(TICKET, KEY.pem()).kid == KEY.kid
    assert "PRIVATE" not in repr(KEY)
