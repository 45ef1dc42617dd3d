/* Reads a file, later through io_uring, if there is one: each call is made whether the one before it has worked or not. */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    char byte;
    int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (read(file, &byte, 1) != 1)
        return 1;
#ifdef AFTER
    struct io_uring_params parameters = {0};
    int ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    syscall(SYS_io_uring_enter, ring, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
    close(ring);
#endif
    puts("read");
    return 0;
}
