"""What is written for the compiler from the hooks files: state, properties, saved state, helpers, the list of files.

So a feature is in files of its own alone, and two of them can be added at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.reference import faults as made_faults
from harness.reference.faults import Fault
from harness.reference.features import BITS, MIGRATED, PROPERTIES, Feature, Property, Variable

FOLDER = "target/i386/nsvm"
_MADE = "Made from reference_machine/hooks by harness/reference/generate.py."
_HEAD = f"/* SPDX-License-Identifier: GPL-2.0-or-later */\n/* {_MADE} */\n"


def files(features: Sequence[Feature], faults: Sequence[Fault] = ()) -> dict[str, str]:
    """The texts, by their names in FOLDER; `faults`: those that the machine can be told to have."""
    return {
        "state.h": _state(features),
        "features.h": _features(features),
        "properties.h.inc": _HEAD + "".join(_property(f, p) for f in features for p in f.properties),
        "vmstate.c.inc": _vmstate(features),
        "helper.h.inc": _HEAD + "".join(f"{helper}\n" for feature in features for helper in feature.helpers),
        "meson.build": _meson(features),
    } | made_faults.files(faults)


def _state(features: Sequence[Feature]) -> str:
    declared = "".join(f"{feature.declare.strip()}\n\n" for feature in features if feature.declare)
    state = "".join(_struct(f.name, [_member(v) for v in f.state]) for f in features if f.state)
    config = "".join(_struct(f.name, [_config(p) for p in f.properties]) for f in features if f.properties)
    return (
        f"{_HEAD}#ifndef NSVM_STATE_H\n#define NSVM_STATE_H\n\n{declared}"
        f"/* Cleared by RESET, kept by INIT. */\ntypedef struct NsvmState {{\n{state}    char end;\n}} NsvmState;\n\n"
        f"/* What the command line says. */\ntypedef struct NsvmConfig {{\n{config}    char end;\n}} NsvmConfig;\n\n"
        "#endif\n"
    )


def _struct(name: str, members: Sequence[str]) -> str:
    return "    struct {\n" + "".join(f"        {member};\n" for member in members) + f"    }} {name};\n"


def _member(variable: Variable) -> str:
    return f"{variable.type} {variable.name}" + (f"[{variable.count}]" if variable.count else "")


def _config(item: Property) -> str:
    return f"{PROPERTIES[item.kind]} {item.member}"


def _features(features: Sequence[Feature]) -> str:
    bits = [f"CPUID_SVM_{BITS[bit]}" for feature in features for bit in feature.bits]
    headers = "".join(f'#include "target/i386/nsvm/{header}"\n' for feature in features for header in feature.headers)
    return (
        f"{_HEAD}#ifndef NSVM_FEATURES_H\n#define NSVM_FEATURES_H\n\n"
        f"#define NSVM_SVM_BITS ({' | '.join(['0', *bits])})\n\n{headers}\n#endif\n"
    )


def _property(feature: Feature, item: Property) -> str:
    where = f"env.nsvm_config.{feature.name}.{item.member}"
    if item.kind == "string":
        return f'DEFINE_PROP_STRING("{item.name}", X86CPU, {where}),\n'
    return f'DEFINE_PROP_{item.kind.upper()}("{item.name}", X86CPU, {where}, {item.default}),\n'


def _vmstate(features: Sequence[Feature]) -> str:
    kept = [(feature.name, variable) for feature in features for variable in feature.state if variable.migrate]
    fields = "".join(f"        {_field(name, variable)},\n" for name, variable in kept)
    loaded = "".join(f"    {feature.post_load}(&cpu->env);\n" for feature in features if feature.post_load)
    return f"""{_HEAD}
static bool nsvm_needed(void *opaque)
{{
    X86CPU *cpu = opaque;

    return tcg_enabled() && nsvm_on(&cpu->env);
}}

static int nsvm_post_load(void *opaque, int version_id)
{{
    G_GNUC_UNUSED X86CPU *cpu = opaque;

{loaded}    return 0;
}}

static const VMStateDescription vmstate_nsvm = {{
    .name = "cpu/nsvm",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = nsvm_needed,
    .post_load = nsvm_post_load,
    .fields = (const VMStateField[]) {{
{fields}        VMSTATE_END_OF_LIST()
    }}
}};
"""


def _field(feature: str, variable: Variable) -> str:
    where = f"env.nsvm.{feature}.{variable.name}, X86CPU"
    kind = MIGRATED[variable.type]
    return f"VMSTATE_{kind}_ARRAY({where}, {variable.count})" if variable.count else f"VMSTATE_{kind}({where})"


def _meson(features: Sequence[Feature]) -> str:
    sources = "".join(f"  '{source}',\n" for feature in features for source in feature.sources)
    return (
        f"# SPDX-License-Identifier: GPL-2.0-or-later\n# {_MADE}\n"
        f"i386_system_ss.add(when: ['CONFIG_TCG', 'CONFIG_SYSTEM_ONLY'], if_true: files(\n{sources}))\n"
    )
