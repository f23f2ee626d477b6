"""What keeps a node or a locker out of production."""

import datetime
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from node.web.production import mark_as_demo, require_fit, unfit_for_production

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def certificate(file, *, self_made):
    """Write a certificate of its own key, or of an authority's."""
    key, authority = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node.example")])
    # The same name on both sides: that alone does not make a certificate self-made.
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW, NOW + datetime.timedelta(days=3650))
    signed = builder.sign(key if self_made else authority, SHA256())
    file.write_bytes(signed.public_bytes(Encoding.PEM))
    return file


@pytest.fixture
def faults(tmp_path):
    def look(**changes):
        good = {
            "environment": "production",
            "path": tmp_path.joinpath,
            "folder": tmp_path,
            "base_url": "https://node.example",
            "tls_certificate": certificate(tmp_path / "c.pem", self_made=False),
            "trusted_proxies": (),
            "allow_private": ("10.0.0.0/8", "fc00::/7"),
        }
        return unfit_for_production(SimpleNamespace(**{**good, **changes}))

    return look


def test_a_certificate_or_a_named_proxy_under_an_https_address_is_fit(faults):
    assert faults() == []
    assert faults(tls_certificate=None, trusted_proxies=("192.168.1.4/32",)) == []


@pytest.mark.parametrize(
    ("changes", "key", "named"),
    [
        ({"base_url": "http://node.example"}, "base_url", "http://node.example"),
        ({"base_url": "http://n.example", "trusted_proxies": ("127.0.0.1/32",)}, "base_url", "not https"),
        ({"tls_certificate": None}, "tls_certificate", "trusted_proxies"),
        ({"trusted_proxies": ("0.0.0.0/0",)}, "trusted_proxies", "0.0.0.0/0"),
        ({"allow_private": ("10.0.0.0/8", "::/0")}, "allow_private", "::/0"),
        ({"allow_private": ("0.0.0.0/1", "10.0.0.0/8")}, "allow_private", "0.0.0.0/1"),
    ],
)
def test_each_fault_is_told_with_its_setting(faults, changes, key, named):
    ((found, text),) = faults(**changes)
    assert found == key and named in text


def test_a_certificate_that_vouches_for_itself_is_a_fault(faults, tmp_path):
    ((key, text),) = faults(tls_certificate=certificate(tmp_path / "own.pem", self_made=True))
    assert key == "tls_certificate" and "own.pem" in text


def test_what_was_made_for_a_demonstration_stays_one(faults, tmp_path):
    mark_as_demo(tmp_path)
    ((key, text),) = faults()
    assert key == "environment" and str(tmp_path) in text


def test_a_certificate_that_cannot_be_read_is_left_to_others(faults, tmp_path):
    (tmp_path / "rubbish.pem").write_text("rubbish")
    assert faults(tls_certificate=tmp_path / "rubbish.pem") == faults(tls_certificate=tmp_path / "none.pem") == []


def test_a_demonstration_may_have_all_of_it_and_a_refusal_names_the_file(faults, tmp_path):
    mark_as_demo(tmp_path)
    assert faults(environment="demo", base_url="http://node.example", tls_certificate=None) == []
    settings = SimpleNamespace(
        environment="production", folder=tmp_path, base_url="http://node.example", tls_certificate=None,
        trusted_proxies=(), allow_private=(), path=tmp_path.joinpath,
    )  # fmt: skip
    with pytest.raises(LookupError) as refused:
        require_fit(settings, "settings.toml", LookupError)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{tmp_path / 'settings.toml'}: ") for line in lines)
