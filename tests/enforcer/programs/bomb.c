/* A chain of argv[1] processes, each of which makes a denied call and prints its errno, and dies after its child. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argc;
    for (int rest = atoi(argv[1]); rest > 0; rest--) {
        if (syscall(SYS_getppid) < 0) {
            printf("%d", errno);
            fflush(stdout);
        }
        pid_t child = fork();
        if (child) {
            int status;
            waitpid(child, &status, 0);
            _exit(WEXITSTATUS(status));
        }
    }
    return 0;
}
