/* Calls getppid from threads, in a child of vfork, or from the process itself; prints 1 for each call that fails, 0 for others. */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(void)
{
    write(1, syscall(SYS_getppid) < 0 ? "1" : "0", 1);
}

static void *work(void *_)
{
    tell();
    return _;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "plain";
    if (strcmp(kind, "threads") == 0) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            pthread_create(&threads[i], 0, work, 0);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], 0);
    } else if (strcmp(kind, "vfork") == 0) {
        int status;
        if (vfork() == 0) {
            tell();
            _exit(0);
        }
        wait(&status);
        if (WIFSIGNALED(status))
            tell();
    } else
        tell();
    return 0;
}
