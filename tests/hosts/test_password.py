"""Passwords: from the environment or a prompt, typed once, handed on to the pytest of a run, written nowhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli.console import UserError
from harness.cli.host_run import password_for
from harness.hosts import login
from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from tests.hosts.password_server import PasswordServer

SECRET = "correct-horse-battery"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PasswordServer]:
    monkeypatch.setattr(login, "_passwords", {})
    made = PasswordServer(tmp_path, SECRET)
    yield made
    made.stop()


@pytest.fixture
def lab(server: PasswordServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server as a host of a lab file."""
    spec = server.spec()
    file = tmp_path / "lab.toml"
    file.write_text(
        f'[host.lab]\naddress = "127.0.0.1"\nport = {spec.port}\nuser = "somebody"\nuse_agent = false\n'
        f'use_ssh_config = false\nknown_hosts = ["{spec.known_hosts[0]}"]\n'
    )
    monkeypatch.setenv("NSVM_LAB", str(file))
    return "host:lab"


def types(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """A person at a terminal, who types these words; gives the prompts that they were shown."""
    shown: list[str] = []
    left = list(words)

    def getpass(prompt: str) -> str:
        shown.append(prompt)
        return left.pop(0)

    monkeypatch.setattr(login.getpass, "getpass", getpass)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    return shown


def test_from_the_environment(
    server: PasswordServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shown = types(monkeypatch)
    monkeypatch.setenv("NSVM_SSH_PASSWORD", SECRET)
    with caplog.at_level(logging.DEBUG), Connection(server.spec()) as host:
        assert host.alive()

    assert (server.tried, shown) == ([SECRET], [])
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


def test_a_prompt_is_shown_once(server: PasswordServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = types(monkeypatch, SECRET)
    for _ in range(2):
        with Connection(server.spec()) as host:
            assert host.alive()

    assert shown == ["Password of somebody@127.0.0.1: "]
    assert server.tried == [SECRET, SECRET]


def test_a_wrong_one_is_not_kept(server: PasswordServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = types(monkeypatch, "wrong", SECRET)
    with pytest.raises(HostError, match=r"host lab: somebody@127\.0\.0\.1 refuses the password"):
        Connection(server.spec())
    with Connection(server.spec()) as host:
        assert host.alive()

    assert len(shown) == 2


def test_without_a_terminal_nobody_is_asked(server: PasswordServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = types(monkeypatch)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(HostError, match="set NSVM_SSH_PASSWORD"):
        Connection(server.spec())

    assert (server.tried, shown) == ([], [])


def test_a_run_hands_on_what_was_typed(server: PasswordServer, lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = types(monkeypatch, SECRET)

    assert password_for(lab) == {"NSVM_SSH_PASSWORD": SECRET}
    assert len(shown) == 1 and SECRET not in sys.argv


def test_a_run_asks_nobody_where_there_is_no_need(
    server: PasswordServer, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = types(monkeypatch)
    assert password_for("qemu-tcg") == password_for("sim:kvm") == {}
    monkeypatch.setenv("NSVM_SSH_PASSWORD", SECRET)
    assert password_for(lab) == {}

    assert (server.tried, shown) == ([], [])


def test_a_refusal_ends_the_run_in_one_line(server: PasswordServer, lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    types(monkeypatch, "wrong")
    with pytest.raises(UserError, match=r"^host lab: somebody@127\.0\.0\.1 refuses the password$"):
        password_for(lab)


def test_two_hosts_may_have_two_passwords(
    server: PasswordServer, lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = PasswordServer(tmp_path / "other", "another")
    shown = types(monkeypatch, SECRET, "another")
    spec = other.spec()
    url = f"ssh://somebody@127.0.0.1:{spec.port}?use_agent=false&use_ssh_config=false&known_hosts={spec.known_hosts[0]}"

    assert password_for(lab) == {"NSVM_SSH_PASSWORD": SECRET}
    assert password_for(url) == {"NSVM_SSH_PASSWORD": "another"}
    assert len(shown) == 2
    other.stop()
