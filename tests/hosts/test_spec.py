"""Hosts as people write them: ssh:// URLs, lab files, ~/.ssh/config. Each mistake is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.hosts.errors import HostError
from harness.hosts.lab import LabError, find, read_lab
from harness.hosts.spec import HostSpec, SpecError, from_url
from harness.hosts.ssh_config import resolve
from harness.machine.base import TargetError, TargetOptions
from harness.targets import create, file_name, is_name, names

LAB = """
[defaults]
user = "root"
grace_s = 240

[host.zen3-a]
address = "10.0.0.7"
port = 2222
l0 = "kvm"
vmm = "qemu"
vmm_args = ["-machine", "q35"]
identity_files = ["keys/lab", "~/.ssh/other"]
power_command = "ipmitool -H bmc power cycle"

[host.xen1]
l0 = "xen"
grace_s = 10
"""


def test_url() -> None:
    spec = from_url("ssh://root@lab1:2222?l0=xen&vmm=hvm&cpus_max=1&tracepoints=no&round_trip_s=0.1")

    assert (spec.user, spec.address, spec.port, spec.l0, spec.vmm) == ("root", "lab1", 2222, "xen", "hvm")
    assert (spec.cpus_max, spec.tracepoints, spec.round_trip_s, spec.name) == (1, False, 0.1, "lab1-2222")
    assert from_url("ssh://Lab1") == HostSpec("Lab1", address="Lab1")
    assert from_url("ssh://[::1]:22").address == "::1"
    assert from_url("ssh://h?vmm_args=-M,q35").vmm_args == ("-M", "q35")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ssh://root:secret@h", "NSVM_SSH_PASSWORD"),
        ("ssh://root:secret@h:99999", "NSVM_SSH_PASSWORD"),
        ("ssh://root:sec/secret@h?colour=red", "NSVM_SSH_PASSWORD"),
        ("ssh://h?l0=vmware", "l0 is 'vmware'; there are kvm, xen"),
        ("ssh://h?vmm=pvh", "with l0 = kvm there are small, qemu"),
        ("ssh://h?colour=red", "'colour' is no key"),
        ("ssh://h?port=3", "before the question mark"),
        ("ssh://h?cpus_max=many", "'many' is no value for cpus_max"),
        ("ssh://h?power_command=rm", "belongs into a lab file"),
        ("ssh://h?workdir=/tmp", "give one of its own"),
        ("ssh://h?workdir=/a/../../etc", "absolute path"),
        ("ssh://h?l0", "write options as"),
        ("ssh://h:99999", "ort"),
        ("ssh://-oProxyCommand=x", "no address"),
        ("ssh://h/path", "write ssh://"),
        ("ssh://", "write ssh://"),
    ],
)
def test_wrong_url(url: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_url(url)

    assert says in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_lab(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(LAB)

    hosts = read_lab(path)

    assert hosts["zen3-a"].identity_files == (tmp_path / "keys/lab", home / ".ssh/other")
    assert (hosts["zen3-a"].user, hosts["zen3-a"].vmm_args, hosts["zen3-a"].grace_s) == (
        "root", ("-machine", "q35"), 240.0,
    )  # fmt: skip
    assert (hosts["xen1"].vmm, hosts["xen1"].grace_s, hosts["xen1"].address) == ("pvh", 10.0, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[host.a]\nport = 'x'", "port must be a whole number, not 'x'"),
        ("[host.a]\nport = true", "port must be a whole number"),
        ("[host.a]\ntracepoints = 1", "true or false"),
        ("[host.a]\nvmm_args = [1]", "list of texts"),
        ("[host.a]\nadress = 'x'", "'adress' is no key"),
        ("[hosts.a]\n", "'hosts' is no key"),
        ("host = 3", "must be a table"),
        ("[host.a", "is no TOML"),
        ("[host.'a b']", "no name for a host"),
        ("[host.a]\nworkers = 0", "1 to 64"),
        ("[host.a]\ngrace_s = -1", "0 to 7200"),
    ],
)
def test_wrong_lab(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(text)

    with pytest.raises(LabError) as caught:
        read_lab(path)

    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_where_the_lab_file_is(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError, match="there is no lab file"):
        find("a")
    (home / ".config/nsvm").mkdir(parents=True)
    (home / ".config/nsvm/lab.toml").write_text("[host.a]\nuser = 'config'")
    assert find("a").user == "config"
    (tmp_path / "lab.toml").write_text("[host.a]\nuser = 'here'")
    assert find("a").user == "here"
    with pytest.raises(LabError, match="has no host 'b'; there are: a"):
        find("b")
    monkeypatch.setenv("NSVM_LAB", str(tmp_path / "none.toml"))
    with pytest.raises(LabError, match="no such file"):
        find("a")


def test_ssh_config_fills_what_the_lab_file_leaves_open(home: Path) -> None:
    (home / ".ssh").mkdir()
    for name in ("k1", "id_ed25519"):
        (home / ".ssh" / name).write_text("")
    (home / ".ssh/config").write_text(
        "Host zen\n HostName 10.1.2.3\n User tester\n Port 2022\n IdentityFile ~/.ssh/k1\n ProxyJump jumper@gate:23\n"
        f" UserKnownHostsFile {home}/kh\nHost gate\n HostName gate.example\n"
    )

    place = resolve(HostSpec("zen"))

    assert (place.address, place.user, place.port) == ("10.1.2.3", "tester", 2022)
    assert place.identity_files == (home / ".ssh/k1",) and place.known_hosts[0] == home / "kh"
    assert place.proxy is not None
    assert (place.proxy.address, place.proxy.user, place.proxy.port) == ("gate.example", "jumper", 23)
    assert "-J jumper@gate.example:23" in " ".join(place.ssh())
    assert (place.agent, place.named_only, place.key_name) == (True, False, "[10.1.2.3]:2022")
    assert resolve(HostSpec("Zen.Lab", user="me")).key_name == "zen.lab", "as ssh writes it down"
    own = resolve(HostSpec("zen", user="root", port=22, proxy_jump="none"))
    assert (own.user, own.port, own.proxy) == ("root", 22, None)
    bare = resolve(HostSpec("zen", use_ssh_config=False, user="me"))
    assert (bare.address, bare.port, bare.identity_files) == ("zen", 22, (home / ".ssh/id_ed25519",))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("Host zen\n ProxyCommand nc %h %p\n", "ProxyCommand"),
        ("Host zen\n ProxyJump zen\n", "circle"),
        ("Host zen\n Port none\n", "port 'none'"),
        ("garbage\n", "cannot be used"),
    ],
)
def test_ssh_config_that_cannot_be_used(home: Path, config: str, says: str) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh/config").write_text(config)

    with pytest.raises(HostError) as caught:
        resolve(HostSpec("zen"))

    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = TargetOptions(tmp_path, tmp_path, tmp_path)

    assert file_name("host:zen3-a") == "host-zen3-a" and file_name("qemu-tcg") == "qemu-tcg"
    assert file_name("ssh://root@h:22?l0=kvm") == "ssh-root@h-22-l0-kvm" and file_name("ssh://../..") == "ssh"
    assert all(map(is_name, (*names(), "host:a", "ssh://b", "sim:kvm"))) and not is_name("vax")
    with pytest.raises(KeyError, match="host:NAME"):
        create("vax", options)
    with pytest.raises(TargetError, match="there is no lab file"):
        create("host:a", options)
    with pytest.raises(TargetError, match="l0 is 'x'"):
        create("ssh://a?l0=x", options)
