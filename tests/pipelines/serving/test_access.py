"""Who is answered."""

import pytest

from raydc.core.settings import SettingsError
from raydc.distributed.ray_cluster import NotPermitted
from raydc.pipelines.serving.access import TOKEN, access, is_loopback
from raydc.pipelines.serving.settings import Serving

SECRET = "a-token-of-sixteen-letters-or-more"


@pytest.fixture
def token_file(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    return str(tmp_path / "token")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_without_a_token_this_machine_is_answered(monkeypatch, host):
    monkeypatch.delenv(TOKEN, raising=False)
    assert is_loopback(host)
    permitted = access(Serving(model="a"), host)
    assert permitted.refuses({"host": "localhost:8000"}) is None
    assert permitted.refuses({"host": "[::1]:8000"}) is None


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example:80", "", "[::2]:80", "10.0.0.1"])
def test_a_page_from_elsewhere_cannot_ask_through_a_browser(monkeypatch, host):
    monkeypatch.delenv(TOKEN, raising=False)
    assert "localhost" in access(Serving(model="a"), "127.0.0.1").refuses({"host": host})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "cluster.example", None])
def test_beyond_this_machine_a_token_is_needed(monkeypatch, token_file, host):
    with pytest.raises(NotPermitted, match=TOKEN):
        access(Serving(model="a"), host)
    assert access(Serving(model="a", public=True), host).refuses({"host": "anything"}) is None
    given = access(Serving(model="a", token_file=token_file), host)
    monkeypatch.setenv(TOKEN, SECRET)
    assert access(Serving(model="a"), host) == given
    assert SECRET not in repr(given)


@pytest.mark.parametrize(
    ("header", "answered"),
    [
        (f"Bearer {SECRET}", True),
        (f"bearer  {SECRET} ", True),
        (f"Basic {SECRET}", False),
        (f"Bearer {SECRET}x", False),
        (f"Bearer {SECRET[:-1]}", False),
        (f"Bearer {SECRET} {SECRET}", False),
        ("Bearer", False),
        ("Bearer äöü", False),
        ("", False),
    ],
)
def test_the_token_is_the_whole_token(token_file, header, answered):
    for public in (False, True):  # a token that is given is asked for in any case
        permitted = access(Serving(model="a", token_file=token_file, public=public), "127.0.0.1")
        assert (permitted.refuses({"authorization": header, "host": "localhost"}) is None) == answered


@pytest.mark.parametrize("text", ["", "short", "two words, and long enough", "ünicode-and-long-enough"])
def test_a_token_that_can_be_guessed_or_mistaken_is_refused(tmp_path, monkeypatch, text):
    (tmp_path / "token").write_text(text)
    with pytest.raises(SettingsError, match=r"token_file.*16"):
        access(Serving(model="a", token_file=str(tmp_path / "token")), "127.0.0.1")
    monkeypatch.setenv(TOKEN, text)
    with pytest.raises(SettingsError, match=f"{TOKEN}.*16"):
        access(Serving(model="a"), "127.0.0.1")


def test_a_token_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere.*No such file"):
        access(Serving(model="a", token_file=str(tmp_path / "nowhere")), "127.0.0.1")
