/* distinct COUNT: calls of several kinds, each time with other names, values and names of the task. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
    long end = count > 1 ? atol(words[1]) : 0;
    char name[4000] = "/";
    memset(name + 1, 'x', 3900);
    for (long i = 0; i < end; i++) {
        sprintf(name + 3000, "%ld", i);
        open(name, O_RDONLY);
        syscall(SYS_fcntl, i, F_GETFD);
        syscall(SYS_ioctl, i, i * 7919, i);
        syscall(SYS_socket, i & 0xff, i, i >> 3);
        if (!(i % 64))
            prctl(PR_SET_NAME, name + 2995);
        syscall(1000000 + i, i);
    }
    return 0;
}
