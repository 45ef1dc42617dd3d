/* The processors that a task may use are its own, however many calls it makes. */
#include "check.h"

static cpu_set_t all;

static void work(int calls) {
    for (int i = 0; i < calls; i++) {
        getppid();
    }
}

static void same(void) {
    cpu_set_t now;
    CHECK(sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &all));
}

static void from_status(void) {
    char line[4096], wanted[64];
    unsigned long mask = 0;
    for (int i = 0; i < 64; i++) {
        mask |= (unsigned long)(CPU_ISSET(i, &all) != 0) << i;
    }
    snprintf(wanted, sizeof wanted, "Cpus_allowed:\t%lx\n", mask);
    FILE *file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file)) {
        char *colon = strstr(line, "Cpus_allowed:");
        if (colon == line) {
            char *last = strrchr(line, ',') ? strrchr(line, ',') + 1 : line + 14;
            CHECK(strtoul(last, NULL, 16) == (mask & 0xffffffff));
            return;
        }
    }
    CHECK(!"found");
}

static void after_many_calls(void) {
    for (int i = 0; i < 5; i++) {
        work(3000);
        same();
    }
}

static void in_status(void) {
    work(3000);
    from_status();
    work(3000);
    from_status();
    same();
}

static void *thread_works(void *unused) {
    work(1000);
    same();
    return unused;
}

static void of_threads(void) {
    pthread_t threads[4];
    work(2000);
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, thread_works, NULL) == 0);
    }
    work(2000);
    same();
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    cpu_set_t now;
    work(2000);
    CHECK(pthread_getaffinity_np(pthread_self(), sizeof now, &now) == 0 && CPU_EQUAL(&now, &all));
}

static void of_children(void) {
    for (int i = 0; i < 60; i++) {
        work(300);
        pid_t pid = fork();
        if (pid == 0) {
            pause_ms(i % 3 * 15);
            same();
            execl(arguments[0], arguments[0], "unchanged", NULL);
        }
        if (i % 2) {
            pause_ms(25);
        }
        expect_end(pid, 0);
    }
}

static void *exec_works(void *unused) {
    work(3000);
    execl(arguments[0], arguments[0], "unchanged", NULL);
    return unused;
}

static void over_exec(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, exec_works, NULL) == 0);
    pause();
}

static void chosen(void) {
    cpu_set_t one, now;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) {
            continue;
        }
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        work(1000);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        work(3000);
        CHECK(sched_getcpu() == cpu);
        CHECK(sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &one));
        pid_t pid = fork();
        if (pid == 0) {
            work(500);
            CHECK(sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &one));
            _exit(0);
        }
        expect_end(pid, 0);
    }
}

static void of_another(void) {
    cpu_set_t one, now;
    pid_t pid = fork();
    if (pid == 0) {
        while (1) {
            work(1000);
        }
    }
    pause_ms(60);
    CHECK(sched_getaffinity(pid, sizeof now, &now) == 0 && CPU_EQUAL(&now, &all));
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(sched_setaffinity(pid, sizeof one, &one) == 0);
    pause_ms(60);
    CHECK(sched_getaffinity(pid, sizeof now, &now) == 0 && CPU_EQUAL(&now, &one));
    kill(pid, SIGKILL);
    expect_end(pid, -SIGKILL);
}

static void asked_often(void) {
    work(3000);
    for (int i = 0; i < 500; i++) {
        same();
    }
}

/* The kernel takes a deadline only for a task that may use all processors (sched(7)). */
static void with_a_deadline(void) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {sizeof attributes, 6 /* SCHED_DEADLINE */, 0, 0, 0, 10000000, 30000000, 30000000};
    work(3000);
    long result = syscall(SYS_sched_setattr, 0, &attributes, 0);
    printf("%ld %d\n", result, result ? errno : 0); /* as without, whether permitted or not */
    work(3000);
    same();
}

static void unchanged(void) { same(); }

__attribute__((constructor)) static void remember(void) {
    /* by size, not by asking, which would be noticed: the test starts with all that are online */
    CPU_ZERO(&all);
    for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++) {
        CPU_SET(cpu, &all);
    }
}

MAIN({"after_many_calls", after_many_calls}, {"in_status", in_status}, {"of_threads", of_threads},
     {"of_children", of_children}, {"over_exec", over_exec}, {"chosen", chosen}, {"of_another", of_another},
     {"unchanged", unchanged}, {"asked_often", asked_often}, {"with_a_deadline", with_a_deadline})
