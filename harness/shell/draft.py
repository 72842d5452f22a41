"""What a person set so far: an L2 to be, and the test that it would be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.guest.guest import BITS, Guest
from harness.guest.l1 import L1
from harness.names import nearest
from harness.scenario.steps import GPR_NUMBER
from harness.svm.fields import FIELD_BY_NAME, Field
from harness.svm.intercepts import intercept_bit

VMMCALL = "vmmcall"


class Refused(Exception):
    """What was typed makes no sense. One line for people."""


@dataclass
class Draft:
    """An L2. `memory` is written before the run: address and bytes."""

    mode: str = "long64"
    np: bool = False
    code: str = VMMCALL
    fields: dict[str, int] = field(default_factory=dict)
    regs: dict[str, int] = field(default_factory=dict)
    intercepts: list[str] = field(default_factory=list)
    no_intercepts: list[str] = field(default_factory=list)
    memory: list[tuple[int, bytes]] = field(default_factory=list)

    def guest(self, l1: L1) -> Guest:
        """The guest that it is. Raises KeyError, ValueError, AssemblyError as `l1.guest` does."""
        guest = l1.guest(
            self.code, mode=self.mode, np=self.np, vmcb=self.fields, regs=self.regs, intercept=self.intercepts,
            no_intercept=self.no_intercepts,
        )  # fmt: skip
        for addr, data in self.memory:
            guest.write(addr, data)
        return guest

    def choose_mode(self, name: str) -> None:
        """Chooses the mode. Raises Refused."""
        if name not in BITS:
            raise Refused(f"there is no mode {name}{nearest(name, BITS)}")
        self.mode = name

    def intercept(self, names: Iterable[str], *, on: bool) -> None:
        """Sets or clears intercepts. Raises Refused."""
        for name in names:
            try:
                intercept_bit(name)
            except KeyError as error:
                raise Refused(str(error)) from None
            for listed in (self.intercepts, self.no_intercepts):
                if name in listed:
                    listed.remove(name)
            (self.intercepts if on else self.no_intercepts).append(name)

    def set(self, name: str, words: list[str], now: int) -> None:
        """Sets a VMCB field or a register, to a number or by bits (`+WP -PG`) of the value `now`. Raises Refused."""
        item = FIELD_BY_NAME.get(name)
        if item is None and name not in GPR_NUMBER:
            raise Refused(f"the VMCB has no field {name}{nearest(name, [*FIELD_BY_NAME, *GPR_NUMBER])}")
        value = now
        for word in words:
            value = _bits(item, name, value, word) if word[:1] in "+-" else number(word)
        if not 0 <= value <= (item.max if item is not None else (1 << 64) - 1):
            raise Refused(f"{value:#x} does not fit {name}")
        (self.fields if item is not None else self.regs)[name] = value

    def unset(self, name: str) -> None:
        """As the known-good VMCB has it. Raises Refused."""
        if name not in self.fields and name not in self.regs:
            raise Refused(f"{name} was not set")
        self.fields.pop(name, None)
        self.regs.pop(name, None)

    def arguments(self) -> str:
        """As in `l1.guest(...)`."""
        parts = [_text(self.code)]
        if self.mode != "long64":
            parts.append(f'mode="{self.mode}"')
        if self.np:
            parts.append("np=True")
        for name, values in (("vmcb", self.fields), ("regs", self.regs)):
            if values:
                parts.append(f"{name}={{{', '.join(f'{_text(k)}: {v:#x}' for k, v in values.items())}}}")
        for name, listed in (("intercept", self.intercepts), ("no_intercept", self.no_intercepts)):
            if listed:
                parts.append(f"{name}=[{', '.join(map(_text, listed))}]")
        return ", ".join(parts)


def number(word: str) -> int:
    """`12`, `0x12`, `12h`, `8000_0000h`. Raises Refused."""
    text = word.replace("_", "").lower()
    try:
        return int(text[:-1], 16) if text.endswith("h") else int(text, 0)
    except ValueError:
        raise Refused(f"{word} is no number; write 12, 0x12 or 12h") from None


def as_test(draft: Draft, name: str, resumes: list[str], answers: list[str], target: str) -> str:
    """A test file that does what was typed. What must come is left to say: a target's answer is no expectation."""
    lines = [
        '"""TODO: what hardware does, with its section of the APM, and what a wrong L0 does.', "",
        f"Typed in ./nsvm shell on {target}.", '"""', "", "from harness import clause", "", "",
        '@clause("TODO")', f"def test_{name}(l1):", f"    guest = l1.guest({draft.arguments()})",
    ]  # fmt: skip
    lines += [f"    guest.write({addr:#x}, bytes.fromhex({_text(data.hex())}))" for addr, data in draft.memory]
    lines.append("    exit = guest.run()")
    lines += [f"    exit = guest.resume({each})" for each in resumes]
    lines += ["", f"    # {target} answered:", *(f"    #   {answer}" for answer in answers)]
    lines.append('    raise NotImplementedError(f"TODO: assert what the manual says must come of {exit.summary()}")')
    return "\n".join(lines) + "\n"


def _bits(item: Field | None, name: str, value: int, word: str) -> int:
    known = {run.name.lower(): run.mask for run in (item.bits if item is not None else ()) if not run.reserved}
    wanted = word[1:].lower()
    if re.fullmatch(r"\d+", wanted):
        mask = 1 << int(wanted)
    elif wanted in known:
        mask = known[wanted]
    else:
        raise Refused(f"{name} has no bit {word[1:]}{nearest(wanted, known) if known else ''}")
    return value | mask if word[0] == "+" else value & ~mask


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
