/* What a program was started with: printed, to be compared. */
#include "check.h"
#include <sys/resource.h>
#include <sys/stat.h>

extern char **environ;

static void arguments_and_environment(void) {
    for (char **text = arguments + 2; *text; text++) {
        printf("%zu %.60s\n", strlen(*text), *text);
    }
    for (char **text = environ; *text; text++) {
        printf("%.60s\n", *text);
    }
}

static void descriptors(void) {
    for (int file = 0; file < 256; file++) {
        int flags = fcntl(file, F_GETFD);
        if (flags != -1) {
            dprintf(9, "%d %d\n", file, flags); /* 9: where the test looks */
        }
    }
}

static void belongings(void) {
    struct rlimit limit;
    alarm(0);
    for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
        getrlimit(resource, &limit);
        printf("%d %lx %lx\n", resource, limit.rlim_cur, limit.rlim_max);
    }
    mode_t mask = umask(0);
    printf("%o %d %d %d\n", mask, getpriority(PRIO_PROCESS, 0), sched_getscheduler(0), getuid());
    printf("group %d session %d\n", getpgrp() == getsid(0), getsid(0));
    printf("%d %d\n", prctl(PR_GET_TIMERSLACK), prctl(PR_GET_DUMPABLE));
}

static volatile int got;
static void count(int signum) { (void)signum; got++; }

/* says `ready`, counts SIGTERM for 300 ms */
static void counts_terms(void) {
    signal(SIGTERM, count);
    puts("ready");
    fflush(stdout);
    while (got == 0) {
        pause_ms(5);
    }
    pause_ms(250);
    printf("%d\n", got);
}

static void sends_to_group(void) {
    signal(SIGUSR1, count);
    for (int i = 0; i < 3; i++) {
        kill(0, SIGUSR1);
    }
    pause_ms(100);
    printf("%d\n", got);
}

static void raises(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    int signum = atoi(arguments[2]);
    signal(signum, SIG_DFL);
    raise(signum);
}

static void dumps_core(void) {
    struct rlimit much = {1 << 24, 1 << 24};
    setrlimit(RLIMIT_CORE, &much);
    abort();
}

static void waits_for_alarm(void) {
    signal(SIGALRM, count);
    while (!got) {
        pause_ms(5);
    }
    puts("rang");
}

static void with_alarm(void) {
    alarm(6); /* after learn has started it */
    execvp(arguments[2], arguments + 2);
}

/* exec with an environment that no shell makes, and with signals blocked and ignored */
static void oddly(void) {
    static char *odd[] = {"A=1", "A=2", "no equals sign", "=empty", "B=\xff\xfe", "PATH=/usr/bin:/bin", NULL};
    sigset_t some;
    sigemptyset(&some);
    sigaddset(&some, SIGUSR1);
    sigaddset(&some, SIGTERM);
    sigaddset(&some, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &some, NULL);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    alarm(0);
    execve(arguments[2], arguments + 2, odd);
}

MAIN({"arguments", arguments_and_environment}, {"descriptors", descriptors}, {"belongings", belongings},
     {"counts_terms", counts_terms}, {"sends_to_group", sends_to_group}, {"raises", raises},
     {"dumps_core", dumps_core}, {"waits_for_alarm", waits_for_alarm}, {"with_alarm", with_alarm}, {"oddly", oddly})
