/* Tells what became of each of its calls. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
}

static void tell(const char *call, long result)
{
    printf("%s %ld %s\n", call, result, result < 0 ? strerrorname_np(errno) : "");
}

int main(void)
{
    char block[64];
    static char output[BUFSIZ];
    setvbuf(stdout, output, _IOFBF, sizeof output);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    int file = open("/dev/zero", O_RDONLY);
    tell("open", file < 0 ? -1 : 0);
    tell("read", read(file, block, sizeof block));
    tell("read", read(file, block, sizeof block));
    tell("dup", dup(0) < 0 ? -1 : 0);
    tell("malloc", malloc(8 << 20) ? 0 : -1);
    getppid();
    tell("caught", caught);
    return 0;
}
