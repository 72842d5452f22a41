/* Loads an ELF, 32-bit or 64-bit, and finds its multiboot header and its PVH note. */
#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm.h"

#define IMAGE_MAX (64u << 20)
#define SEGMENTS_MAX 64
#define MULTIBOOT_SEARCH 8192
#define MULTIBOOT_MAGIC 0x1BADB002u
#define NOTE_PHYS32_ENTRY 18

struct segment {
    uint32_t type;
    uint64_t offset, address, file_size, memory_size;
};
struct file {
    const char *name;
    int fd;
    uint64_t size;
};

static struct file open_file(const char *name)
{
    struct stat found;
    struct file file = { name, open(name, O_RDONLY | O_CLOEXEC), 0 };
    if (file.fd < 0 || fstat(file.fd, &found))
        fail_errno(END_IMAGE, name);
    if (!S_ISREG(found.st_mode) || found.st_size <= 0 || found.st_size > IMAGE_MAX)
        fail(END_IMAGE, "%s is not a file of 1 byte to 64 MiB", name);
    file.size = (uint64_t)found.st_size;
    return file;
}

static void read_at(const struct file *file, void *to, uint64_t size, uint64_t offset)
{
    if (offset > file->size || size > file->size - offset)
        fail(END_IMAGE, "%s is cut short", file->name);
    for (uint64_t done = 0; done < size;) {
        ssize_t got = pread(file->fd, (uint8_t *)to + done, size - done, (off_t)(offset + done));
        if (got <= 0)
            fail(END_IMAGE, "%s cannot be read", file->name);
        done += (uint64_t)got;
    }
}

static struct segment read_segment(const struct file *file, int is64, uint64_t at)
{
    if (is64) {
        Elf64_Phdr p;
        read_at(file, &p, sizeof(p), at);
        return (struct segment){ p.p_type, p.p_offset, p.p_paddr, p.p_filesz, p.p_memsz };
    }
    Elf32_Phdr p;
    read_at(file, &p, sizeof(p), at);
    return (struct segment){ p.p_type, p.p_offset, p.p_paddr, p.p_filesz, p.p_memsz };
}

static void read_notes(const struct file *file, const struct segment *segment, struct image *image)
{
    static uint8_t notes[4096];
    uint64_t size = segment->file_size < sizeof(notes) ? segment->file_size : sizeof(notes);
    read_at(file, notes, size, segment->offset);
    for (uint64_t at = 0; at + 12 <= size;) {
        uint32_t head[3];                       /* sizes of name and descriptor, type */
        memcpy(head, notes + at, 12);
        uint64_t name = at + 12, descriptor = name + (((uint64_t)head[0] + 3) & ~3ull);
        if (descriptor + head[1] > size)
            return;
        if (head[0] == 4 && !memcmp(notes + name, "Xen", 4) && head[2] == NOTE_PHYS32_ENTRY && head[1] >= 4)
            memcpy(&image->pvh_entry, notes + descriptor, 4);
        at = descriptor + (((uint64_t)head[1] + 3) & ~3ull);
    }
}

static int has_multiboot_header(const struct file *file)
{
    static uint32_t words[MULTIBOOT_SEARCH / 4];
    uint64_t size = file->size < sizeof(words) ? file->size & ~3ull : sizeof(words);
    read_at(file, words, size, 0);
    for (uint64_t i = 0; i + 3 <= size / 4; i++)
        if (words[i] == MULTIBOOT_MAGIC && words[i] + words[i + 1] + words[i + 2] == 0)
            return 1;
    return 0;
}

static void load_elf(struct vm *vm, const struct file *file, struct image *image)
{
    uint8_t head[64];
    read_at(file, head, sizeof(head), 0);
    if (memcmp(head, ELFMAG, SELFMAG) || (head[EI_CLASS] != ELFCLASS32 && head[EI_CLASS] != ELFCLASS64))
        fail(END_IMAGE, "%s is not an ELF file", file->name);
    int is64 = head[EI_CLASS] == ELFCLASS64;
    const Elf32_Ehdr *e32 = (const Elf32_Ehdr *)(const void *)head;
    const Elf64_Ehdr *e64 = (const Elf64_Ehdr *)(const void *)head;
    uint64_t table = is64 ? e64->e_phoff : e32->e_phoff, entry = is64 ? e64->e_entry : e32->e_entry;
    uint32_t count = is64 ? e64->e_phnum : e32->e_phnum, step = is64 ? e64->e_phentsize : e32->e_phentsize;
    if (count > SEGMENTS_MAX)
        fail(END_IMAGE, "%s has %u segments, more than an executor has", file->name, count);
    for (uint32_t i = 0; i < count; i++) {
        struct segment segment = read_segment(file, is64, table + (uint64_t)i * step);
        if (segment.type == PT_NOTE)
            read_notes(file, &segment, image);
        if (segment.type != PT_LOAD || !segment.memory_size)
            continue;
        uint8_t *to = guest_memory(vm, segment.address, segment.memory_size);
        if (!to || segment.address < 0x100000 || segment.file_size > segment.memory_size)
            fail(END_IMAGE, "%s does not fit %u MiB of memory above the first", file->name, vm->options->memory_mib);
        read_at(file, to, segment.file_size, segment.offset);
    }
    if (has_multiboot_header(file) && entry && entry <= UINT32_MAX)
        image->multiboot_entry = (uint32_t)entry;
    if (!image->multiboot_entry && !image->pvh_entry)
        fail(END_IMAGE, "%s has neither a multiboot header nor a PVH note", file->name);
}

static void load_module(struct vm *vm, struct image *image)
{
    struct file file = open_file(vm->options->module);
    uint8_t *to = guest_memory(vm, MODULE_BASE, file.size);
    if (!to)
        fail(END_IMAGE, "%s does not fit: a boot module lies at 32 MiB and up", file.name);
    read_at(&file, to, file.size, 0);
    close(file.fd);
    image->module = MODULE_BASE;
    image->module_size = (uint32_t)file.size;
}

void load_image(struct vm *vm, struct image *image)
{
    struct file file = open_file(vm->options->image);
    load_elf(vm, &file, image);
    close(file.fd);
    if (vm->options->module)
        load_module(vm, image);
    if (vm->options->append) {
        if (strlen(vm->options->append) >= TSS_PAGE - COMMAND_LINE)
            fail(END_USAGE, "the guest's command line has more than 4095 characters");
        strcpy((char *)vm->ram + COMMAND_LINE, vm->options->append);
        image->command_line = COMMAND_LINE;
    }
}
