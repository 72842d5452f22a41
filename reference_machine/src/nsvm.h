/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every feature of the reference machine uses. Included by all of QEMU's i386 TCG files (through helper-tcg.h).
 *
 * env->nsvm.FEATURE is a feature's state, env->nsvm_config.FEATURE what -cpu said (both from hooks/FEATURE.toml).
 */
#ifndef NSVM_H
#define NSVM_H

#include "cpu.h"

/* Whether this CPU is more than QEMU's own: with -cpu ...,x-nsvm=off every hook leaves things as they are. */
static inline bool nsvm_on(CPUX86State *env)
{
    return env->nsvm_config.core.on;
}

/* Whether a bit of Fn8000_000A EDX is offered: nsvm_has(env, CPUID_SVM_NRIPSAVE). */
static inline bool nsvm_has(CPUX86State *env, uint64_t bit)
{
    return nsvm_on(env) && (env->features[FEAT_SVM] & bit);
}

/* Whether the CPU runs a guest. */
static inline bool nsvm_in_guest(CPUX86State *env)
{
    return env->hflags & HF_GUEST_MASK;
}

/*
 * What the translator knows of an instruction, in the third word of insn_start: cpu_restore_state() brings it into
 * env->nsvm.core.insn. The translator sets bits in DisasContext.nsvm_insn; the length comes by itself.
 * Every feature takes its own bits: 0-3 length, 4-7 GPR, 8 MOV CR or DR; who needs some adds them here.
 */
#define NSVM_INSN_LENGTH_MASK 0xf
#define NSVM_INSN_LENGTH(insn) ((insn) & NSVM_INSN_LENGTH_MASK)
#define NSVM_INSN_OF_GPR(number) ((number) << 4)
#define NSVM_INSN_GPR(insn) ((insn) >> 4 & 0xf)
#define NSVM_INSN_MOV_CR_DR (1 << 8)

/* Fields of the VMCB that QEMU's struct vmcb has no name for. */
#define NSVM_VMCB_NRIP 0x0c8

#ifndef CONFIG_USER_ONLY
static inline uint64_t nsvm_vmcb_ldq(CPUX86State *env, unsigned offset)
{
    return x86_ldq_phys(env_cpu(env), env->vm_vmcb + offset);
}

static inline void nsvm_vmcb_stb(CPUX86State *env, unsigned offset, uint8_t value)
{
    x86_stb_phys(env_cpu(env), env->vm_vmcb + offset, value);
}

static inline void nsvm_vmcb_stq(CPUX86State *env, unsigned offset, uint64_t value)
{
    x86_stq_phys(env_cpu(env), env->vm_vmcb + offset, value);
}
#endif

#include "target/i386/nsvm/features.h"

/* The bits of a feature word that TCG can offer because of us. */
static inline uint64_t nsvm_offered(CPUX86State *env, FeatureWord w)
{
    return w == FEAT_SVM && nsvm_on(env) ? NSVM_SVM_BITS : 0;
}

#endif
