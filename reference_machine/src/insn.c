/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the translator knows of the instruction that calls a helper, without restoring the CPU's state.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/insn-start-words.h"
#include "exec/exec-all.h"
#include "tcg/helper-tcg.h"

/* The third word of insn_start, or 0 for a call from elsewhere. */
uint32_t nsvm_insn_at(CPUX86State *env, uintptr_t retaddr)
{
    uint64_t data[TARGET_INSN_START_WORDS];

    return retaddr && cpu_unwind_state_data(env_cpu(env), retaddr, data) ? data[2] : 0;
}
