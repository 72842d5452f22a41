"""Facts of AMD-V as pure data and pure functions: no input or output, standard library only."""

from .bits import Bits, describe_bits, hex_of
from .checks import CHECKS, Rule, broken_rules, vmcb_address_is_legal
from .cpuid import SVM_BITS, Cpuid, SvmBit, svm_bit
from .cpuid_build import make_cpuid
from .events import (
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
from .exit_writes import Write, exit_write, exit_write_masks, forbidden_changes, may_write, written_by_vmexit
from .exits import (
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
from .features import FEATURES
from .fields import FIELDS, VMCB_SIZE, VMLOAD_FIELDS, VMLOAD_RANGES, Clean, Field
from .intercepts import INTERCEPTS, intercept_bit, intercept_exit_code
from .msr import MSR, describe_msr, iopm, msr_name, msrpm
from .paging import LegacyTables, LongTables, NestedTables, PaeTables, Tables
from .registers import register_names
from .templates import OUTPUT_PATTERN, OUTPUT_RANGES, fill_outputs, make_template, unwritten
from .vmcb import FieldChange, Vmcb, clean_bits_for, describe, diff, field

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
