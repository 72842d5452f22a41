/* Runs one CPU, and says what it died of. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vm.h"

static const char *internal_error(uint32_t suberror)
{
    switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: return "an instruction that KVM cannot emulate";
    case KVM_INTERNAL_ERROR_SIMUL_EX: return "simultaneous exceptions";
    case KVM_INTERNAL_ERROR_DELIVERY_EV: return "an exit while delivering an event";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return "an exit that KVM does not know";
    default: return "unknown";
    }
}

/* Where the CPU stands, for the line. */
static const char *where(struct cpu *cpu)
{
    static char text[256];
    struct kvm_regs regs;
    struct kvm_sregs special;
    if (ioctl(cpu->fd, KVM_GET_REGS, &regs) || ioctl(cpu->fd, KVM_GET_SREGS, &special))
        return "CPU state unreadable";
    snprintf(text, sizeof(text), "CPU %u at %x:%llx, rsp %llx, rflags %llx, cr0 %llx, cr3 %llx, cr4 %llx, efer %llx", cpu->index,
             special.cs.selector, (unsigned long long)regs.rip, (unsigned long long)regs.rsp, (unsigned long long)regs.rflags,
             (unsigned long long)special.cr0, (unsigned long long)special.cr3, (unsigned long long)special.cr4,
             (unsigned long long)special.efer);
    return text;
}

_Noreturn static void fail_internal(struct cpu *cpu)
{
    char data[160] = "";
    size_t size = 0;
    uint32_t count = cpu->run->internal.ndata < 8 ? cpu->run->internal.ndata : 8;
    for (uint32_t i = 0; i < count; i++)
        size += (size_t)snprintf(data + size, sizeof(data) - size, " %llx", (unsigned long long)cpu->run->internal.data[i]);
    fail(END_INTERNAL_ERROR, "KVM internal error, suberror %u (%s), data%s; %s", cpu->run->internal.suberror,
         internal_error(cpu->run->internal.suberror), data, where(cpu));
}

static void handle_io(struct cpu *cpu)
{
    struct kvm_run *run = cpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            port_out(cpu->vm, run->io.port, run->io.size, data);
        else
            port_in(cpu->vm, run->io.port, run->io.size, data);
    }
}

static void handle_exit(struct cpu *cpu)
{
    struct kvm_run *run = cpu->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        handle_io(cpu);
        break;
    case KVM_EXIT_MMIO:                         /* nothing is there */
        if (!run->mmio.is_write)
            memset(run->mmio.data, 0xFF, sizeof(run->mmio.data));
        break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
    case KVM_EXIT_SHUTDOWN:
        fail(END_TRIPLE_FAULT, "SHUTDOWN (triple fault); %s", where(cpu));
    case KVM_EXIT_INTERNAL_ERROR:
        fail_internal(cpu);
    case KVM_EXIT_FAIL_ENTRY:
        fail(END_FAILED_ENTRY, "KVM_EXIT_FAIL_ENTRY: VMRUN of the guest failed with %llxh; %s",
             (unsigned long long)run->fail_entry.hardware_entry_failure_reason, where(cpu));
    case KVM_EXIT_SYSTEM_EVENT:
        fail(END_RESET, "system event %u; %s", run->system_event.type, where(cpu));
    case KVM_EXIT_UNKNOWN:
        fail(END_OTHER_EXIT, "KVM_EXIT_UNKNOWN, hardware exit reason %llxh; %s",
             (unsigned long long)run->hw.hardware_exit_reason, where(cpu));
    default:
        fail(END_OTHER_EXIT, "KVM exit reason %u, which nobody asked for; %s", run->exit_reason, where(cpu));
    }
}

/* As long as the guest lives, by nature; the watcher of the console ends the process. EAGAIN: a CPU that waits for its SIPI. */
_Noreturn void run_cpu(struct cpu *cpu)
{
    for (;;) {
        if (!ioctl(cpu->fd, KVM_RUN, 0))
            handle_exit(cpu);
        else if (errno != EINTR && errno != EAGAIN)
            fail(END_RUN_ERROR, "KVM_RUN: %s; %s", strerror(errno), where(cpu));
    }
}
