"""Facts of AMD-V as pure data and pure functions: no input or output, standard library only."""

from harness.svm.bits import Bits, describe_bits, hex_of
from harness.svm.checks import CHECKS, Rule, broken_rules, vmcb_address_is_legal
from harness.svm.cpuid import SVM_BITS, Cpuid, SvmBit, svm_bit
from harness.svm.cpuid_build import make_cpuid
from harness.svm.events import (
    Event,
    EventType,
    describe_event,
    inject_exception,
    inject_interrupt,
    inject_nmi,
    inject_software,
    pushes_error_code,
    vector_name,
    vector_number,
)
from harness.svm.exit_writes import Write, exit_write, exit_write_masks, forbidden_changes, may_write, written_by_vmexit
from harness.svm.exits import (
    KNOWN_CODES,
    VMEXIT,
    describe_exitcode,
    describe_exitinfo,
    exit_facts,
    exit_name,
    info1_defined,
    info2_defined,
    ioio_info,
    npf_info,
    nrip_defined,
)
from harness.svm.features import FEATURES
from harness.svm.fields import FIELDS, VMCB_SIZE, VMLOAD_FIELDS, VMLOAD_RANGES, Clean, Field
from harness.svm.intercepts import INTERCEPTS, intercept_bit, intercept_exit_code
from harness.svm.msr import MSR, describe_msr, iopm, msr_name, msrpm
from harness.svm.paging import LegacyTables, LongTables, NestedTables, PaeTables, Tables
from harness.svm.registers import register_names
from harness.svm.templates import OUTPUT_PATTERN, OUTPUT_RANGES, fill_outputs, make_template, unwritten
from harness.svm.vmcb import FieldChange, Vmcb, clean_bits_for, describe, diff, field

__all__ = [
    "CHECKS", "FEATURES", "FIELDS", "INTERCEPTS", "KNOWN_CODES", "MSR", "OUTPUT_PATTERN", "OUTPUT_RANGES", "SVM_BITS",
    "VMCB_SIZE", "VMEXIT", "VMLOAD_FIELDS", "VMLOAD_RANGES", "Bits", "Clean", "Cpuid", "Event", "EventType", "Field",
    "FieldChange", "LegacyTables", "LongTables", "NestedTables", "PaeTables", "Rule", "SvmBit", "Tables", "Vmcb",
    "Write", "broken_rules", "clean_bits_for", "describe", "describe_bits", "describe_event", "describe_exitcode",
    "describe_exitinfo", "describe_msr", "diff", "exit_facts", "exit_name", "exit_write", "exit_write_masks", "field",
    "fill_outputs", "forbidden_changes", "hex_of", "info1_defined", "info2_defined", "inject_exception",
    "inject_interrupt", "inject_nmi", "inject_software", "intercept_bit", "intercept_exit_code", "ioio_info", "iopm",
    "make_cpuid", "make_template", "may_write", "msr_name", "msrpm", "npf_info", "nrip_defined", "pushes_error_code",
    "register_names", "svm_bit", "unwritten", "vector_name", "vector_number", "vmcb_address_is_legal",
    "written_by_vmexit",
]  # fmt: skip
