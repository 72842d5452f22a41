"""Each power driver does what it is asked, tells what it cannot, and writes no password down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.metal import boot as boots
from harness.metal.error import MetalError
from harness.metal.power import Ipmi, Power, cycle, from_table

SYSTEM = "/redfish/v1/Systems/1"


class Bmc:
    """A Redfish service with one system and one virtual drive; the names are the schema's."""

    def __init__(self) -> None:
        self.on = True
        self.asked: list[tuple[str, str, object]] = []
        self.media: dict[str, object] = {"Inserted": False, "Image": None}
        self.boot: dict[str, object] = {}
        self.authorization = ""
        bmc = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status: int, body: object = None) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body if body is not None else {}).encode())

            def do_GET(self) -> None:
                bmc.authorization = self.headers.get("Authorization", "")
                known = {
                    "/redfish/v1/Systems": {"Members": [{"@odata.id": SYSTEM}]},
                    "/redfish/v1/Managers": {"Members": [{"@odata.id": "/redfish/v1/Managers/bmc"}]},
                    "/redfish/v1/Managers/bmc/VirtualMedia/Cd": bmc.media,
                    SYSTEM: {"PowerState": "On" if bmc.on else "Off"},
                }
                self.answer(200 if self.path in known else 404, known.get(self.path))

            def do_POST(self) -> None:
                self.change("POST")

            def do_PATCH(self) -> None:
                self.change("PATCH")

            def change(self, method: str) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                bmc.asked.append((method, self.path, body))
                if self.path.endswith("ComputerSystem.Reset"):
                    if body["ResetType"] not in ("On", "ForceOff"):
                        return self.answer(400, "no such ResetType")
                    bmc.on = body["ResetType"] == "On"
                elif self.path.endswith("InsertMedia"):
                    bmc.media |= {"Inserted": True, "Image": body["Image"]}
                elif self.path.endswith("EjectMedia"):
                    bmc.media |= {"Inserted": False, "Image": None}
                elif self.path == SYSTEM:
                    bmc.boot |= body["Boot"]
                self.answer(204)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def bmc() -> Iterator[Bmc]:
    made = Bmc()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(5)


def redfish(bmc: Bmc, tmp_path: Path, **more: object) -> Power:
    (tmp_path / "pw").write_text("secret\n")
    table = {"driver": "redfish", "url": bmc.url, "user": "admin", "password_file": str(tmp_path / "pw")}
    return from_table("machine one: power", table | more)


def test_redfish(bmc: Bmc, tmp_path: Path) -> None:
    power = redfish(bmc, tmp_path)
    assert power.state() is True
    cycle(power, 0)

    resets = [(path, body) for _, path, body in bmc.asked]
    action = f"{SYSTEM}/Actions/ComputerSystem.Reset"
    assert resets == [(action, {"ResetType": "ForceOff"}), (action, {"ResetType": "On"})]
    assert bmc.authorization == "Basic YWRtaW46c2VjcmV0"
    power.on()
    assert len(bmc.asked) == 2  # it is on


def test_redfish_says_what_is_wrong(bmc: Bmc, tmp_path: Path) -> None:
    with pytest.raises(MetalError, match=r"machine one: power: GET http://.*/Systems/7: 404"):
        redfish(bmc, tmp_path, system="7").state()
    with pytest.raises(MetalError, match="a password goes over https:// only"):
        redfish(bmc, tmp_path, url="http://192.0.2.1").state()
    with pytest.raises(MetalError, match=r"password_file .*nowhere: No such file"):
        redfish(bmc, tmp_path, password_file=str(tmp_path / "nowhere")).state()


def test_virtual_media(bmc: Bmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inserted and booted from while a run has the machine; ejected, and the boot order as before, afterwards."""
    made = []
    monkeypatch.setattr(boots, "make_iso", lambda *how: made.append(how))
    bmc.media |= {"Inserted": True, "Image": "somebody's"}
    table = {"driver": "virtual-media", "url": bmc.url, "image": str(tmp_path / "n.iso"), "image_url": "http://x/n.iso"}
    boot = boots.from_table("machine one: boot", table)
    assert boot.arm(boots.Load(tmp_path / "elf", "quiet=900"), None) is False
    assert bmc.media == {"Inserted": True, "Image": "http://x/n.iso"}
    assert bmc.boot == {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Cd"}
    assert made == [(tmp_path / "n.iso", tmp_path / "elf", "quiet=900", None)]
    assert [path.rpartition("/")[2] for _, path, _ in bmc.asked[:2]] == [
        "VirtualMedia.EjectMedia", "VirtualMedia.InsertMedia",
    ]  # fmt: skip
    boot.disarm(None)
    assert bmc.media == {"Inserted": False, "Image": None}
    assert bmc.boot["BootSourceOverrideEnabled"] == "Disabled"


def commands(**more: str) -> Power:
    table = {"driver": "command", "on_command": "true", "off_command": "true"}
    return from_table("machine one: power", table | more)


def test_commands(tmp_path: Path) -> None:
    state = tmp_path / "state"
    verbs = {
        "on_command": f"sh -c 'echo Chassis Power is on > {state}'",
        "off_command": f"sh -c 'echo off. > {state}'",
        "state_command": f"cat {state}",
    }
    power = commands(**verbs)
    power.on()
    assert power.state() is True
    power.off()
    assert power.state() is False
    assert commands().state() is None
    assert commands(state_command="echo perhaps").state() is None


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("sh -c 'echo no such outlet >&2; exit 3' secret", "off_command: sh ended with 3: no such outlet"),
        ("nothing-of-the-kind secret", "off_command: nothing-of-the-kind: No such file"),
        ("'", "off_command: No closing quotation"),
    ],
)
def test_a_command_that_fails_is_one_line_without_its_arguments(command: str, complaint: str) -> None:
    with pytest.raises(MetalError, match=f"machine one: power: {complaint}") as failed:
        commands(off_command=command).off()
    assert "secret" not in str(failed.value)


def test_a_machine_that_stays_on_is_noticed() -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    power = commands(state_command="echo on")
    with pytest.raises(MetalError, match="switched off, and is still on after 30 s"):
        cycle(power, 0, clock=lambda: now, sleep=sleep)


def test_ipmitool_reads_the_password_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "ipmitool"
    tool.write_text('#!/bin/sh\necho "$@" >> "${0%/*}/asked"\necho Chassis Power is on\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    power = from_table(
        "machine one: power", {"driver": "ipmi", "address": "bmc", "user": "admin", "password_file": "/x/pw"}
    )
    assert isinstance(power, Ipmi)
    power.on()
    assert power.state() is True

    asked = (tmp_path / "asked").read_text().splitlines()
    begins = "-I lanplus -C 17 -H bmc -p 623 -U admin -f /x/pw chassis power"
    assert asked == [f"{begins} on", f"{begins} status"]
