"""What a route may be for, and that it has one spelling."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcelair.ceryx.sources import MAX_SEGMENTS, MAX_SOURCE, clean_source
from sourcelair.errors import InvalidInput


@pytest.mark.parametrize(
    ("source", "cleaned"),
    [
        ("Example.com.:8080/", "example.com"),
        ("example.com/docs", "example.com/docs"),
        ("example.com/docs/", "example.com/docs"),
        ("example.com/Docs/API", "example.com/Docs/API"),
        ("example.com/%64ocs/%7euser", "example.com/docs/~user"),
        ("example.com/b\u00fccher", "example.com/b%C3%BCcher"),
        ("example.com/b%c3%bccher", "example.com/b%C3%BCcher"),
        ("example.com/a b", "example.com/a%20b"),
        ("example.com/a+b,c=d@e:f", "example.com/a+b,c=d@e:f"),
        ("example.com/.well-known/x", "example.com/.well-known/x"),
        ("example.com/x/.hemera", "example.com/x/.hemera"),
        ("[::1]:80/docs", "[::1]/docs"),
        ("*.EXAMPLE.com", "*.example.com"),
        ("*.b\u00fccher.example/docs", "*.xn--bcher-kva.example/docs"),
        ("*.com", "*.com"),
        ("$wildcard", "$wildcard"),
        ("$wildcard/docs/", "$wildcard/docs"),
        ("a/" + "x/" * MAX_SEGMENTS, "a" + "/x" * MAX_SEGMENTS),
        ("a/" + "x" * (MAX_SOURCE - 2), "a/" + "x" * (MAX_SOURCE - 2)),
    ],
)
def test_sources_have_one_form(source: str, cleaned: str) -> None:
    """However a person writes it, and however a client escapes it."""
    assert clean_source(source) == cleaned
    assert clean_source(cleaned) == cleaned


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("http://example.com/docs", "begins with a scheme"),
        ("/docs", "is not a host name"),
        ("*", "use $wildcard"),
        ("*/docs", "use $wildcard"),
        ("*.", "not a"),
        ("*.*.example.com", "not a"),
        ("a.*.example.com", "not a"),
        ("*.127.0.0.1", "only a host name"),
        ("*.[::1]", "only a host name"),
        ("*.$wildcard", "only a host name"),
        ("*." + ".".join(["a" * 62] * 3 + ["a" * 63]), "too long"),
        ("example.com//docs", "several readings"),
        ("example.com/docs//", "several readings"),
        ("example.com/docs/..", "several readings"),
        ("example.com/./docs", "several readings"),
        ("example.com/%2e%2E/docs", "several readings"),
        ("example.com/a%2Fb", "different ways"),
        ("example.com/a\\b", "different ways"),
        ("example.com/a%5cb", "different ways"),
        ("example.com/a;b", "different ways"),
        ("example.com/a?b", "different ways"),
        ("example.com/a#b", "different ways"),
        ("example.com/a%2541", "different ways"),
        ("example.com/a%00", "different ways"),
        ("example.com/a\nb", "different ways"),
        ("example.com/a%", "must begin an escape"),
        ("example.com/%zz", "must begin an escape"),
        ("example.com/\ud800", "UTF-8"),
        ("example.com/.hemera/x", "visitors reach the waker"),
        ("example.com/%2ehemera", "visitors reach the waker"),
        ("example.com" + "/x" * (MAX_SEGMENTS + 1), "9 segments; use 8"),
        ("a/" + "x" * (MAX_SOURCE - 1), "301 characters"),
        ("a/" + "\u00fc" * 60, "362 characters"),
    ],
)
def test_sources_that_are_refused(source: str, complaint: str) -> None:
    """With what is wrong, in one line of bearable length."""
    with pytest.raises(InvalidInput) as refused:
        clean_source(source)
    assert refused.value.detail.startswith("source: ") and complaint in refused.value.detail
    assert refused.value.detail.isprintable() and len(refused.value.detail) < 600


SEGMENTS = st.lists(st.text(min_size=1, max_size=6) | st.sampled_from([".", "..", "docs", "%41", ";"]), max_size=4)


@settings(deadline=None)
@given(st.sampled_from(["example.com", "*.example.com", "$wildcard", "1.2.3.4"]), SEGMENTS)
def test_any_path_is_normal_or_invalid(host: str, segments: list[str]) -> None:
    """What is accepted is printable ASCII of safe characters, the same again, and the same when it is escaped."""
    written = "".join(f"/{segment}" for segment in segments)
    try:
        source = clean_source(host + written)
    except InvalidInput:
        return
    assert source.isascii() and source.isprintable() and " " not in source
    assert not set(source.removeprefix(host)) & set("\\;#?")
    assert "//" not in source and "/../" not in f"{source}/" and len(source) <= MAX_SOURCE
    assert clean_source(source) == source
    assert clean_source(host + "".join(f"/{quote(segment, safe='%/')}" for segment in segments)) == source
