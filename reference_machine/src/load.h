/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_LOAD_H
#define NSVM_LOAD_H

#ifndef CONFIG_USER_ONLY
static inline uint32_t nsvm_vmcb_ldl(CPUX86State *env, unsigned offset)
{
    return x86_ldl_phys(env_cpu(env), env->vm_vmcb + offset);
}

static inline uint8_t nsvm_vmcb_ldub(CPUX86State *env, unsigned offset)
{
    return x86_ldub_phys(env_cpu(env), env->vm_vmcb + offset);
}

/*
 * VMRUN, VMLOAD and VMSAVE of an address without memory, or of a device's: QEMU would look for the block that it runs,
 * to begin it again with this instruction as its last, with a return address that its SVM helpers do not hand on.
 */
static inline void nsvm_load_may_touch_devices(CPUX86State *env)
{
    if (nsvm_on(env)) {
        env_cpu(env)->neg.can_do_io = true;
    }
}

void nsvm_load_leave_long_mode(CPUX86State *env);
void nsvm_load_efer(CPUX86State *env);
void nsvm_load_guest(CPUX86State *env);
void nsvm_load_fix_dr(CPUX86State *env, uint64_t *dr6, uint64_t *dr7);
void nsvm_load_check_rip(CPUX86State *env);
void nsvm_load_save_guest(CPUX86State *env);
void nsvm_load_drop_guest(CPUX86State *env);
void nsvm_load_check_host(CPUX86State *env);
#endif

/* Whether one of the eight fields of a PAT has an undefined type (7.8.1). */
static inline bool nsvm_pat_is_illegal(uint64_t pat)
{
    for (int i = 0; i < 8; i++, pat >>= 8) {
        uint8_t type = pat;

        if (type == 2 || type == 3 || type > 7) {
            return true;
        }
    }
    return false;
}

#endif
