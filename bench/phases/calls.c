/* calls BEFORE [AFTER]: makes so many calls, then one that waits for nothing and is the trigger of a phase.  After it, it makes
 * as many getppid, and as many fcntl, as AFTER says, and prints the nanoseconds of processor time that one of each took.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec spent;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    return spent.tv_sec * 1e9 + spent.tv_nsec;
}

int main(int count, char **words)
{
    long after = count > 2 ? atol(words[2]) : 0;
    double began, between;

    for (long left = count > 1 ? atol(words[1]) : 0; left; left--)
        syscall(SYS_getppid);
    poll(0, 0, 0);
    if (!after)
        return 0;
    began = now();
    for (long left = after; left; left--)
        syscall(SYS_getppid);
    between = now();
    for (long left = after; left; left--)
        syscall(SYS_fcntl, 0, F_GETFL, 0);
    printf("%.1f %.1f\n", (between - began) / after, (now() - between) / after);
    return 0;
}
