/* One program holds many checks, each run by its name: exits with 0, or says what was not as it is without a tracer. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
            _exit(99);                                                                           \
        }                                                                                        \
    } while (0)

struct check {
    const char *name;
    void (*run)(void);
};

static char **arguments;

__attribute__((unused)) static void pause_ms(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) && errno == EINTR) {
    }
}

__attribute__((unused)) static pid_t wait_for(pid_t pid, int *status, int options) {
    pid_t got;
    do {
        got = waitpid(pid, status, options);
    } while (got == -1 && errno == EINTR);
    return got;
}

/* The child ends as `expected` says: >= 0 an exit status, < 0 a signal. */
__attribute__((unused)) static void expect_end(pid_t pid, int expected) {
    int status;
    CHECK(wait_for(pid, &status, __WALL) == pid);
    if (expected >= 0) {
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == expected);
    } else {
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == -expected);
    }
}

static int run_named(int argc, char **argv, const struct check *checks, size_t count) {
    arguments = argv;
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], checks[i].name) == 0) {
            alarm(60);
            checks[i].run();
            return 0;
        }
    }
    for (size_t i = 0; i < count; i++) {
        puts(checks[i].name);
    }
    return argc > 1 ? 98 : 0;
}

#define MAIN(...)                                                            \
    static const struct check all_checks[] = {__VA_ARGS__};                  \
    int main(int argc, char **argv) {                                        \
        return run_named(argc, argv, all_checks, sizeof all_checks / sizeof *all_checks); \
    }
