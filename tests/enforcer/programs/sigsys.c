/* Tries to survive SIGSYS, or has much to dump, then makes a call that is denied. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char much[64 << 20];

static void handler(int number)
{
    (void)number;
}

int main(int argc, char **argv)
{
    (void)argc;
    if (!strcmp(argv[1], "catch"))
        signal(SIGSYS, handler);
    else if (!strcmp(argv[1], "ignore"))
        signal(SIGSYS, SIG_IGN);
    else if (!strcmp(argv[1], "dump"))
        memset(much, 1, sizeof much);
    else {
        sigset_t set;
        sigfillset(&set);
        sigprocmask(SIG_BLOCK, &set, 0);
    }
    puts(argv[1]);
    fflush(stdout);
    syscall(SYS_getppid);
    puts("survived");
    return 0;
}
