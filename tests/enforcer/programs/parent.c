/* Asks for its parent's pid, in itself and in a child of a child: prints one digit each, the errno. */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void ask(void)
{
    errno = 0;
    syscall(SYS_getppid);
    printf("%d", errno);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    ask();
    if (argc > 1) {
        execv(argv[0], (char *[]){argv[0], 0});
        return 1;
    }
    if (fork() == 0) {
        ask();
        if (fork() == 0) {
            ask();
            return 0;
        }
        wait(0);
        return 0;
    }
    wait(0);
    return 7;
}
