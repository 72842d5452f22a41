/* Makes the machine and starts its CPUs, each in a thread of its own. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "console.h"
#include "vm.h"

static void make_interrupt_controllers(struct vm *vm)
{
    uint64_t identity = 0xFFFBC000;
    struct kvm_pit_config timer = { .flags = KVM_PIT_SPEAKER_DUMMY };
    if (ioctl(vm->fd, KVM_SET_TSS_ADDR, 0xFFFBD000ul))
        fail_errno(END_HOST, "KVM_SET_TSS_ADDR");
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity))
        fail_errno(END_HOST, "KVM_SET_IDENTITY_MAP_ADDR");
    if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
        fail_errno(END_HOST, "KVM_CREATE_IRQCHIP");
    if (ioctl(vm->fd, KVM_CREATE_PIT2, &timer))
        fail_errno(END_HOST, "KVM_CREATE_PIT2");
}

static void make_cpu(struct vm *vm, struct cpu *cpu, uint32_t index)
{
    *cpu = (struct cpu){ .vm = vm, .index = index, .fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index) };
    if (cpu->fd < 0)
        fail_errno(END_HOST, "KVM_CREATE_VCPU");
    cpu->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
    if (cpu->run == MAP_FAILED)
        fail_errno(END_HOST, "the CPU's shared page");
    if (index == 0) {
        int khz = ioctl(cpu->fd, KVM_GET_TSC_KHZ, 0);
        vm->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
        choose_cpuid(vm);
    }
    set_cpuid(vm, cpu);
}

static void *cpu_thread(void *cpu) { run_cpu(cpu); }

static void *time_limit(void *seconds)
{
    sleep(*(const uint32_t *)seconds);
    fail(END_TIME, "%u seconds are over", *(const uint32_t *)seconds);
}

static void start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument))
        fail(END_HOST, "no more threads");
}

int kvm_main(int count, char **arguments)
{
    static struct options options;
    static struct image image;
    static struct vm vm;
    static struct cpu cpus[CPUS_MAX];
    options = read_options(count, arguments);
    vm.options = &options;
    vm.image = &image;
    vm.kvm = open_kvm(options.device);
    vm.cpuid = supported_cpuid(vm.kvm);
    check_svm(vm.cpuid);
    vm.fd = ioctl(vm.kvm, KVM_CREATE_VM, 0ul);
    if (vm.fd < 0)
        fail_errno(END_HOST, "KVM_CREATE_VM");
    if (options.check)
        return 0;
    take_quirks_away(vm.fd, options.quirks_off);
    int run_size = ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run))
        fail(END_HOST, "KVM_GET_VCPU_MMAP_SIZE failed");
    vm.run_size = (size_t)run_size;
    make_interrupt_controllers(&vm);
    make_memory(&vm);
    load_image(&vm, &image);
    for (uint32_t i = 0; i < options.cpus; i++)
        make_cpu(&vm, &cpus[i], i);
    set_start_state(&vm, &cpus[0]);
    console_start();
    if (options.seconds)
        start_thread(time_limit, &options.seconds);
    for (uint32_t i = 1; i < options.cpus; i++)
        start_thread(cpu_thread, &cpus[i]);
    run_cpu(&cpus[0]);
}
