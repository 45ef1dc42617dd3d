/* Preloaded: before the entry point of the program, starts a thread, forks, vforks or executes, as $EARLY says. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *idle(void *_)
{
    (void)_;
    pause();
    return 0;
}

__attribute__((constructor)) static void early(void)
{
    const char *what = getenv("EARLY");
    pthread_t thread;
    if (!what)
        return;
    if (*what == 't')
        pthread_create(&thread, 0, idle, 0);
    else if (*what == 'f') {
        if (fork() == 0)
            _exit(0);
    } else if (*what == 'v') {
        if (vfork() == 0)
            _exit(0);
    } else if (*what == 'x') {
        unsetenv("EARLY");
        execl("/bin/echo", "echo", "executed", (char *)0);
    }
}
