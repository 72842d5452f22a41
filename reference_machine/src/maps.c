/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which ports and MSRs exit (APM2 15.10, 15.11).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

/* A map's address: its low 12 bits are ignored. */
static uint64_t map_base(CPUX86State *env, unsigned offset)
{
    return nsvm_vmcb_ldq(env, offset) & TARGET_PAGE_MASK;
}

/* REP INS and OUTS with a count of 0 access no port. */
static bool moves_nothing(CPUX86State *env, uint32_t info)
{
    uint64_t count = env->regs[R_ECX];

    if ((info & (SVM_IOIO_STR_MASK | SVM_IOIO_REP_MASK)) != (SVM_IOIO_STR_MASK | SVM_IOIO_REP_MASK)) {
        return false;
    }
    if (info & 1 << SVM_IOIO_ASIZE_SHIFT) {
        count = (uint16_t)count;
    } else if (info & 2 << SVM_IOIO_ASIZE_SHIFT) {
        count = (uint32_t)count;
    }
    return !count;
}

/* An IN, OUT, INS or OUTS of the guest. `info` is EXITINFO1 without the port. */
void nsvm_check_io(CPUX86State *env, uint32_t port, uint32_t info, uint32_t length, uintptr_t retaddr)
{
    uint32_t bits = (1 << ((info & SVM_IOIO_SIZE_MASK) >> SVM_IOIO_SIZE_SHIFT)) - 1;
    uint64_t map;

    if (!cpu_svm_has_intercept(env, SVM_EXIT_IOIO)
        || (moves_nothing(env, info) && !nsvm_fault(NSVM_FAULT_IO_EMPTY_STRING_EXITS))) {
        return;
    }
    map = map_base(env, offsetof(struct vmcb, control.iopm_base_pa));
    if (nsvm_fault_io_bits(x86_lduw_phys(env_cpu(env), map + port / 8))
        & nsvm_fault_io_size(bits) << (port & 7)) {
        info = nsvm_fault_io_info(info);
        length = nsvm_fault(NSVM_FAULT_IO_NEXT_RIP_MISSING) ? 0 : length;
        nsvm_vmcb_stq(env, offsetof(struct vmcb, control.exit_info_2), env->eip + length);
        cpu_vmexit(env, SVM_EXIT_IOIO, info | port << 16, retaddr);
    }
}

/* Whether RDMSR or WRMSR of ECX exits, MSR_PROT being set. */
bool nsvm_msr_is_intercepted(CPUX86State *env, bool is_write)
{
    uint32_t msr = nsvm_fault_msr(env->regs[R_ECX]);
    uint32_t byte;

    is_write = nsvm_fault(NSVM_FAULT_MSRPM_WRITE_AS_READ) ? false : is_write;

    switch (msr) {
    case 0 ... 0x1fff:
        byte = 0;
        break;
    case 0xc0000000 ... 0xc0001fff:
        if (nsvm_fault(NSVM_FAULT_MSRPM_RANGE_2_IGNORED)) {
            return false;
        }
        byte = 0x800;
        break;
    case 0xc0010000 ... 0xc0011fff:
        byte = 0x1000;
        break;
    default:
        return !nsvm_fault(NSVM_FAULT_MSRPM_OUTSIDE_NO_EXIT);
    }
    byte += (msr & 0x1fff) / 4;
    byte = x86_ldub_phys(env_cpu(env), map_base(env, offsetof(struct vmcb, control.msrpm_base_pa)) + byte);
    return byte >> (msr % 4 * 2 + is_write) & 1;
}
