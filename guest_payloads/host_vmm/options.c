/* The command line of `nsvm-host kvm`. */
#include "options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host.h"

static uint32_t number(const char *option, const char *text, uint32_t least, uint32_t most)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < least || value > most)
        fail(END_USAGE, "%s takes a number from %u to %u, not '%s'", option, least, most, text);
    return (uint32_t)value;
}

/* Hexadecimal digits up to one of `ends`; 0 if there are none, or too many. */
static int hex(const char **at, const char *ends, uint32_t *value)
{
    char *end;
    if (**at == '-' || **at == '+' || **at == ' ')
        return 0;
    errno = 0;
    unsigned long long read = strtoull(*at, &end, 16);
    if (errno || end == *at || read > UINT32_MAX || (*end ? !strchr(ends, *end) : *ends != 0))
        return 0;
    *value = (uint32_t)read;
    *at = end;
    return 1;
}

static struct clear read_clear(const char *text)
{
    static const char *const names[] = { "eax", "ebx", "ecx", "edx" };
    struct clear clear = { .any_subleaf = 1 };
    const char *at = text;
    int good = hex(&at, ".", &clear.leaf);
    const char *second = at;
    if (good && strchr(second + 1, '.')) {
        at = second + 1;
        good = hex(&at, ".", &clear.subleaf);
        clear.any_subleaf = 0;
    }
    for (int i = 0; good && i < 4; i++)
        if (!strncasecmp(at + 1, names[i], 3) && at[4] == '=') {
            clear.reg = (enum cpuid_register)i;
            at += 5;
            if (hex(&at, "", &clear.mask))
                return clear;
            break;
        }
    fail(END_USAGE, "--clear takes LEAF[.SUBLEAF].REG=MASK in hex, as 8000000a.edx=8, not '%s'", text);
}

static uint32_t read_quirks(const char *text)
{
    uint32_t mask;
    const char *at = text;
    if (hex(&at, "", &mask))
        return mask;
    fail(END_USAGE, "--quirks-off takes a mask of KVM_X86_QUIRK_* in hex, as 800, not '%s'", text);
}

static enum entry read_entry(const char *text)
{
    if (!strcmp(text, "auto"))
        return ENTRY_AUTO;
    if (!strcmp(text, "multiboot"))
        return ENTRY_MULTIBOOT;
    if (!strcmp(text, "pvh"))
        return ENTRY_PVH;
    fail(END_USAGE, "--entry takes auto, multiboot or pvh, not '%s'", text);
}

struct options read_options(int count, char **arguments)
{
    struct options options = { .device = "/dev/kvm", .cpus = 1, .memory_mib = 64 };
    for (int i = 1; i < count; i++) {
        const char *option = arguments[i];
        if (option[0] != '-') {
            if (options.image)
                fail(END_USAGE, "one image, please, not '%s' and '%s'", options.image, option);
            options.image = option;
            continue;
        }
        if (!strcmp(option, "--check")) {
            options.check = 1;
            continue;
        }
        if (i + 1 == count)
            fail(END_USAGE, "'%s' is no option, or lacks its value", option);
        const char *value = arguments[++i];
        if (!strcmp(option, "--cpus"))
            options.cpus = number(option, value, 1, CPUS_MAX);
        else if (!strcmp(option, "--memory"))
            options.memory_mib = number(option, value, 16, 2048);
        else if (!strcmp(option, "--seconds"))
            options.seconds = number(option, value, 1, 86400);
        else if (!strcmp(option, "--module"))
            options.module = value;
        else if (!strcmp(option, "--append"))
            options.append = value;
        else if (!strcmp(option, "--name"))
            continue;                           /* only to be seen in the list of processes */
        else if (!strcmp(option, "--device"))
            options.device = value;
        else if (!strcmp(option, "--quirks-off"))
            options.quirks_off = read_quirks(value);
        else if (!strcmp(option, "--entry"))
            options.entry = read_entry(value);
        else if (!strcmp(option, "--console") && (!strcmp(value, "uart") || !strcmp(value, "block")))
            options.block_console = value[0] == 'b';
        else if (!strcmp(option, "--clear") && options.clear_count < CLEARS_MAX)
            options.clears[options.clear_count++] = read_clear(value);
        else
            fail(END_USAGE, "'%s %s' is not understood", option, value);
    }
    if (!options.image && !options.check)
        fail(END_USAGE, "which image?");
    return options;
}
