/* Puts back what a blob, or an L0 that forgets, may have changed under the executor. Compares first: a write may cost an exit. */
#include "executor.h"

struct sane_state boot_state;

void read_sane_state(struct sane_state *state)
{
    __asm__ volatile("movq %%cr0, %0" : "=r"(state->cr0));
    __asm__ volatile("movq %%cr3, %0" : "=r"(state->cr3));
    __asm__ volatile("movq %%cr4, %0" : "=r"(state->cr4));
    __asm__ volatile("movq %%dr7, %0" : "=r"(state->dr7));
}

void restore_sane_state(const struct sane_state *state)
{
    struct sane_state now;
    read_sane_state(&now);
    restore_from(&now, state);
}

void restore_from(const struct sane_state *now, const struct sane_state *state)
{
    if (now->dr7 != state->dr7)
        __asm__ volatile("movq %0, %%dr7" : : "r"(state->dr7));
    if (now->cr4 != state->cr4)
        __asm__ volatile("movq %0, %%cr4" : : "r"(state->cr4) : "memory");
    if (now->cr3 != state->cr3)
        __asm__ volatile("movq %0, %%cr3" : : "r"(state->cr3) : "memory");
    if (now->cr0 != state->cr0)
        __asm__ volatile("movq %0, %%cr0" : : "r"(state->cr0) : "memory");
}
