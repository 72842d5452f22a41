"""The prompt: commands, completion, and what changed after each run."""

from __future__ import annotations

import cmd
import re
import shlex
from pathlib import Path
from typing import IO

from harness.anatomy.code import disassemble
from harness.anatomy.page import code_text
from harness.anatomy.setup import changed, good_name, known_good
from harness.guest.guest import BITS, Guest
from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.judge.exit import Exit
from harness.judge.fault import fault_text
from harness.link.session import ExecutorRefused, TargetLost
from harness.names import nearest
from harness.record import Setup
from harness.scenario.asm import AssemblyError
from harness.scenario.steps import GPR_NUMBER
from harness.shell.draft import Draft, Refused, as_test, number
from harness.svm.fields import FIELD_BY_NAME
from harness.svm.intercepts import INTERCEPTS
from harness.svm.msr import MSR, describe_msr, msr_name
from harness.svm.vmcb import Vmcb
from harness.svm.vmcb_words import differences, whole
from harness.text import visible

READ_MAX = 4096


class Prompt(cmd.Cmd):
    """Reads commands and does them on an L1. `target` is its name."""

    prompt = "nsvm> "
    intro = "An L1 on {target}. 'show' says what L2 is, 'run' runs it, 'help' lists the commands, 'quit' leaves.\n"

    def __init__(self, l1: L1, target: str, stdin: IO[str] | None = None, stdout: IO[str] | None = None) -> None:
        super().__init__(stdin=stdin, stdout=stdout)
        self.intro = type(self).intro.format(target=target)
        if stdin is not None:
            self.use_rawinput, self.prompt = False, ""
        self._l1 = l1
        self._target = target
        self._draft = Draft()
        self._guest: Guest | None = None
        self._exit: Exit | None = None
        self._resumes: list[str] = []
        self.mistakes = 0

    # What cmd asks for

    def emptyline(self) -> bool:
        """Nothing is done twice by an empty line."""
        return False

    def default(self, line: str) -> None:
        """A word that is no command."""
        self._complain(f"there is no command {line.split()[0]}; 'help' lists them")

    def onecmd(self, line: str) -> bool:
        """Does one line; a mistake is one line, too."""
        line = line.strip()
        if line == "EOF":
            return True
        try:
            return bool(super().onecmd("" if line.startswith("#") else line))
        except (Refused, NotOffered, AssemblyError, MemoryError, LookupError, ValueError) as error:
            self._complain(str(error.args[0]) if error.args else type(error).__name__)
        except TargetLost as lost:
            self._guest = None
            self._complain(f"{lost.verdict}: {lost.reason}; the next command boots it again")
        except ExecutorRefused as refused:
            self._complain(f"the executor refused: {refused}")
        return False

    # Commands

    def do_mode(self, line: str) -> None:
        """mode NAME: long64, compat32, pae32, paged32, prot32 or real16."""
        self._draft.choose_mode(line.strip())
        self._guest = None

    def do_np(self, line: str) -> None:
        """np on|off: nested paging."""
        if line.strip() not in ("on", "off"):
            raise Refused("np on, or np off")
        self._draft.np = line.strip() == "on"
        self._guest = None

    def do_code(self, line: str) -> None:
        """code TEXT: L2's code in GNU as's Intel syntax, instructions with ; between them. Without TEXT it is shown."""
        if line.strip():
            before, self._draft.code = self._draft.code, "\n".join(part.strip() for part in line.split(";"))
            try:
                self._draft.guest(self._fresh())
            except AssemblyError:
                self._draft.code = before
                raise
            self._guest = None
        else:
            self._say(*code_text(disassemble(self._draft.guest(self._fresh()), None)))

    def do_set(self, line: str) -> None:
        """set FIELD VALUE, or set FIELD +BIT -BIT: a VMCB field or a register, for the next run."""
        name, *words = shlex.split(line) or [""]
        if not words:
            raise Refused("set FIELD VALUE, or set FIELD +BIT -BIT")
        name = name.lower()
        now = self._draft.fields.get(name, self._draft.regs.get(name, 0))
        if name in FIELD_BY_NAME and name not in self._draft.fields:
            now = self._draft.guest(self._fresh()).vmcb[name]
        self._draft.set(name, words, now)

    def do_unset(self, line: str) -> None:
        """unset FIELD: as the known-good VMCB has it."""
        self._draft.unset(line.strip().lower())

    def do_intercept(self, line: str) -> None:
        """intercept NAME...: cpuid, cr3_write, #UD."""
        self._draft.intercept(line.split(), on=True)

    def do_no_intercept(self, line: str) -> None:
        """no_intercept NAME..."""
        self._draft.intercept(line.split(), on=False)

    def do_write(self, line: str) -> None:
        """write ADDRESS HEX: memory, before the run."""
        addr, _, digits = line.strip().partition(" ")
        try:
            self._draft.memory.append((number(addr), bytes.fromhex(digits)))
        except ValueError:
            raise Refused("write ADDRESS HEX, as in write 900000h 0f01d9") from None

    def do_show(self, _line: str) -> None:
        """show: how the VMCB differs from the known-good one, and L2's code."""
        guest = self._draft.guest(self._fresh())
        fields, intercepts = changed(known_good(guest), guest.vmcb)
        self._say(*Setup(good=good_name(guest), fields=fields, intercepts=intercepts).words())
        self._say(*(f"  {name} = {value:X}h" for name, value in self._draft.regs.items()))
        self._say("L2's code:", *code_text(disassemble(guest, None)))

    def do_run(self, _line: str) -> None:
        """run: L2 from its beginning, with everything written again."""
        self._guest = self._draft.guest(self._fresh())
        self._resumes = []
        self._tell(self._guest.run())

    def do_resume(self, line: str) -> None:
        """resume [LABEL] [FIELD=VALUE...]: L2 goes on where it stopped, or from a label of its code."""
        if self._guest is None:
            raise Refused("there is nothing to resume; 'run' first")
        label: str | None = None
        fields: dict[str, int] = {}
        for word in line.split():
            name, equals, value = word.partition("=")
            if equals:
                fields[name.lower()] = number(value)
            else:
                label = word
        shown = [*([f'"{label}"'] if label else []), *(f"{k.replace('.', '__')}={v:#x}" for k, v in fields.items())]
        for name in fields:
            if name not in FIELD_BY_NAME:
                raise Refused(f"the VMCB has no field {name}{nearest(name, FIELD_BY_NAME)}")
        exit = self._guest.resume(label, run=None, **{name.replace(".", "__"): value for name, value in fields.items()})
        self._resumes.append(", ".join(shown))
        self._tell(exit)

    def do_vmcb(self, _line: str) -> None:
        """vmcb: the whole VMCB after the last exit."""
        for name, value, meaning in whole(Vmcb(self._last().vmcb.data)):
            self._say(f"  {name:<28} {value}  {meaning}".rstrip())

    def do_regs(self, _line: str) -> None:
        """regs: the registers at the last exit."""
        for name, value in self._last().regs.items():
            self._say(f"  {name:<4} {value:016X}h")

    def do_read(self, line: str) -> None:
        """read ADDRESS [SIZE]: memory, now."""
        words = line.split()
        if not words:
            raise Refused("read ADDRESS [SIZE]")
        addr, size = number(words[0]), min(number(words[1]) if len(words) > 1 else 16, READ_MAX)
        data = self._l1.read(addr, size)
        for at in range(0, size, 16):
            self._say(f"  {addr + at:08X}h  {data[at : at + 16].hex(' ')}")

    def do_msr(self, line: str) -> None:
        """msr NAME|NUMBER [VALUE]: RDMSR or WRMSR in L1."""
        words = line.split()
        if not words:
            raise Refused("msr NAME|NUMBER [VALUE]")
        msr = MSR[words[0].upper()] if words[0].upper() in MSR.__members__ else number(words[0])
        result = self._l1.wrmsr(msr, number(words[1])) if len(words) > 1 else self._l1.rdmsr(msr)
        if result.fault is not None:
            self._say(f"  {msr_name(msr)}: {fault_text(result.fault)}")
        elif result.value is not None:
            self._say(f"  {msr_name(msr)}: {result.value:016X}h  {describe_msr(msr, result.value)}".rstrip())

    def do_cpuid(self, line: str) -> None:
        """cpuid LEAF [SUBLEAF]: in L1."""
        words = [number(word) for word in line.split()]
        if not words:
            raise Refused("cpuid LEAF [SUBLEAF]")
        values = self._l1.cpuid_now(*words[:2])
        self._say("  " + "  ".join(f"{n} {v:08X}h" for n, v in zip(("EAX", "EBX", "ECX", "EDX"), values, strict=True)))

    def do_l1(self, line: str) -> None:
        """l1 CODE: 64-bit code at CPL 0 in L1, instructions with ; between them."""
        ran = self._l1.code("\n".join(part.strip() for part in line.split(";")))
        self._say(f"  {fault_text(ran.fault) if ran.fault else 'it ran to its end'}")
        self._say(*(f"  {name:<4} {value:016X}h" for name, value in ran.answer.registers.items()))

    def do_reset(self, _line: str) -> None:
        """reset: everything as at the beginning."""
        self._draft, self._guest, self._exit, self._resumes = Draft(), None, None, []

    def do_save(self, line: str) -> None:
        """save FILE: what was typed as a test; what must come is left for you to say."""
        path = Path(line.strip())
        name = re.sub(r"\W", "_", path.stem.removeprefix("test_"))
        if path.suffix != ".py" or not name:
            raise Refused("save FILE, as in save suites/core/test_mine.py")
        answers = [self._exit.summary()] if self._exit is not None else ["nothing yet"]
        try:
            with path.open("x") as out:
                out.write(as_test(self._draft, name, self._resumes, answers, self._target))
        except FileExistsError:
            raise Refused(f"{path} is there already") from None
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from None
        self._say(f"wrote {path}")

    def do_quit(self, _line: str) -> bool:
        """quit: leaves."""
        return True

    # Completion

    def complete_set(self, text: str, *_: object) -> list[str]:
        """Fields and registers."""
        return _beginning(text, [*FIELD_BY_NAME, *GPR_NUMBER])

    complete_unset = complete_set

    def complete_intercept(self, text: str, *_: object) -> list[str]:
        """Intercepts."""
        return _beginning(text, list(INTERCEPTS))

    complete_no_intercept = complete_intercept

    def complete_mode(self, text: str, *_: object) -> list[str]:
        """Modes."""
        return _beginning(text, list(BITS))

    def complete_msr(self, text: str, *_: object) -> list[str]:
        """MSRs."""
        return _beginning(text, [each.name for each in MSR])

    def completenames(self, text: str, *_: object) -> list[str]:
        """Commands, without the one that the end of the input is."""
        return [name for name in super().completenames(text) if name != "EOF"]

    # What is said

    def _fresh(self) -> L1:
        self._l1.reset()
        return self._l1

    def _last(self) -> Exit:
        if self._exit is None:
            raise Refused("nothing ran yet")
        return self._exit

    def _tell(self, exit: Exit) -> None:
        self._exit = exit
        self._say(exit.summary())
        fields = differences(exit.before, exit.vmcb)
        width = max((len(each.name) for each in fields), default=0)
        self._say(*(f"  {e.name:<{width}}  {e.good} -> {e.now}  {e.bits}".rstrip() for e in fields))
        for name, value in exit.answer.registers.items():
            self._say(f"  {name:<{width}}  -> {value:016X}h")
        for name, (before, after) in exit.host_changes.items():
            self._say(f"  L1's {name}: {before:X}h -> {after:X}h")
        for event in exit.events:
            self._say(f"  L1 took {fault_text(event)}")
        for clause, match in self._l1.universal.items():
            bad = [row for row in match.rows if not row.ok]
            self._say(*(f"  {clause}: {row.name}: expected {row.expected}, got {row.got}" for row in bad))

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.stdout.write(visible(line) + "\n")
        self.stdout.flush()

    def _complain(self, text: str) -> None:
        self.mistakes += 1
        self._say(text.replace("\n", " "))


def _beginning(text: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(text)]
