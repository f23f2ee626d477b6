"""Which addresses may be connected to."""

from ipaddress import ip_address

import pytest

from node.web.destinations import DestinationRefused, Destinations, DestinationUnreachable, is_public, resolve

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_not_public(text):
    assert not is_public(ip_address(text))
    with pytest.raises(DestinationRefused):
        Destinations(resolver=lambda *_: [text]).addresses("node.example", 443, encrypted=True)


@pytest.mark.parametrize("text", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public(text):
    assert is_public(ip_address(text))
    assert Destinations(resolver=lambda *_: [text]).addresses("node.example", 443, encrypted=True) == [text]


def test_a_public_address_needs_tls_and_a_listed_one_does_not():
    destinations = Destinations(["10.0.0.0/8"], lambda host, _: ["10.0.0.1"] if host == "inner" else [PUBLIC])
    assert destinations.addresses("inner", 80, encrypted=False) == ["10.0.0.1"]
    assert destinations.addresses("inner", 443, encrypted=True) == ["10.0.0.1"]
    with pytest.raises(DestinationRefused):
        destinations.addresses("node.example", 80, encrypted=False)


def test_listing_ipv4_covers_the_same_address_inside_ipv6():
    assert Destinations(["127.0.0.0/8"]).addresses("::ffff:127.0.0.1", 80, encrypted=False) == ["127.0.0.1"]


def test_one_bad_address_among_good_ones_refuses_the_name():
    with pytest.raises(DestinationRefused):
        Destinations(resolver=lambda *_: [PUBLIC, "127.0.0.1"]).addresses("node.example", 443, encrypted=True)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0x7f.1",
        "127.0.0.01",
        "127.0.0.1.",
        "1.2.3",
        "fe80::1%1",
        "1.0x1",
        "[::1",
    ],
)
def test_numbers_in_odd_forms_are_refused_even_where_loopback_is_listed(host):
    with pytest.raises(DestinationRefused):
        Destinations(["127.0.0.0/8"], lambda *_: ["127.0.0.1"]).addresses(host, 80, encrypted=False)


def test_names_that_do_not_resolve():
    def fail(*_):
        raise OSError

    for resolver in (fail, lambda *_: []):
        with pytest.raises(DestinationUnreachable):
            Destinations(resolver=resolver).addresses("node.example", 443, encrypted=True)


def test_what_a_resolver_gives_must_be_addresses():
    with pytest.raises(DestinationRefused):
        Destinations(["127.0.0.0/8"], lambda *_: ["localhost"]).addresses("node.example", 443, encrypted=True)


def test_the_system_s_resolver():
    assert "127.0.0.1" in resolve("localhost", 80) or "::1" in resolve("localhost", 80)


def test_a_network_that_is_none():
    with pytest.raises(ValueError):
        Destinations(["intranet"])
