/* Makes a call from a file that calls itself libc and says that its unwind tables are where it has been cut off. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
#ifdef __aarch64__
    const unsigned code[] = {0xd2800348, 0xd4000001, 0xd65f03c0}; /* mov x8, #SYS_inotify_init1; svc #0; ret */
#else
    const unsigned char code[] = {0xb8, 253, 0, 0, 0, 0x0f, 0x05, 0xc3}; /* mov $SYS_inotify_init,%eax; syscall; ret */
#endif
    int file = argc > 1 ? open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0700) : -1;
    if (file < 0 || ftruncate(file, 1 << 20) != 0)
        return 2;
    char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, file, 0);
    if (at == MAP_FAILED)
        return 3;
    Elf64_Ehdr *head = (Elf64_Ehdr *)at;
    Elf64_Phdr *segments = (Elf64_Phdr *)(head + 1);
    memcpy(head->e_ident, "\177ELF\2\1\1", 7);
    head->e_phoff = sizeof *head;
    head->e_phentsize = sizeof *segments;
    head->e_phnum = 2;
    segments[0].p_type = PT_LOAD;
    segments[0].p_filesz = segments[0].p_memsz = 1 << 20;
    segments[1].p_type = PT_GNU_EH_FRAME;
    segments[1].p_vaddr = 1 << 17; /* beyond the first page, whatever its size */
    memcpy(at + 2048, code, sizeof code);
    if (ftruncate(file, 4096) != 0)
        return 4;
    __builtin___clear_cache(at + 2048, at + 2048 + sizeof code);
    ((int (*)(int))(at + 2048))(0);
    return 0;
}
