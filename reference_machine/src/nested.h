/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_NESTED_H
#define NSVM_NESTED_H

/* Reserved in a legacy PAE page-directory-pointer entry, beside what lies beyond MAXPHYADDR (5.2.4). */
#define NSVM_PDPE_RESERVED 0x1e6

#ifndef CONFIG_USER_ONLY
/* A page-directory-pointer entry of long mode (5.3.3, 5.3.5). */
static inline bool nsvm_pdpe_is_illegal(CPUX86State *env, uint64_t entry)
{
    return entry & PG_PSE_MASK ? !(env->features[FEAT_8000_0001_EDX] & CPUID_EXT2_PDPE1GB) : entry & PG_GLOBAL_MASK;
}

/* Whether a guest physical address is beyond what the nested tables translate: 4 GiB, 256 TiB or 128 PiB. */
static inline bool nsvm_nested_is_out_of_reach(CPUX86State *env, uint64_t address)
{
    int bits = !(env->nested_pg_mode & PG_MODE_LMA) ? 32 : env->nested_pg_mode & PG_MODE_LA57 ? 57 : 48;

    return address >> bits;
}

/* The error code of a nested entry that is not there. */
static inline int nsvm_nested_not_present(CPUX86State *env, MMUAccessType access)
{
    bool tells_fetches = env->nested_pg_mode & (PG_MODE_NXE | PG_MODE_SMEP);

    return PG_ERROR_U_MASK | (access == MMU_DATA_STORE ? PG_ERROR_W_MASK : 0)
           | (access == MMU_INST_FETCH && tells_fetches ? PG_ERROR_I_D_MASK : 0);
}
#endif

#endif
