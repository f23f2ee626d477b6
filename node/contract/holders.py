"""Whose document it is: a holder is a scheme and a value, and the value is never kept or logged in clear."""

import hashlib
import hmac
import re
from dataclasses import dataclass

SCHEMES = ("aadhaar", "mobile", "email", "locker-id", "local")

_HASH = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})\Z")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}\Z")
_LOCAL = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?\Z")

# Verhoeff's dihedral check (J. Verhoeff, Error Detecting Decimal Codes, 1969): multiplication in D5 and the position permutation.
_PRODUCT = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTATION = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


class InvalidHolder(ValueError):
    """The holder's scheme or value is not acceptable; the text never repeats the value."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A holder in its normal form; ``repr`` hides the value."""

    scheme: str
    value: str

    @classmethod
    def parse(cls, scheme: str, value: str) -> "Holder":
        """Bring a value into its scheme's normal form.

        Aadhaar numbers are checked (Verhoeff), or given as an MD5, SHA-1 or SHA-256 in hex, which stays what it is; mobile
        numbers become E.164 (ten digits are Indian); mail addresses are lower-cased. Raises InvalidHolder.
        """
        scheme = scheme.strip().lower()
        normalise = _NORMAL_FORMS.get(scheme)
        if normalise is None:
            raise InvalidHolder(f"a holder scheme is one of {', '.join(SCHEMES)}")
        return cls(scheme, normalise(value.strip()))

    @property
    def last_four(self) -> str:
        """What may be shown for telling documents apart: the last four characters, fewer of a short value."""
        return self.value[-4:] if len(self.value) > 8 else self.value[-1:]

    def keyed_hash(self, key: bytes) -> str:
        """Return HMAC-SHA-256 over scheme and value under a node's or locker's own key, in hex."""
        message = f"{self.scheme}\x00{self.value}".encode()
        return hmac.new(key, message, hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return f"Holder(scheme={self.scheme!r}, value='***')"


def verhoeff_valid(digits: str) -> bool:
    """Tell whether the last digit is the Verhoeff check digit of those before it."""
    check = "0"
    for position, digit in enumerate(reversed(digits)):
        check = _PRODUCT[int(check)][int(_PERMUTATION[position % 8][int(digit)])]
    return check == "0"


def _aadhaar(value: str) -> str:
    compact = re.sub(r"[ -]", "", value).lower()
    if _HASH.match(compact):
        return compact
    if not re.fullmatch(r"[2-9][0-9]{11}", compact) or not verhoeff_valid(compact):
        raise InvalidHolder("an Aadhaar number has twelve digits with a valid check digit")
    return compact


def _mobile(value: str) -> str:
    compact = re.sub(r"[ ()-]", "", value)
    if re.fullmatch(r"0?[6-9][0-9]{9}", compact):
        return "+91" + compact[-10:]
    if not re.fullmatch(r"\+[1-9][0-9]{7,14}", compact):
        raise InvalidHolder("a mobile number has ten digits or is written +CC…")
    return compact


def _email(value: str) -> str:
    if not _EMAIL.match(value):
        raise InvalidHolder("a mail address is written name@domain")
    return value.lower()


def _local(value: str) -> str:
    if not _LOCAL.match(value):
        raise InvalidHolder("a local or locker id has 1 to 128 printable ASCII characters")
    return value


_NORMAL_FORMS = {"aadhaar": _aadhaar, "mobile": _mobile, "email": _email, "locker-id": _local, "local": _local}
