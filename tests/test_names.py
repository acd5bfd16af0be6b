"""Names of people's choosing: what is taken, what is refused, and that two servers never share a label."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcelair.errors import InvalidInput
from sourcelair.names import MAX_HOST, MAX_LABEL, WILDCARD, check_name, host_label, normalise_host

NAMES = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True).filter(lambda name: len(name) <= 30)
PROJECTS = NAMES.filter(lambda name: len(name) >= 3)
NASTY = st.text() | st.sampled_from(
    ["", "a\r\nb", "a\n", "\r", "<b>x</b>", "a b", "a\x00b", "é", "\ud800", "x" * 10_000_000, "${IFS}", "a;b", "{{a}}"]
)


@settings(deadline=None)
@given(NAMES, PROJECTS)
def test_a_label_splits_in_one_way_only(owner: str, project: str) -> None:
    """Its only double hyphen stands between project and owner, and never in places 3 and 4 (RFC 5891, 4.2.3.1)."""
    label = host_label(owner, project)
    assert label.split("--") == [project, owner]
    assert label.count("--") == 1 and "---" not in label
    assert label[2:4] != "--"
    assert normalise_host(f"{label}.localhost") == f"{label}.localhost"


@settings(deadline=None)
@given(NASTY)
def test_anything_else_is_invalid_input(value: str) -> None:
    """Whatever comes in, the answer is the name itself or InvalidInput, in one line of bearable length."""
    for check in (lambda text: check_name("owner", text), lambda text: check_name("project", text)):
        try:
            assert check(value) == value
            assert value.isascii() and value.replace("-", "").isalnum() and value == value.lower()
        except InvalidInput as error:
            refused = error.detail
        else:
            continue
        assert refused.isprintable() and len(refused) < 1000


@pytest.mark.parametrize("name", ["a--b", "-a", "a-", "A", "a_b", "a.b", "", "x" * (MAX_LABEL + 1), "abc\n", "ａｂｃ"])
def test_names_that_are_refused(name: str) -> None:
    """Each would make a label that is ambiguous, or no label."""
    for kind in ("owner", "project"):
        with pytest.raises(InvalidInput, match=f"^{kind}: "):
            check_name(kind, name)


def test_a_project_has_three_characters() -> None:
    """With two, the label's hyphens would stand where IDNA reserves them; an owner may have one."""
    with pytest.raises(InvalidInput, match="too short"):
        check_name("project", "ab")
    assert check_name("owner", "a") == "a"


def test_a_label_has_63_characters_at_most() -> None:
    """Both names may be fine and too long together; the message has the numbers."""
    assert len(host_label("o" * 30, "p" * 31)) == 63
    with pytest.raises(InvalidInput, match="64 characters"):
        host_label("o" * 31, "p" * 31)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("Blog--Demo.LOCALHOST", "blog--demo.localhost"),
        ("blog.example.com.", "blog.example.com"),
        ("blog.example.com:8080", "blog.example.com"),
        ("blog.example.com.:8080", "blog.example.com"),
        ("blog.example.com:", "blog.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example:80", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example.", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("FAẞ.example", "xn--fa-hia.example"),
        ("ς.example", "xn--3xa.example"),
        ("ｅｘample。example", "example.example"),
        ("my_app.bücher.example", "my_app.xn--bcher-kva.example"),
        ("my_app.example", "my_app.example"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[::1]:8080", "[::1]"),
        ("::1", "[::1]"),
        ("[2001:DB8:0:0:0:0:0:1]:443", "[2001:db8::1]"),
        ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]"),
        (WILDCARD, WILDCARD),
    ],
)
def test_hosts_have_one_form(value: str, host: str) -> None:
    """However a browser or a person writes it."""
    assert normalise_host(value).replace("[::ffff:102:304]", "[::ffff:1.2.3.4]") == host
    assert normalise_host(normalise_host(value)) == normalise_host(value)


@pytest.mark.parametrize(
    "value",
    [
        "", ".", ":80", "a..b", " a", "a ", "a\r\n", "a\nb", "a/b", "http://a", "a:b", "a:80:", "a:123456", "[::1",
        "::1]",
        "[::1]x", "[::1]:x", "[]", "[1.2.3.4]", "[fe80::1%eth0]", "fe80::1%eth0", "1.2.3", "1.2.3.256", "01.2.3.4",
        "a.1",
        "-a.b", "a-.b", "x" * 64 + ".b", "a." * 130, "a" * 5000, "*", "*.a", "$wildcard.", "a;b", "a b", "é" * 70,
        "a\u3002\u3002b", "\ud800.a", "a：80", "a:８0", "[：：1]", "a\u200d.b\x00", "a@b", "<a>", "\uff0e",
        "💩.example", "℀.example", "a\u00ad\u200b.b/", "xé--a.b",
    ],
)  # fmt: skip
def test_hosts_that_are_refused(value: str) -> None:
    """With a message in one line of bearable length."""
    with pytest.raises(InvalidInput) as refused:
        normalise_host(value)
    assert refused.value.detail.isprintable() and len(refused.value.detail) < 600


@settings(deadline=None)
@given(NASTY | st.from_regex(r"[a-z\[\]:0-9.%é-]{0,40}", fullmatch=True))
def test_any_host_is_normal_or_invalid(value: str) -> None:
    """What is accepted is safe in a URL and a log line, and normalising it again changes nothing."""
    try:
        host = normalise_host(value)
    except InvalidInput:
        return
    assert host == WILDCARD or set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.[]:")
    assert 0 < len(host) <= MAX_HOST
    assert normalise_host(host) == host
