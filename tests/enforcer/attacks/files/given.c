// A ring that the program is given, with the credentials of who made it: `given COMMAND ...` makes one and executes the command,
// in which `given FILE` has the ring open the file.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RING = 100 };

static char *map(size_t size, off_t at)
{
    return mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, RING, at);
}

int main(int count, char **words)
{
    struct io_uring_params made = {0};
    char *text = getenv("GIVEN");
    if (!text) {
        int ring = syscall(SYS_io_uring_setup, 1, &made);
        if (ring < 0) return 77;
        int own = syscall(SYS_io_uring_register, ring, IORING_REGISTER_PERSONALITY, 0, 0);
        dup2(ring, RING);
        asprintf(&text, "%d %u %u %u %u", own, made.sq_off.tail, made.sq_off.array, made.cq_off.cqes, made.cq_off.tail);
        setenv("GIVEN", text, 1);
        execvp(words[1], words + 1);
        return 126;
    }
    int own;
    sscanf(text, "%d %u %u %u %u", &own, &made.sq_off.tail, &made.sq_off.array, &made.cq_off.cqes, &made.cq_off.tail);
    char *queue = map(4096, IORING_OFF_SQ_RING);
    struct io_uring_sqe *request = (void *)map(4096, IORING_OFF_SQES);
    *request = (struct io_uring_sqe){.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (unsigned long)words[1], .personality = own};
    *(unsigned *)(queue + made.sq_off.array) = 0;
    __atomic_store_n((unsigned *)(queue + made.sq_off.tail), 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, RING, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
        return printf("%s\n", strerrorname_np(errno)), 0;
    int result = ((struct io_uring_cqe *)(queue + made.cq_off.cqes))->res;
    printf("%s\n", result < 0 ? strerrorname_np(-result) : "RAN");
}
