/* `execs HOW PROGRAM [ARGUMENT ...]`: executes PROGRAM with those arguments, and ends as it does. */
#include "check.h"

static char **next;

static void *execute(void *unused) {
    (void)unused;
    execv(next[0], next);
    _exit(99);
}

int main(int argc, char **argv) {
    arguments = argv;
    (void)run_named;
    if (argc < 3) {
        return 98;
    }
    next = argv + 2;
    if (!strcmp(argv[1], "thread")) {
        pthread_t id;
        CHECK(pthread_create(&id, NULL, execute, NULL) == 0);
        pthread_join(id, NULL);
    }
    pid_t pid = !strcmp(argv[1], "fork") ? fork() : !strcmp(argv[1], "vfork") ? vfork() : 0;
    if (pid == 0) {
        execute(NULL);
    }
    int status;
    CHECK(wait_for(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}
