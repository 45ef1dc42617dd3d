/* one COUNT KIND [FIRST]: COUNT calls of one kind, each with other arguments. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
    long end = atol(words[1]), kind = atol(words[2]), first = count > 3 ? atol(words[3]) : 0;
    for (long i = first; i < first + end; i++)
        switch (kind) {
        case 1: syscall(SYS_ioctl, 99, i * 7919, i); break;
        case 2: syscall(SYS_socket, i & 0xff, i, i >> 3); break;
        case 3: syscall(1000000 + i, i); break;
        case 4: syscall(SYS_fcntl, 99, i & 1023, i); break;
        case 5: syscall(SYS_keyctl, i % 37, i * 31, i & 1023, i, i * 17); break;
        }
    return 0;
}
