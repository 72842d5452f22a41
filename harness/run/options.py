"""The options of a run, each declared once: `nsvm run`, the pytest plugin, the workers and the command that runs one
test again all read them here. A new one is a field of RunOptions, and nothing else.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, Self

from harness.judge import expected
from harness.machine import feature_mask

BAUD_MAX = 1 << 32
DIGITS_MAX = 12
TYPED = "NSVM_TYPED"
"""In the environment of a run's pytest: the command that the user typed."""


class OptionError(Exception):
    """An option that makes no sense. One line for people, which begins with the option."""


class Group(Protocol):
    """Where options are added: to argparse's parser or to pytest's."""

    def __call__(self, flag: str, /, **how: Any) -> object: ...


def option(
    flag: str,
    help: str,
    *,
    parse: Callable[[str], Any] = str,
    default: Any = None,
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    target: str = "",
    again: bool = True,
    told: bool = False,
) -> Any:
    """A field of RunOptions.

    `parse` makes its value of what was typed. `target`: the field of TargetOptions that gets it. `again`: the command
    that runs one test again has it too. `told`: a run with it judges other than the machine and the baseline as they
    are, and says so wherever its result stands.
    """
    about = {
        "flag": flag, "help": help, "parse": parse, "metavar": metavar, "choices": choices, "target": target,
        "again": again, "told": told,
    }  # fmt: skip
    return field(default=default, metadata=about)


def _baud(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > DIGITS_MAX:
        raise OptionError(f"--baud {text[:40]}: not a number of baud")
    if not 1 <= int(text) <= BAUD_MAX:
        raise OptionError(f"--baud {text}: {'at least 1' if int(text) < 1 else f'at most {BAUD_MAX}'} baud")
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > DIGITS_MAX:
        raise OptionError(f"--shuffle {text[:40]}: not a number")
    return int(text)


def _bits(text: str) -> tuple[str, ...]:
    try:
        return feature_mask.parse(text)
    except feature_mask.MaskError as error:
        raise OptionError(f"--without: {error}") from None


def _expected(text: str) -> tuple[str, ...]:
    try:
        return expected.parse(text)
    except expected.ExpectError as error:
        raise OptionError(f"--expect {error}") from None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run was asked for, besides its target and its folder."""

    fresh_boot: str = option(
        "--fresh-boot",
        "boot again for every test, or only after one that leaves state behind (dirty); never: nor to repeat a new "
        "deviation, for a quick look at a target without a baseline",
        default="dirty",
        choices=("always", "dirty", "never"),
        again=False,
    )
    qemu: str | None = option(
        "--qemu", "the qemu-system-x86_64 to use: your own build", metavar="PATH", target="qemu_path"
    )
    bochs: str | None = option("--bochs", "the bochs to use: your own build", metavar="PATH", target="bochs_path")
    cpu: str | None = option(
        "--cpu", "the CPU model for L1, as QEMU's -cpu: max,+svm", metavar="MODEL", target="cpu_model", told=True
    )
    without: tuple[str, ...] = option(
        "--without",
        "take bits of Fn8000_000A EDX away from L1, as in NRIPS,VmcbClean",
        parse=_bits,
        default=(),
        metavar="BITS",
        target="without",
        told=True,
    )
    expect: tuple[str, ...] = option(
        "--expect",
        "what L1 must be offered, besides what the baseline says: NP,NRIPS,NASID=16,VM_CR (bits of Fn8000_000A EDX, "
        "how many ASIDs at least, SVM MSRs that can be read); what is missing is a deviation of its own",
        parse=_expected,
        default=(),
        metavar="LIST",
        again=False,
    )
    policy: str | None = option(
        "--policy",
        "a policy (./nsvm policy lists them) or a file that ends in .toml: bits of Fn8000_000A EDX that L1 must be "
        "offered, and that it must not",
        metavar="NAME",
        again=False,
    )
    fault: str | None = option(
        "--fault",
        "only on `reference`: have the machine misbehave in this way (./nsvm reference faults lists them)",
        metavar="NAME",
        target="fault",
        told=True,
    )
    baud: int | None = option(
        "--baud",
        "make the console as slow as a serial line of N baud",
        parse=_baud,
        metavar="N",
        target="throttle_baud",
    )
    lane: str = option(
        "--lane",
        "how requests travel: through shared memory where it can be (auto), or over the serial line",
        default="auto",
        choices=("auto", "serial"),
        again=False,
    )
    shuffle: int | None = option(
        "--shuffle",
        "another order of the tests, the one that belongs to this number: every test must say the same in it",
        parse=_seed,
        metavar="SEED",
    )
    dangerous: bool = option(
        "--dangerous", "also run tests that may take the machine under test down for good", default=False
    )
    baseline: Path | None = option(  # noqa: RUF009 - it is a field
        "--baseline",
        "the known deviations (default: baselines/TARGET.toml)",
        parse=Path,
        metavar="FILE",
        again=False,
        told=True,
    )

    @classmethod
    def of(cls, namespace: object, **more: Any) -> Self:
        """The options in what argparse or pytest read. Raises OptionError."""
        read = {each.name: _parsed(each, getattr(namespace, each.name, None)) for each in declared()}
        return cls(**read, **more)

    def words(self, wanted: Callable[[Mapping[str, Any]], bool] = lambda _about: True) -> list[str]:
        """The options that are not as they are by default, as one types them."""
        words: list[str] = []
        for each in declared():
            value = getattr(self, each.name)
            if value == each.default or not wanted(each.metadata):
                continue
            words.append(each.metadata["flag"])
            if value is not True:
                words.append(",".join(value) if isinstance(value, tuple) else str(value))
        return words

    @property
    def again(self) -> str:
        """What of it the command that runs one test again needs, for a shell; begins with a blank unless empty."""
        return "".join(f" {shlex.quote(word)}" for word in self.words(lambda about: bool(about["again"])))

    @property
    def told(self) -> list[str]:
        """Those without which the machine would be another: "--cpu max,+svm,-npt"."""
        return [
            shlex.join(self.words(lambda about, flag=each.metadata["flag"]: about["flag"] == flag))  # type: ignore[misc]
            for each in declared()
            if each.metadata["told"] and getattr(self, each.name) != each.default
        ]

    def for_target(self) -> dict[str, Any]:
        """The fields of TargetOptions that follow from it."""
        return {each.metadata["target"]: getattr(self, each.name) for each in declared() if each.metadata["target"]}


def declared() -> tuple[Field[Any], ...]:
    """The options there are."""
    return fields(RunOptions)


def add_options(add: Group, only: Iterable[str] | None = None) -> None:
    """Adds them to a parser: `add` is its add_argument or addoption. `only`: these names and no others."""
    wanted = set(only) if only is not None else None
    for each in declared():
        if wanted is not None and each.name not in wanted:
            continue
        about = each.metadata
        how: dict[str, Any] = {"dest": each.name, "help": about["help"]}
        if each.default is False:
            how["action"] = "store_true"
        elif about["choices"]:
            how |= {"choices": about["choices"], "default": each.default}
        else:
            how["metavar"] = about["metavar"]
        add(about["flag"], **how)


def _parsed(each: Field[Any], value: Any) -> Any:
    """A value as typed, made what it is. What came parsed already stays."""
    if value is None:
        return each.default
    return each.metadata["parse"](value) if isinstance(value, str) else value
