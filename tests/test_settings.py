"""Settings: which source wins, and that a mistake is one line which names the setting as its author wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcelair.errors import InvalidInput
from sourcelair.settings import Settings, load_settings, split_address, split_port_range
from sourcelair.settings_reference import render


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In an empty directory, without the variables of whoever runs the tests."""
    import os

    for name in list(os.environ):
        if name.startswith("LAIR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_source_overrides_the_one_before(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default < lair.toml < LAIR_* < flags; a flag of None, and an empty variable, were not given."""
    assert load_settings().patience == 0.8
    (alone / "lair.toml").write_text('patience = 1\ndomain = "Toml.Example"\nnode = "toml"\n')
    assert load_settings().patience == 1
    monkeypatch.setenv("LAIR_PATIENCE", "2")
    monkeypatch.setenv("LAIR_NODE", "env")
    assert load_settings().patience == 2
    loaded = load_settings({"patience": 3, "node": None})
    assert (loaded.patience, loaded.node, loaded.domain) == (3, "env", "toml.example")
    monkeypatch.setenv("LAIR_NODE", "")
    assert load_settings().node == "toml"


def test_lair_config_says_where_the_file_is(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then it must exist; without it, a missing lair.toml is fine."""
    (alone / "other.toml").write_text("held_total = 7")
    monkeypatch.setenv("LAIR_CONFIG", "other.toml")
    assert load_settings().held_total == 7
    monkeypatch.setenv("LAIR_CONFIG", "none.toml")
    with pytest.raises(InvalidInput, match=r"^none.toml: there is no such file \(LAIR_CONFIG names it\)\.$"):
        load_settings()


def problem(flags: dict[str, object] | None = None) -> str:
    """The one line that a mistake makes."""
    with pytest.raises(InvalidInput) as raised:
        load_settings(flags)
    detail = raised.value.detail
    assert "\n" not in detail and len(detail) < 400
    return detail


def test_a_mistake_is_named_where_it_was_made(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file, in the environment, or on the command line: the one that counts."""
    (alone / "lair.toml").write_text('listen = "8080"')
    assert problem().startswith("listen in lair.toml: '8080' is not an address: write host:port")
    monkeypatch.setenv("LAIR_LISTEN", ":80")
    assert problem().startswith("LAIR_LISTEN: ")
    assert problem({"listen": "x:0"}).startswith("--listen: ")
    monkeypatch.setenv("LAIR_LISTEN", "127.0.0.1:80")
    assert load_settings().listen == "127.0.0.1:80"


def test_what_is_unknown_is_said_with_the_nearest_that_is_known(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt setting is never ignored in silence; our variables that are no settings may stay."""
    monkeypatch.setenv("LAIR_LISSEN", "x")
    assert problem() == "LAIR_LISSEN: there is no such setting; did you mean LAIR_LISTEN?"
    monkeypatch.delenv("LAIR_LISSEN")
    for name in ("LAIR_INSTANCE", "LAIR_INSTALLATION", "LAIR_DEBUG", "LAIR_TEST_STALL"):
        monkeypatch.setenv(name, "x")
    load_settings()
    (alone / "lair.toml").write_text("held_perhost = 1")
    assert problem() == "held_perhost in lair.toml: there is no such setting; did you mean held_per_host?"
    (alone / "lair.toml").write_text('"a\\nb" = 1')
    assert "'a\\nb'" in problem()
    (alone / "lair.toml").write_text("[node]\nname = 1")
    assert problem().startswith("node in lair.toml: ")


@pytest.mark.parametrize("text", [b"listen = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(alone: Path, text: bytes) -> None:
    """With the place of the mistake, where TOML's reader knows it."""
    (alone / "lair.toml").write_bytes(text)
    assert problem().startswith("lair.toml: not valid TOML: ")


def test_a_file_that_cannot_be_read_is_named(alone: Path) -> None:
    """Such as a directory of that name."""
    (alone / "lair.toml").mkdir()
    assert problem() == "lair.toml: Is a directory."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "a b:80"), ("listen", "a\r\nb:80"), ("listen", "a;b:80"), ("listen", "127.0.0.1:65536"),
        ("listen", "127.0.0.1:٣"), ("api_listen", ""), ("domain", "a\nb"), ("domain", "a:80"), ("domain", "$wildcard"),
        ("public_scheme", "ftp"), ("public_port", 0), ("log_level", "loud"), ("log_format", "xml"), ("node", "a\n"),
        ("node", "a/b"), ("nginx_workers", 0), ("patience", -1), ("patience", "inf"), ("wake_timeout", "nan"),
        ("trusted_proxies", ["10.0.0.0/8", "x"]), ("trusted_proxies", "10.0.0.0/33"), ("port_range", "9-3"),
        ("port_range", "1-70000"), ("port_range", "80"), ("advertise_address", "a;b"), ("demo", "perhaps"),
    ],
)  # fmt: skip
def test_values_that_are_refused(name: str, value: object) -> None:
    """Each as one line that begins with the flag."""
    assert problem({name: value}).startswith(f"--{name.replace('_', '-')}: ")


def test_lists_come_as_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable has commas between its values."""
    monkeypatch.setenv("LAIR_TRUSTED_PROXIES", "10.0.0.0/8, ::1,192.168.1.1")
    assert load_settings().trusted_proxies == ["10.0.0.0/8", "::1", "192.168.1.1"]


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a representation, and not in the message of another mistake."""
    monkeypatch.setenv("LAIR_TOKEN", "lair_admin_secret")
    loaded = load_settings()
    assert loaded.token == "lair_admin_secret" and "secret" not in repr(loaded) and "secret" not in str(loaded)
    assert "secret" not in problem({"patience": -1})


def test_the_data_directory_is_absolute(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing moves when the working directory changes; `~` is the home directory."""
    monkeypatch.setenv("HOME", str(alone / "home"))
    assert load_settings({"data_dir": "x"}).data_dir == alone / "x"
    assert load_settings({"data_dir": "~/x"}).data_dir == alone / "home" / "x"
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert load_settings().data_dir == alone / "home" / ".local" / "share" / "sourcelair"


@settings(deadline=None)
@given(st.text() | st.from_regex(r"[a-z\[\]:.-]{0,20}:[0-9]{0,6}", fullmatch=True))
def test_addresses_split_or_are_refused(value: str) -> None:
    """Whatever is given, there is a host and a port, or a ValueError."""
    try:
        host, port = split_address(value)
    except ValueError:
        return
    assert 0 < port < 65536 and host and not set(host) & set(" \r\n;{}[]$")


def test_addresses_and_ranges() -> None:
    """The forms that the reference page shows."""
    assert split_address("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert split_address("[::1]:8080") == ("::1", 8080)
    assert split_address("localhost:1") == ("localhost", 1)
    assert split_port_range("20000-29999") == (20000, 29999)


def test_the_reference_page_is_current() -> None:
    """docs/reference/settings.md is what the settings say of themselves, and none is without a word."""
    page = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"
    assert page.read_text() == render(), "run: python -m sourcelair.settings_reference > docs/reference/settings.md"
    assert all(field.description for field in Settings.model_fields.values())
