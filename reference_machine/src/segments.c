/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Segments of a guest outside 64-bit mode (APM2 4.5.3, 4.12). Data accesses that the translator makes itself are
 * checked; those of helpers, of x87 and of SSE, and fetches are not.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"

#define FLAT_LIMIT 0xffffffff
#define EXPAND_DOWN DESC_C_MASK /* of a data segment */

static bool has_rights(CPUX86State *env)
{
    return (env->cr[0] & CR0_PE_MASK) && !(env->eflags & VM_MASK);
}

static bool is_flat(CPUX86State *env, const SegmentCache *segment)
{
    uint32_t rights = DESC_P_MASK | DESC_W_MASK | DESC_CS_MASK | EXPAND_DOWN;

    return segment->limit == FLAT_LIMIT
           && (!has_rights(env) || (segment->flags & rights) == (DESC_P_MASK | DESC_W_MASK));
}

/* A segment was loaded, or a guest entered or left. */
void nsvm_segments_update(CPUX86State *env)
{
    env->hflags &= ~NSVM_HF_SEGMENTS;
    if (nsvm_on(env) && nsvm_in_guest(env) && !(env->hflags & HF_CS64_MASK)
        && !(is_flat(env, &env->segs[R_DS]) && is_flat(env, &env->segs[R_ES]) && is_flat(env, &env->segs[R_SS]))) {
        env->hflags |= NSVM_HF_SEGMENTS;
    }
}

static bool rights_allow(const SegmentCache *segment, bool is_write)
{
    uint32_t flags = segment->flags;

    if (!(flags & DESC_P_MASK)) {
        return false;
    }
    if (flags & DESC_CS_MASK) {
        return !is_write && (flags & DESC_R_MASK);
    }
    return !is_write || (flags & DESC_W_MASK);
}

static bool limit_allows(CPUX86State *env, const SegmentCache *segment, uint32_t first, uint32_t last)
{
    bool expands_down = has_rights(env) && (segment->flags & (DESC_CS_MASK | EXPAND_DOWN)) == EXPAND_DOWN;

    if (last < first) {
        return false;
    }
    if (expands_down) {
        return first > segment->limit && last <= (segment->flags & DESC_B_MASK ? FLAT_LIMIT : 0xffff);
    }
    return last <= segment->limit;
}

void helper_nsvm_segment(CPUX86State *env, target_ulong address, uint32_t access)
{
    int number = access & 7;
    bool is_write = access >> 8 & 1;
    const SegmentCache *segment = &env->segs[number];
    uint32_t first = address - segment->base;

    if ((has_rights(env) && !rights_allow(segment, is_write))
        || !limit_allows(env, segment, first, first + (access >> 3 & 31))) {
        raise_exception_err_ra(env, number == R_SS ? EXCP0C_STACK : EXCP0D_GPF, 0, GETPC());
    }
}
