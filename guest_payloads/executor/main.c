/* From the first C instruction to serving requests. */
#include "executor.h"

void executor_main(void) __attribute__((noreturn));

void executor_main(void)
{
    memset(cpu_at(0), 0, sizeof(struct cpu));
    load_descriptors(0);                /* first, so that a fault in what follows is recorded */
    crc_start();
    read_boot_info();
    console_start();
    enable_features();
    apic_start();
    choose_host_items();
    __asm__ volatile("movq %0, %%dr7" : : "r"(0x400ull));
    __asm__ volatile("movq %0, %%dr6" : : "r"(0xFFFF0FF0ull));
    read_sane_state(&boot_state);
    start_cpu2(run_steps);
    if (is_reproducer())
        run_reproducer();
    send_hello(0, 0);
    if (boot.complaint)
        send_note(boot.complaint);
    run_bundle();
    serve();
}
