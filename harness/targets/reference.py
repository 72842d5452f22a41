"""The reference machine: QEMU's emulation with its SVM completed (reference_machine/README.md). What it answers is
*synthetic*: evidence of how the manual was read, never of hardware.
"""

from __future__ import annotations

from dataclasses import replace

from harness.machine.base import Console, Missing, TargetError, TargetOptions
from harness.reference import faults, store
from harness.reference.error import ReferenceMachineError
from harness.targets.qemu import QemuTcg


class Reference(QemuTcg):
    """The machine that `./nsvm reference build` made, or one that its developer names with --qemu.

    Its CPU model is that of `qemu-tcg`, which has every bit whose feature is built in.
    """

    name = "reference"
    baselines = (name,)

    def __init__(self, options: TargetOptions) -> None:
        self._why = ""
        self._made_by = "reference machine, your own build"
        if options.qemu_path is None:
            try:
                built = store.current()
            except ReferenceMachineError as error:
                self._why = str(error)
            else:
                self._made_by = f"reference machine {built.key}"
                options = replace(options, qemu_path=str(built.program))
        super().__init__(options)
        if self._why:
            self._program = None

    def _cpu(self) -> str:
        cpu, fault = super()._cpu(), self._options.fault
        return f"{cpu},{faults.PROPERTY}={fault}" if fault else cpu

    def start(self) -> Console:
        """Boots afresh."""
        if self._why:
            raise TargetError(self._why)
        return super().start()

    def version(self) -> str:
        """As in "reference machine 0123456789ab (synthetic; QEMU 10.0.13 (...))"."""
        return "reference machine (not built)" if self._why else f"{self._made_by} (synthetic; {super().version()})"

    def missing(self) -> list[Missing]:
        """What has to be built first; no package brings it."""
        return [Missing(self._why, "", "runs the suites on an emulated AMD CPU that has all bits")] if self._why else []
