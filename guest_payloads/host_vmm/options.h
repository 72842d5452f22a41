/* The command line of `nsvm-host kvm`. */
#ifndef OPTIONS_H
#define OPTIONS_H
#include <stdint.h>

#define CLEARS_MAX 32
#define CPUS_MAX 8

enum entry { ENTRY_AUTO, ENTRY_MULTIBOOT, ENTRY_PVH };
enum cpuid_register { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

struct clear {
    uint32_t leaf, subleaf, mask;
    int any_subleaf;
    enum cpuid_register reg;
};
struct options {
    const char *device, *image, *module, *append;
    uint32_t cpus, memory_mib, seconds, clear_count, quirks_off;
    int block_console, check;
    enum entry entry;
    struct clear clears[CLEARS_MAX];
};
struct options read_options(int count, char **arguments);

#endif
