"""Parameters of kernel modules on a simulated host: `kvm_amd.vgif=0` among the kernel's arguments.

The kernel itself obeys such a word only where the module is built in. The initramfs loads the others with insmod, which
does not read the kernel's command line, so it is given theirs. A word that nobody would obey is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.sim.error import Refused
from harness.sim.kernel import Kernel, normal_name, parameters

WORD = re.compile(r"(?:[^\s\"]|\"[^\"]*\")+")
PARAMETER = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)(?:=(.*))?\Z", re.DOTALL)
TRUTH = {"y": 1, "on": 1, "true": 1, "n": 0, "off": 0, "false": 0}


@dataclass(frozen=True)
class Parameter:
    """One parameter of one module. `value` is None where the word has no `=`."""

    module: str
    name: str
    value: str | None

    def __str__(self) -> str:
        return f"{self.module}.{self.argument}"

    @property
    def argument(self) -> str:
        """As insmod takes it."""
        return self.name if self.value is None else f"{self.name}={self.value}"


def words_of(append: str) -> list[str]:
    """The kernel's words; what follows `--` is for init."""
    words = WORD.findall(append)
    return words[: words.index("--")] if "--" in words else words


def parameters_of(append: str) -> list[Parameter]:
    """The module parameters among the kernel's arguments, in their order."""
    found = [PARAMETER.match(word) for word in words_of(append)]
    return [
        Parameter(normal_name(match[1]), normal_name(match[2]), match[3] and match[3].replace('"', ""))
        for match in found
        if match
    ]


def options_of(append: str, usual: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """What each module is loaded with: `usual`, a module's parameters and values, and over that what `append` says."""
    merged = {module: {name: f"{name}={value}" for name, value in given.items()} for module, given in usual.items()}
    for parameter in parameters_of(append):
        merged.setdefault(parameter.module, {})[parameter.name] = parameter.argument
    return {module: list(given.values()) for module, given in merged.items()}


def check(append: str, kernel: Kernel, loaded: Mapping[str, bytes]) -> None:
    """Raises Refused for a parameter of a module that is not loaded, or that the loaded module does not have."""
    for parameter in parameters_of(append):
        module = loaded.get(parameter.module)
        if module is None and kernel.has(parameter.module):
            names = ", ".join(loaded)
            raise Refused(f"--append {parameter}: the host does not load {parameter.module}; it loads {names}")
        if module is not None and parameter.name not in (there := parameters(module)):
            names = ", ".join(there) or "none"
            raise Refused(f"--append {parameter}: {parameter.module} has no such parameter; it has {names}")


def script(append: str) -> str:
    """A shell script that prints a line for each parameter: its value, `hidden` or `absent`."""
    return "".join(
        f"cat /sys/module/{p.module}/parameters/{p.name} 2>/dev/null || "
        f"{{ [ -d /sys/module/{p.module} ] && echo hidden || echo absent; }}\n"
        for p in parameters_of(append)
    )


def check_taken(append: str, said: Sequence[str]) -> None:
    """Raises Refused for a parameter that the running kernel did not take; `said` is what `script` printed."""
    given = parameters_of(append)
    if len(said) != len(given):
        raise Refused(f"the host says {' / '.join(said)[:200]!r} of {len(given)} module parameters")
    last = {(parameter.module, parameter.name): parameter for parameter in given}
    for parameter, value in zip(given, said, strict=True):
        if value == "absent":
            raise Refused(f"--append {parameter}: the kernel there has no module {parameter.module}")
        wanted, got = _number(last[parameter.module, parameter.name].value), _number(value)
        if wanted is not None and got is not None and wanted != got:
            raise Refused(f"--append {parameter}: {parameter.module} has {parameter.name}={value} on this machine")


def check_known(append: str, console: str) -> None:
    """Raises Refused for arguments that the kernel says it does not know."""
    found = re.search(r"Unknown kernel command line parameters \"(.*)\", will be passed to user space", console)
    unknown = [word for word in words_of(append) if found and word in words_of(found[1])]
    if unknown:
        raise Refused(f"--append: the kernel does not know {' '.join(unknown)}")


def check_known_to_xen(append: str, messages: str) -> None:
    """Raises Refused for arguments that Xen says, in `xl dmesg`, it does not know or cannot use."""
    for found in re.finditer(r'parameter "([^"]+)" (unknown|has invalid value "[^"]*")', messages):
        if any(re.split("[= ]", word)[0] == re.split("[= ]", found[1])[0] for word in words_of(append)):
            raise Refused(f"--append: Xen says: parameter {found[1]} {found[2]}")


def _number(value: str | None) -> int | None:
    if value is None:
        return 1
    try:
        return TRUTH[value.lower()] if value.lower() in TRUTH else int(value, 0)
    except ValueError:
        return None
