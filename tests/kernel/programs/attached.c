/* A process to attach to: prints `ready`, works with four threads until a byte comes on stdin, and checks itself. */
#include "check.h"

static volatile int done;
static volatile long calls;

static void *work(void *unused) {
    while (!done) {
        CHECK(syscall(SYS_getppid) > 0);
        calls++;
        struct timespec some = {0, 1000000};
        CHECK(nanosleep(&some, NULL) == 0);
    }
    return unused;
}

static void *sleep_on(void *unused) {
    struct timespec start, end, long_time = {atoi(arguments[2]), 0};
    clock_gettime(CLOCK_MONOTONIC, &start);
    CHECK(nanosleep(&long_time, NULL) == 0);
    clock_gettime(CLOCK_MONOTONIC, &end);
    CHECK(end.tv_sec - start.tv_sec >= long_time.tv_sec);
    return unused;
}

static void run(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, i ? work : sleep_on, NULL) == 0);
    }
    puts("ready");
    fflush(stdout);
    char byte;
    CHECK(read(0, &byte, 1) == 1); /* not EINTR, however often we are attached to */
    done = 1;
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(3);
    }
    expect_end(pid, 3);
    puts("fine");
}

MAIN({"run", run})
