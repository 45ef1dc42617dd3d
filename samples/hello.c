/* The least a C program asks for: the loader, one write, one exit. */
#include <stdio.h>

int main(void) {
    puts("hello, world\n"
         "learn must find: openat: flags == O_RDONLY\n"
         "learn must find: mmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE\n"
         "learn must refuse: execve()\n"
         "learn must refuse: socket(family=AF_UNIX, type=SOCK_STREAM)\n"
         "learn must refuse: openat(flags=O_WRONLY)\n"
         "learn must refuse: mprotect(prot=PROT_READ|PROT_EXEC)");
    return 0;
}
