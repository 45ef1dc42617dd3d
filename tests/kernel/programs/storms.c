/* Many tasks: `storms NAME COUNT`. */
#include "check.h"
#include <sys/resource.h>

static int how_many(void) { return arguments[2] ? atoi(arguments[2]) : 100; }

static void *call(void *unused) {
    getppid();
    return unused;
}

static void short_threads(void) {
    pthread_t threads[8];
    for (int i = 0; i < how_many(); i += 8) {
        for (int j = 0; j < 8; j++) {
            CHECK(pthread_create(&threads[j], NULL, call, NULL) == 0);
        }
        for (int j = 0; j < 8; j++) {
            CHECK(pthread_join(threads[j], NULL) == 0);
        }
    }
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *pass(void *passed) {
    pthread_mutex_lock(&gate);
    ++*(int *)passed;
    pthread_mutex_unlock(&gate);
    return NULL;
}

static void live_threads(void) {
    int count = how_many(), passed = 0;
    pthread_t *threads = calloc(count, sizeof *threads);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 32768);
    pthread_mutex_lock(&gate);
    for (int i = 0; i < count; i++) {
        CHECK(pthread_create(&threads[i], &small, pass, &passed) == 0);
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < count; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(passed == count);
}

static void short_processes(void) {
    for (int i = 0; i < how_many(); i += 10) {
        pid_t pids[10];
        for (int j = 0; j < 10; j++) {
            pids[j] = j % 5 ? fork() : vfork();
            if (pids[j] == 0) {
                _exit(j);
            }
            CHECK(pids[j] > 0);
        }
        for (int j = 0; j < 10; j++) {
            expect_end(pids[j], j);
        }
    }
}

static void exec_chains(void) {
    for (int i = 0; i < how_many(); i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            execl("/bin/true", "true", NULL);
            _exit(1);
        }
        expect_end(pid, 0);
    }
}

/* run with a limit of processes: forks until none can be had, from every process, for a second */
static void bomb(void) {
    struct rlimit few = {how_many(), how_many()};
    CHECK(setrlimit(RLIMIT_NPROC, &few) == 0);
    CHECK(getuid() != 0);
    time_t end = time(NULL) + 2;
    pid_t pid;
    do {
        pid = fork();
        if (pid == -1) {
            CHECK(errno == EAGAIN);
            pause_ms(2);
        }
    } while (time(NULL) < end);
    while (wait(NULL) > 0) {
    }
}

/* a child on every level ends its parent's other children */
static void killed_trees(void) {
    for (int i = 0; i < how_many(); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            setpgid(0, 0);
            for (int j = 0; j < 3; j++) {
                fork();
            }
            for (int j = 0; j < i % 200; j++) {
                getppid();
            }
            kill(0, SIGKILL);
        }
        expect_end(pid, -SIGKILL);
    }
}

MAIN({"short_threads", short_threads}, {"live_threads", live_threads}, {"short_processes", short_processes},
     {"exec_chains", exec_chains}, {"bomb", bomb}, {"killed_trees", killed_trees})
