/* The program of tools/storm/storm_phases.py: storm MARK PHASES REACHED SEED [ROLE...].
 *
 * It goes through PHASES phases, of which REACHED are behind it, and plays each ROLE before or after one of them, as SEED has it.
 * Call number k of `calls` is allowed until phase k + 1, getpgrp and mkdir are never, and getpgid kills.  Each task tries them
 * again and again, knows what it must have entered (low) and may have entered by now (high), and prints what is not as it must be:
 *
 *     W PID ...     wrong                       N PID ...     a denied call was answered by nobody (ENOSYS)
 *     v PID         will be killed by another   k PID         will be killed by the policy
 *     x PID STATUS  ended                       E             the first process has come to its end
 *     b PID         has begun, and takes signals
 *     s PID ERRNO WHAT  could not be done, for want of something
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct self {
    volatile int low, high;
};
static struct self self;
static const long calls[] = {SYS_getppid, SYS_getuid, SYS_getgid};
static int phases, ready[2], epoll, is_full;
static unsigned seed;
static char **arguments, stacks[2][1 << 16];
static volatile int has_entered;

static void say(const char *format, ...) {
    char text[160];
    va_list rest;
    va_start(rest, format);
    int size = vsnprintf(text, sizeof text, format, rest);
    va_end(rest);
    while (write(1, text, size) < 0 && errno == EINTR);
}

static int pid(void) { return syscall(SYS_getpid); }

static unsigned draw(unsigned below) {
    seed = seed * 1103515245 + 12345;
    return (seed >> 16) % below;
}

static void moment(void) { nanosleep(&(struct timespec){0, 100000}, 0); }

static void ended(const char *what) { say("s %d %d %s\n", pid(), errno, what); }

static void denied(const char *what, long result, int low, int high) {
    if (result >= 0)
        say("W %d ran %s in phase %d to %d\n", pid(), what, low, high);
    else if (errno != EACCES)
        say("%c %d errno %d of %s in phase %d to %d\n", errno == ENOSYS ? 'N' : 'W', pid(), errno, what, low, high);
}

static long tried(long number) {
    long result;
    while ((result = syscall(number)) < 0 && errno == EINTR);  /* a handler ran before the helper got the call */
    return result;
}

/* All calls in their phases. */
static void check(struct self *self) {
    char folder[32];
    for (int k = 0; k < phases; k++) {
        int low = self->low;
        long result = tried(calls[k]);
        int high = self->high;
        if (k < low)
            denied(k == 0 ? "getppid" : k == 1 ? "getuid" : "getgid", result, low, high);
        else if (k >= high && result < 0)
            say("W %d call %d denied with errno %d in phase %d to %d\n", pid(), k, errno, low, high);
    }
    denied("getpgrp", tried(SYS_getpgrp), self->low, self->high);
    snprintf(folder, sizeof folder, "ran-%d", pid());
    int result;
    while ((result = mkdir(folder, 0700)) < 0 && errno == EINTR);
    denied("mkdir", result, self->low, self->high);
}

static void traced(void) {
    char text[2048];
    int file = open("/proc/thread-self/status", O_RDONLY);
    if (file < 0)
        return;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    text[size > 0 ? size : 0] = 0;
    char *line = strstr(text, "TracerPid:\t");
    if (line && line[11] != '0')
        say("W %d is traced in its last phase\n", pid());
}

static void raise_to(volatile int *place, int value) {
    for (int had = *place; had < value && !__atomic_compare_exchange_n(place, &had, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST););
}

/* Make the trigger of a phase. */
static void enter(struct self *self, int phase) {
    int result;
    raise_to(&self->high, phase);
    if (phase == 1) {
        struct pollfd one = {ready[0], POLLIN, 0};
        result = poll(&one, 1, 1000);  /* there is a byte already */
        if (result == 1 && one.revents != POLLIN)
            result = -2;
    } else if (phase == 2) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(ready[0], &set);
        result = syscall(SYS_select, ready[0] + 1, &set, 0, 0, &(struct timeval){1, 0});
    } else {
        struct epoll_event event;
        result = epoll_wait(epoll, &event, 1, 1000);
    }
    if (result != 1 && !(result == -1 && errno == EINTR))
        say("W %d the trigger of phase %d: %d errno %d\n", pid(), phase, result, errno);
    raise_to(&self->low, phase);
}

/* Go through all phases that are left, now and then past one. */
static void goes_on(struct self *self) {
    check(self);
    for (int phase = self->low + 1; phase <= phases; phase++) {
        if (phase < phases && draw(4) == 0)
            continue;
        enter(self, phase);
        check(self);
        moment();
    }
    if (self->low == phases)
        traced();
}

static void goes_on_and_ends(void) {
    goes_on(&self);
    _exit(0);
}

static void took(pid_t child, int status) { say("x %d %d\n", child, status); }

static int reaped(int options) {
    int status;
    pid_t child = waitpid(-1, &status, options | __WALL);
    if (child > 0)
        took(child, status);
    return child > 0 || (child < 0 && errno == EINTR);
}

static pid_t forked(void) {
    pid_t child = fork();
    if (child == 0)
        seed += pid() * 2654435761u;
    if (child < 0)
        ended("fork");
    return child;
}

static void waits(pid_t child) {
    int status;
    pid_t found = -1;
    while (child > 0 && (found = waitpid(child, &status, __WALL)) < 0 && errno == EINTR);
    if (found > 0)
        took(child, status);
}

/* Roles */

static void many(int count) {
    for (int number = 0; number < count; number++) {
        if (forked() == 0)
            goes_on_and_ends();
        if (number % 32 == 31 || number == count - 1)
            while (reaped(0));
    }
}

static volatile int *shared;

static int ends_all(void *unused) {
    (void)unused;
    int count = shared[1];
    while (!shared[0]);
    for (volatile int i = 0; i < count; i++);
    syscall(SYS_exit_group, 0);
    return 0;
}

/* Parents that end, or are killed, while they fork. */
static void dying(void) {
    for (int round = 0; round < 20; round++) {
        shared[0] = 0;
        shared[1] = draw(64) * 400;
        int is_killed = draw(2);
        pid_t child = forked();
        if (child == 0) {
            int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
            if (!is_killed && clone(ends_all, stacks[0] + sizeof stacks[0], flags, 0) < 0)
                ended("thread");
            shared[0] = 1;
            if ((draw(2) ? syscall(SYS_fork) : vfork()) == 0) {
                struct self mine = self;
                goes_on(&mine);
            }
            _exit(0);
        }
        if (child > 0 && is_killed) {
            say("v %d\n", child);
            siginfo_t end = {.si_pid = 0};
            while (!shared[0] && waitid(P_PID, child, &end, WEXITED | WNOHANG | WNOWAIT) == 0 && end.si_pid == 0);
            for (volatile int i = 0; i < shared[1]; i++);
            kill(child, SIGKILL);
        }
        if (child > 0)
            waits(child);
    }
}

static void brothers(void) {  /* CLONE_PARENT: of a child, so that they are children of this process */
    pid_t child = forked();
    if (child == 0) {
        for (int number = 0; number < 4; number++) {
            pid_t brother = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
            if (brother == 0)
                goes_on_and_ends();
            if (brother < 0)
                ended("CLONE_PARENT");
            if (number == 1)
                goes_on(&self);
        }
        _exit(0);
    }
    waits(child);
}

static int sharing(void *unused) {
    (void)unused;
    goes_on(&self);
    return 0;
}

static void table(void) {  /* CLONE_FILES */
    pid_t child = forked();
    if (child == 0) {
        pid_t other = clone(sharing, stacks[1] + sizeof stacks[1], CLONE_FILES | SIGCHLD, 0);
        if (other < 0)
            ended("CLONE_FILES");
        goes_on(&self);
        if (other > 0)
            waits(other);
        _exit(0);
    }
    waits(child);
}

static void borrower(void) {
    for (int number = 0; number < 8; number++) {
        volatile pid_t child = vfork();
        if (child == 0) {
            struct self mine = self;
            goes_on(&mine);
            _exit(0);
        }
        if (child < 0)
            ended("vfork");
        else
            waits(child);
    }
}

static void *thread(void *unused) {
    for (int number = 0; number < 3; number++) {
        check(&self);
        if (self.low < phases)
            enter(&self, self.low + 1);
    }
    check(&self);
    return unused;
}

static int threads(pthread_t *made, int count, void *(*work)(void *)) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 16);
    for (int number = 0; number < count; number++) {
        errno = pthread_create(made + number, &small, work, 0);
        if (errno) {
            ended("thread");
            return number;
        }
    }
    return count;
}

static void crowd(void) {
    pthread_t made[8];
    pid_t child = forked();
    if (child == 0) {
        int count = threads(made, 2 + draw(7), thread);
        goes_on(&self);
        while (count)
            pthread_join(made[--count], 0);
        goes_on_and_ends();
    }
    waits(child);
}

static void *executes(void *unused) {
    char reached[8], chance[16];
    snprintf(reached, sizeof reached, "%d", self.low);
    snprintf(chance, sizeof chance, "%u", draw(1 << 15));
    char *argv[] = {arguments[0], arguments[1], arguments[2], reached, chance, 0};
    signal(SIGUSR1, SIG_IGN);  /* until the new image has its handler */
    if (is_full)
        say("v %d\n", pid());
    execv(arguments[0], argv);
    ended("execve");
    return unused;
}

static void exec(int from_thread) {
    pthread_t made;
    pid_t child = forked();
    if (child == 0) {
        for (int phase = self.low + 1; phase <= phases && draw(2); phase++)
            enter(&self, phase);
        check(&self);
        if (!from_thread)
            executes(0);
        else if (threads(&made, 1, executes))
            pthread_join(made, 0);
        goes_on_and_ends();
    }
    waits(child);
}

/* No memory for the filter from here on, nor perhaps for an execve. */
static void full(void) {
    char text[64];
    int file = open("/proc/self/statm", O_RDONLY);
    ssize_t size = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (size <= 0)
        return;
    text[size] = 0;
    rlim_t bytes = strtoul(text, 0, 10) * 4096;
    struct rlimit limit = {bytes, bytes};
    close(file);
    setrlimit(RLIMIT_AS, &limit);
    is_full = 1;
}

/* Few descriptors, and now and then none that is free. */
static void few(void) {
    rlim_t count = 16 + draw(49);
    struct rlimit limit = {count, draw(2) ? count : 64};
    setrlimit(RLIMIT_NOFILE, &limit);
    if (draw(2))
        while (dup(0) >= 0);
}

static void play(const char *role) {
    pid_t child;
    if (!strncmp(role, "many", 4)) many(atoi(role + 4));
    else if (!strcmp(role, "dying")) dying();
    else if (!strcmp(role, "parent")) brothers();
    else if (!strcmp(role, "files")) table();
    else if (!strcmp(role, "vfork")) borrower();
    else if (!strcmp(role, "threads")) crowd();
    else if (!strcmp(role, "exec")) exec(draw(2));
    else if (draw(2)) {  /* the rest happens to a child or to this process */
        if (!strcmp(role, "memory")) full();
        else few();
    } else if ((child = forked()) == 0) {
        if (!strcmp(role, "memory")) full();
        else few();
        goes_on_and_ends();
    } else if (child > 0)
        waits(child);
}

static void *second(void *unused) {
    while (!has_entered) {
        check(&self);
        moment();
    }
    check(&self);
    if (self.low == phases)
        traced();
    return unused;
}

static void dies(void) {
    if (forked() == 0) {
        say("k %d\n", pid());
        syscall(SYS_getpgid, 0);
        say("%c %d errno %d of getpgid, which kills\n", errno == ENOSYS ? 'N' : 'W', pid(), errno);
        _exit(0);
    }
}

static void handler(int number) { (void)number; }

int main(int count, char **argv) {
    struct sigaction action = {.sa_handler = handler};
    struct epoll_event event = {.events = EPOLLIN};
    pthread_t made;
    arguments = argv;
    phases = atoi(argv[2]);
    self.low = self.high = atoi(argv[3]);
    seed = atoi(argv[4]);
    sigaction(SIGUSR1, &action, 0);
    say("b %d\n", pid());
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    epoll = epoll_create1(0);
    if (pipe(ready) || write(ready[1], "xx", 2) != 2 || epoll_ctl(epoll, EPOLL_CTL_ADD, ready[0], &event) || shared == MAP_FAILED) {
        ended("set-up");
        _exit(0);
    }
    if (count == 5)  /* executed by another */
        goes_on_and_ends();
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    int has_second = threads(&made, 1, second), roles = 5;
    if (forked() == 0)
        goes_on_and_ends();
    for (int phase = 0; phase <= phases; phase++) {
        if (phase && (phase == phases || draw(4)))
            enter(&self, phase);
        check(&self);
        if (draw(3) == 0)
            dies();
        while (roles < count && (phase == phases || draw(4)))
            play(argv[roles++]);
    }
    if (forked() == 0)
        goes_on_and_ends();
    has_entered = 1;
    if (has_second)
        pthread_join(made, 0);
    goes_on(&self);
    while (reaped(0));
    say("E\n");
    _exit(0);
}
