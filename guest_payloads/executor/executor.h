/* What the files of the executor share. */
#ifndef EXECUTOR_H
#define EXECUTOR_H
#include "layout.h"
#include "protocol.h"
#include "types.h"

#define EVENTS_MAX 64

struct cpu {
    u64 guard;                  /* RSP of the innermost guarded(), 0 if none */
    u64 blob_address, blob_rflags;
    u64 regs_in[16], regs_out[16], rflags_out;
    u32 index, in_exception, in_blob, quiet;
    u32 phase, vmrun_faulted, tf_cleared, panics;
    u32 exceptions, interrupts, own_probe, own_watchdog;
    u32 event_count, pad;
    struct fault_record last_fault;
    struct fault_record events[EVENTS_MAX];
};
_Static_assert(__builtin_offsetof(struct cpu, guard) == CPU_GUARD, "layout.h");
_Static_assert(__builtin_offsetof(struct cpu, blob_address) == CPU_BLOB_ADDR, "layout.h");
_Static_assert(__builtin_offsetof(struct cpu, blob_rflags) == CPU_BLOB_RFLAGS, "layout.h");
_Static_assert(__builtin_offsetof(struct cpu, regs_in) == CPU_REGS_IN, "layout.h");
_Static_assert(__builtin_offsetof(struct cpu, regs_out) == CPU_REGS_OUT, "layout.h");
_Static_assert(__builtin_offsetof(struct cpu, rflags_out) == CPU_RFLAGS_OUT, "layout.h");
_Static_assert(sizeof(struct cpu) <= IST_EXCEPTION_TOP - 0x2000, "the first IST stack needs room");

extern u8 cpu_blocks[CPUS_MAX][BLOCK_SIZE];
static inline struct cpu *cpu_at(u32 index) { return (struct cpu *)cpu_blocks[index]; }
static inline struct cpu *this_cpu(void)
{
    u64 rsp;
    __asm__("movq %%rsp, %0" : "=r"(rsp));
    return (struct cpu *)(rsp & ~(u64)(BLOCK_SIZE - 1));
}

/* link.ld */
extern u8 image_start[], image_end[], build_note[];

/* boot.S, bootinfo.c */
extern u32 boot_kind, boot_information, boot_extra;
extern u64 long_tables[];
struct boot_info {
    u64 bundle, bundle_size, rsdp;
    u32 baud, quiet_s;          /* 0: not given */
    u16 uart_port;              /* 0: not given */
    u16 console;                /* the one asked for: CONSOLE_... */
    const char *complaint;      /* said in a NOTE once the console is up */
};
extern struct boot_info boot;
void read_boot_info(void);

/* ops.S: 0, or 1 after a fault (which last_fault describes) */
int try_rdmsr(u32 msr, u64 *value);
int try_wrmsr(u32 msr, u64 value);
int try_xsetbv0(u64 value);
int try_vmload(u64 rax);
int try_vmsave(u64 rax);
int try_clgi(void);
int try_stgi(void);
void open_window(void);
void set_data_segments(void);
int guarded(void (*function)(void *), void *argument);
void guard_abort(void);
void call_blob(struct cpu *cpu);

/* descriptors.c */
void load_descriptors(u32 cpu);
void load_idt(int with_ist);
void reload_tr(u32 cpu);
void restore_descriptors(u32 cpu);

/* exceptions.c */
struct frame {
    u64 regs[16], vector, error, rip, cs, rflags, rsp, ss;
};
void take_vector(struct frame *frame);

/* events.c */
struct out;
void keep_event(struct cpu *cpu, const struct fault_record *record);
void put_events(struct out *out, struct cpu *cpu);

/* features.c */
struct features {
    u8 svm, xsave, apic, nx;
};
extern struct features features;
void enable_features(void);
u64 read_efer(void);
int svme_is_set(void);

/* restore.c: what a blob or a lying L0 may have changed under the executor. */
struct sane_state {
    u64 cr0, cr3, cr4, dr7;
};
extern struct sane_state boot_state;
void read_sane_state(struct sane_state *state);
void restore_sane_state(const struct sane_state *state);
void restore_from(const struct sane_state *now, const struct sane_state *state);

/* apic.c */
void apic_start(void);
u32 apic_id(void);
void apic_eoi(void);
void apic_clear_in_service(void);
void apic_send(u32 destination, u32 command);
void apic_send_self(u8 vector);
u32 apic_requested_beside(u8 vector);
int apic_requested(u8 vector);
int apic_anything_requested(void);
void apic_timer(u8 vector, u32 initial_count);
void apic_timer_stop(void);
u32 apic_timer_count(void);
enum { APIC_FIXED = 0x4000, APIC_NMI = 0x4400, APIC_INIT = 0x4500, APIC_STARTUP = 0x4600 };

/* clock.c */
u64 tsc_from_us(u64 us);
u32 apic_ticks_from_us(u64 us);
void wait_us(u32 us);

/* acpi.c */
const u8 *acpi_table(u32 signature);     /* 0 if there is none */
int find_other_cpu(u32 own_apic_id, u32 *apic_id);

/* cpu2.c */
typedef void run_steps_t(const u8 *list, u32 size, struct out *out);
extern u32 cpu_count;
extern u32 cpu_apic_ids[CPUS_MAX];
void start_cpu2(run_steps_t *run);
u8 cpu2_run(const u8 *list, u32 size);
u8 cpu2_join(u32 timeout_us, struct out *out);

/* host_state.c */
#define HOST_ITEMS_MAX 48
enum { ITEM_CS = 1, ITEM_SS, ITEM_DS, ITEM_ES, ITEM_FS, ITEM_GS, ITEM_TR, ITEM_LDTR, ITEM_GDTR_BASE, ITEM_GDTR_LIMIT,
       ITEM_IDTR_BASE, ITEM_IDTR_LIMIT, ITEM_CR0, ITEM_CR2, ITEM_CR3, ITEM_CR4, ITEM_CR8, ITEM_EFER, ITEM_RFLAGS, ITEM_RSP,
       ITEM_DR0, ITEM_DR1, ITEM_DR2, ITEM_DR3, ITEM_DR6, ITEM_DR7, ITEM_XCR0, ITEM_RAX, ITEM_REGISTERS };
struct host_state {
    u64 value[HOST_ITEMS_MAX];
};
#define KEPT_STATES 64          /* of the last VMRUNs of each CPU */
struct host_state *keep_state(u32 cpu, u16 *serial);
const struct host_state *kept_state(u32 cpu, u16 serial);
void choose_host_items(void);
void read_host_state(struct host_state *state, u64 efer);
void put_host_state(struct out *out, const struct host_state *state);
u32 put_host_differences(struct out *out, const struct host_state *before, const struct host_state *after);

/* tables.c */
u32 write_tables(u64 address, u8 kind);
u32 tables_size(u8 kind);

/* out.c: a bounded buffer for what goes out, and a bounded reader for what came in. */
struct out {
    u8 *base;
    u32 size, max;
    u8 full;
};
void put_bytes(struct out *out, const void *bytes, u32 size);
void put8(struct out *out, u8 value);
void put16(struct out *out, u16 value);
void put32(struct out *out, u32 value);
void put64(struct out *out, u64 value);
void put_text(struct out *out, const char *text);
void put_hex(struct out *out, u64 value);
struct in {
    const u8 *at;
    u32 left;
    u8 bad;
};
const u8 *get_bytes(struct in *in, u32 size);
u8 get8(struct in *in);
u16 get16(struct in *in);
u32 get32(struct in *in);
u64 get64(struct in *in);

/* steps.c */
void run_steps(const u8 *list, u32 size, struct out *out);

/* memory.c */
int in_scenario_memory(u64 address, u64 size);
u8 step_mem_write(struct in *in);
u8 step_mem_fill(struct in *in);
u8 step_mem_read(struct in *in, struct out *out);
u8 step_mem_copy(struct in *in);
u8 step_tables(struct in *in, struct out *out);

/* code.c, vmrun.c, interrupts.c */
u8 step_code(struct in *in, struct out *out);
u8 step_vmrun(struct in *in, struct out *out);
u8 step_raise(struct in *in, struct out *out);
u8 step_window(struct in *in, struct out *out);
void drain_interrupts(void);

/* lines.c */
void find_lines(void);

/* uart.c */
void uart_add(u64 base, int memory, u32 stride, u32 baud);
void uart_add_unseen(u16 port, u32 baud);
u32 uart_count(void);
void uart_settle(void);         /* a good frame has come */
int uart_get(u8 *errors);       /* a byte, or -1 */
void uart_put(const u8 *bytes, u32 size);
void uart_flush(void);
int uart_is_there(void);

/* xen_console.c */
int xen_console_start(void);    /* 0 where there is none */
int xen_console_get(void);
void xen_console_put(const u8 *bytes, u32 size);

/* block_console.c */
int block_console_start(void);  /* 0 where there is none */
int block_console_get(void);
void block_console_put(const u8 *bytes, u32 size);

/* virtio_console.c */
int virtio_console_start(void); /* 0 where there is none */
int virtio_console_get(void);
void virtio_console_put(const u8 *bytes, u32 size);

/* console.c */
enum { CONSOLE_UART, CONSOLE_XEN, CONSOLE_BLOCK, CONSOLE_VIRTIO, CONSOLE_E9 };
void console_start(void);
int console_get(u8 *errors);
void console_put(const u8 *bytes, u32 size);
void console_flush(void);
void console_settle(void);

/* frame.c */
void crc_start(void);
u32 crc32(const void *bytes, u32 size);
#define FRAME_MAX (HEADER_SIZE + FRAME_BODY_MAX + CRC_SIZE)
#define COBS_MAX (FRAME_MAX + FRAME_MAX / 254 + 1)
struct decoder {
    u32 size, started;
    u8 block_left, block_code, bad_cobs, oversized, line_errors;
    u8 bytes[FRAME_MAX];
};
int decode_byte(struct decoder *decoder, u8 byte);  /* 1 when a frame, good or bad, is complete */
void decode_again(struct decoder *decoder);
u32 cobs_encode(u8 *to, const u8 *from, u32 size);

/* link.c */
void send_note(const char *text);
void send_hello(u8 cause, u16 seq);
void serve(void) __attribute__((noreturn));
void reset_machine(void) __attribute__((noreturn));

/* hello.c */
void put_hello(struct out *out, u8 cause);
extern u8 lane_request[LANE_REQUEST_SIZE], lane_answer[LANE_ANSWER_SIZE];

/* self_check.c */
int is_reproducer(void);
void run_reproducer(void) __attribute__((noreturn));

/* bundle.c, link.c */
void run_bundle(void);
void answer_run(u16 seq, u32 crc, const u8 *list, u32 size);
void send_message(u8 type, u16 seq, const void *body, u32 size);
void forget_answer(void);

#endif
