/* Tasks come, change program, stop and go as without a tracer. */
#include "check.h"
#include <poll.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* -- births */

static char stack[2][65536] __attribute__((aligned(16)));

static int child_function(void *argument) {
    getppid();
    _exit((int)(intptr_t)argument);
}

static void kinds_of_birth(void) {
    pid_t pid = fork();
    if (pid == 0) {
        _exit(3);
    }
    expect_end(pid, 3);
    static const int flags[] = {SIGCHLD, CLONE_VFORK | SIGCHLD, CLONE_VFORK | CLONE_VM | SIGCHLD, CLONE_VM | SIGCHLD,
                                CLONE_FILES | CLONE_FS | SIGCHLD, SIGUSR2, 0, CLONE_UNTRACED | SIGCHLD};
    signal(SIGUSR2, SIG_IGN);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        pid = clone(child_function, stack[0] + sizeof stack[0], flags[i], (void *)(intptr_t)(10 + i));
        CHECK(pid > 0);
        expect_end(pid, 10 + i);
    }
}

/* As libc does it: clone where clone3 fails with ENOSYS.  No tracer may be left behind a filter that asks for one. */
static void untraced(void) {
    uint64_t args[8] = {CLONE_UNTRACED, 0, 0, 0, SIGCHLD}; /* struct clone_args: flags, ..., exit_signal */
    long pid = syscall(SYS_clone3, args, sizeof args);
    if (pid == -1 && errno == ENOSYS) {
        pid = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
    }
    if (pid == 0) {
        _exit(getppid() > 0 ? 5 : 6);
    }
    CHECK(pid > 0 && args[0] == CLONE_UNTRACED);
    expect_end(pid, 5);
    args[0] = 0;
    pid = syscall(SYS_clone3, args, sizeof args);
    if (pid == 0) {
        _exit(4);
    }
    printf("%s\n", pid == -1 && errno == ENOSYS ? "no clone3" : "clone3");
    CHECK(syscall(SYS_clone3, 1, sizeof args) == -1 && errno == (pid == -1 ? ENOSYS : EFAULT));
    if (pid > 0) {
        expect_end(pid, 4);
    }
}

static void clone_parent(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        pid_t sibling = clone(child_function, stack[0] + sizeof stack[0], CLONE_PARENT | SIGCHLD, (void *)5);
        CHECK(write(ends[1], &sibling, sizeof sibling) == sizeof sibling);
        _exit(0);
    }
    pid_t sibling;
    CHECK(read(ends[0], &sibling, sizeof sibling) == sizeof sibling);
    expect_end(pid, 0);
    expect_end(sibling, 5);
}

#ifdef __aarch64__
static void registers_kept(void) {
    /* all but x0 are as before: also where the tracer has changed an argument, which is in x0 */
    for (int unknown = 0; unknown < 2; unknown++) {
        register unsigned long x0 __asm__("x0") = unknown ? 0x1111 : CLONE_UNTRACED | SIGCHLD, x1 __asm__("x1") = 0;
        register unsigned long x2 __asm__("x2") = 0x2222, x3 __asm__("x3") = 0x3333, x4 __asm__("x4") = 0x4444;
        register unsigned long x5 __asm__("x5") = 0x5555, x6 __asm__("x6") = 0x6666, x7 __asm__("x7") = 0x7777;
        register unsigned long x8 __asm__("x8") = unknown ? -1L : SYS_clone, x16 __asm__("x16") = 0x1616;
        register unsigned long x17 __asm__("x17") = 0x1717, x18 __asm__("x18") = 0x1818;
        __asm__ volatile("svc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5), "+r"(x6), "+r"(x7), "+r"(x8),
                         "+r"(x16), "+r"(x17), "+r"(x18) : : "memory");
        unsigned long found[] = {x1, x2, x3, x4, x5, x6, x7, x8, x16, x17, x18}, result = x0;
        unsigned long expected[] = {0, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, unknown ? -1UL : SYS_clone,
                                    0x1616, 0x1717, 0x1818};
        int is_kept = memcmp(found, expected, sizeof found) == 0;
        if (!unknown && result == 0)
            _exit(!is_kept);
        CHECK(is_kept);
        if (unknown)
            CHECK(result == (unsigned long)-ENOSYS);
        else
            expect_end((pid_t)result, 0);
    }
}
#else
static void registers_kept(void) {
    /* all but rax, rcx and r11 are as before: also where the tracer has changed an argument */
    unsigned long flags = CLONE_UNTRACED | SIGCHLD, rdi, rsi, rdx, r10, r8, result;
    register unsigned long in10 __asm__("r10") = 0x3333;
    register unsigned long in8 __asm__("r8") = 0x4444;
    __asm__ volatile("syscall" : "=a"(result), "=D"(rdi), "=S"(rsi), "=d"(rdx), "+r"(in10), "+r"(in8)
                     : "0"(SYS_clone), "1"(flags), "2"(0), "3"(0x2222) : "rcx", "r11", "memory");
    r10 = in10, r8 = in8;
    if (result == 0) {
        _exit(rdi == flags && rdx == 0x2222 ? 0 : 1);
    }
    CHECK(rdi == flags && rsi == 0 && rdx == 0x2222 && r10 == 0x3333 && r8 == 0x4444);
    expect_end((pid_t)result, 0);
    in10 = 0x3333, in8 = 0x4444;
    __asm__ volatile("syscall" : "=a"(result), "=D"(rdi), "=S"(rsi), "=d"(rdx), "+r"(in10), "+r"(in8)
                     : "0"(-1L), "1"(0x1111), "2"(0x5555), "3"(0x2222) : "rcx", "r11", "memory");
    CHECK(result == (unsigned long)-ENOSYS && rdi == 0x1111 && rsi == 0x5555 && rdx == 0x2222);
}
#endif

static void vfork_waits(void) {
    static volatile int step;
    for (volatile int i = 0; i < 20; i++) {
        step = 0;
        pid_t pid = vfork();
        if (pid == 0) {
            for (int call = 0; call < 20; call++) {
                getppid();
            }
            step = 1;
            if (i % 2) {
                _exit(4);
            }
            execl("/bin/sh", "sh", "-c", "exit 4", NULL);
            _exit(1);
        }
        CHECK(step == 1);
        expect_end(pid, 4);
    }
}

static void daemonised(void) {
    /* double fork and setsid; the grandchild is alone in its session and lives on after us */
    int ends[2], starter[2];
    CHECK(pipe(ends) == 0 && pipe(starter) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(close(starter[1]) == 0 && setsid() == getpid());
        if (fork()) {
            _exit(0);
        }
        while (getppid() == getsid(0)) {
            pause_ms(1);
        }
        CHECK(getsid(0) != getpid() && open("/dev/tty", O_RDWR) == -1);
        char end;
        CHECK(write(ends[1], "x", 1) == 1 && read(starter[0], &end, 1) == 0);
        puts("daemon is done");
        fflush(stdout);
        _exit(0);
    }
    expect_end(pid, 0);
    char byte;
    CHECK(read(ends[0], &byte, 1) == 1);
    puts("starter is done");
}

static void subreaper(void) {
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    for (int i = 0; i < 30; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (fork() == 0) {
                getppid();
                _exit(6);
            }
            kill(getpid(), SIGKILL);
        }
        expect_end(pid, -SIGKILL);
        int status;
        CHECK(wait_for(-1, &status, 0) > 0 && WEXITSTATUS(status) == 6);
    }
}

static void killed_parents(void) {
    /* a parent is killed while it forks: no child may hang or be lost */
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    for (int i = 0; i < 60; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            while (1) {
                if (fork() == 0) {
                    _exit(0);
                }
            }
        }
        struct timespec while_it_forks = {0, 300000 + i * 50000};
        nanosleep(&while_it_forks, NULL);
        kill(pid, SIGKILL);
        while (wait_for(-1, NULL, 0) > 0) {
        }
        CHECK(errno == ECHILD);
    }
}

static void namespaces(void) {
    if (unshare(CLONE_NEWPID) && unshare(CLONE_NEWUSER | CLONE_NEWPID)) {
        puts("no pid namespaces here");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(getpid() == 1);
        pid_t inner = fork();
        if (inner == 0) {
            CHECK(getpid() == 2 && getppid() == 1);
            execl("/bin/sh", "sh", "-c", "kill -9 1; (exit 3) | (exit 4); exit $?", NULL);
        }
        CHECK(inner == 2);
        expect_end(2, 4);
        CHECK(fork() > 0 || pause());
        _exit(8); /* takes the sleeper along */
    }
    expect_end(pid, 8);
}

static void init_faults(void) {
    if (unshare(CLONE_NEWPID)) {
        puts("needs root");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(getpid() == 1);
        *(volatile int *)8 = 1;
        _exit(1);
    }
    expect_end(pid, -SIGSEGV);
}

static void user_namespace(void) {
    if (unshare(CLONE_NEWUSER)) {
        puts("no user namespaces here");
        return;
    }
    printf("%d\n", getuid());
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exit 9", NULL);
    }
    expect_end(pid, 9);
}

static void reused_pids(void) {
    /* a pid namespace in which each child has the pid of the last one (ns_last_pid; CONFIG_CHECKPOINT_RESTORE) */
    if (unshare(CLONE_NEWPID | CLONE_NEWNS)) {
        puts("needs root");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        CHECK(mount("proc", "/proc", "proc", 0, NULL) == 0);
        int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
        CHECK(file != -1);
        for (int i = 0; i < 700; i++) {
            CHECK(pwrite(file, "9", 1, 0) == 1);
            pid_t child = fork();
            if (child == 0) {
                CHECK(getppid() == 1);
                _exit(i % 100);
            }
            CHECK(child == 10);
            expect_end(child, i % 100);
        }
        _exit(7);
    }
    expect_end(pid, 7);
}

static void inherited_and_waited(void) {
    struct rusage usage;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        _exit(2);
    }
    siginfo_t info;
    CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0 && info.si_status == 2 && info.si_pid == pid);
    CHECK(wait4(pid, &status, 0, &usage) == pid && WEXITSTATUS(status) == 2);
    CHECK(waitpid(pid, &status, 0) == -1 && errno == ECHILD);
    signal(SIGCHLD, SIG_IGN);
    if ((pid = fork()) == 0) {
        _exit(2);
    }
    CHECK(wait_for(pid, &status, 0) == -1 && errno == ECHILD);
}

/* -- execve */

static int in_second_life(const char *test) { return arguments[2] && strcmp(arguments[1], test) == 0; }

static int threads_now(void) {
    struct stat status;
    CHECK(stat("/proc/self/task", &status) == 0);
    return (int)status.st_nlink - 2;
}

static void *exec_again(void *test) {
    static char pid[16];
    snprintf(pid, sizeof pid, "%d", getpid());
    pause_ms(5);
    execl(arguments[0], arguments[0], (char *)test, pid, NULL);
    CHECK(!"exec");
    return NULL;
}

__attribute__((noreturn)) static void *busy(void *unused) {
    (void)unused;
    while (1) {
        getppid();
    }
}

__attribute__((noreturn)) static void *asleep(void *unused) {
    (void)unused;
    while (1) {
        pause();
    }
}

static void *to_null(void *unused) { return unused; }

static void second_life(const char *test) {
    if (in_second_life(test)) {
        CHECK(atoi(arguments[2]) == getpid() && getpid() == (pid_t)syscall(SYS_gettid) && threads_now() == 1);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, to_null, NULL) == 0 && pthread_join(thread, NULL) == 0);
        exit(0);
    }
}

static void exec_from_thread(void) {
    second_life("exec_from_thread");
    pthread_t thread;
    for (int i = 0; i < 3; i++) {
        pthread_create(&thread, NULL, i ? busy : asleep, NULL);
    }
    pthread_create(&thread, NULL, exec_again, "exec_from_thread");
    busy(NULL);
}

static void exec_behind_leader(void) {
    second_life("exec_behind_leader");
    pthread_t thread;
    pthread_create(&thread, NULL, exec_again, "exec_behind_leader");
    pthread_exit(NULL);
}

static void exec_race(void) {
    second_life("exec_race");
    pthread_t thread;
    for (int i = 0; i < 8; i++) {
        pthread_create(&thread, NULL, exec_again, "exec_race");
    }
    asleep(NULL);
}

static void many_exec_races(void) {
    for (int i = 0; i < 15; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            execl(arguments[0], arguments[0], i % 3 ? "exec_race" : "exec_from_thread", NULL);
        }
        expect_end(pid, 0);
    }
}

static void exec_chain(void) {
    int depth = arguments[2] ? atoi(arguments[2]) : 40;
    if (depth) {
        char text[16];
        snprintf(text, sizeof text, "%d", depth - 1);
        CHECK(execl("/nonexistent/x", "x", NULL) == -1 && errno == ENOENT);
        CHECK(execl("/", "x", NULL) == -1 && errno == EACCES);
        execl("/proc/self/exe", "tasks", "exec_chain", text, NULL);
    }
}

/* -- ends */

static void *exit_seven(void *unused) {
    (void)unused;
    pause_ms(30);
    exit(7);
}

static void leader_first(void) {
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, exit_seven, NULL);
        pthread_exit(NULL);
    }
    expect_end(pid, 7);
    pthread_t thread; /* and of the initial process */
    pthread_create(&thread, NULL, exit_seven, NULL);
    pthread_exit(NULL);
}

static void ended_in_stops(void) {
    /* exit_group and SIGKILL while threads are in the middle of calls, that is, of stops */
    for (int i = 0; i < 40; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pthread_t thread;
            for (int j = 0; j < 4; j++) {
                pthread_create(&thread, NULL, j ? busy : to_null, NULL);
            }
            if (i % 2) {
                struct timespec some = {0, i * 20000};
                nanosleep(&some, NULL);
                _exit(5);
            }
            asleep(NULL);
        }
        struct timespec some = {0, 1000000 + i * 50000};
        nanosleep(&some, NULL);
        if (i % 2 == 0) {
            kill(pid, SIGKILL);
        }
        expect_end(pid, i % 2 ? 5 : -SIGKILL);
    }
}

static void killed_while_stopped(void) {
    int status;
    for (int i = 0; i < 10; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            raise(SIGSTOP);
            _exit(1);
        }
        CHECK(wait_for(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        kill(pid, SIGKILL);
        expect_end(pid, -SIGKILL);
    }
    pid_t pid = vfork();
    if (pid == 0) {
        kill(getpid(), SIGKILL);
    }
    expect_end(pid, -SIGKILL);
}

/* -- group-stops */

static volatile long *progress;

__attribute__((noreturn)) static void *count_up(void *unused) {
    (void)unused;
    while (1) {
        __atomic_add_fetch(progress, 1, __ATOMIC_RELAXED);
        getppid();
    }
}

static void stop_of(int threads) {
    int status;
    progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        for (int i = 1; i < threads; i++) {
            pthread_create(&thread, NULL, i % 8 == 1 ? count_up : asleep, NULL);
        }
        count_up(NULL);
    }
    while (*progress < 200) {
        pause_ms(1);
    }
    for (int i = 0; i < 3; i++) {
        kill(pid, SIGSTOP);
        CHECK(wait_for(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        long before = *progress;
        pause_ms(40);
        CHECK(*progress == before);
        kill(pid, SIGCONT);
        CHECK(wait_for(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
        while (*progress == before) {
            pause_ms(1);
        }
    }
    kill(pid, SIGKILL);
    expect_end(pid, -SIGKILL);
}

static void *count_once(void *unused) {
    __atomic_add_fetch(progress, 1, __ATOMIC_RELAXED);
    return unused;
}

static void stopped_at_birth(void) {
    /* a process is stopped while it starts threads */
    int status;
    progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    while (pid == 0) {
        pthread_t threads[8];
        for (int i = 0; i < 8; i++) {
            pthread_create(&threads[i], NULL, count_once, NULL);
        }
        for (int i = 0; i < 8; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    for (int i = 0; i < 100; i++) {
        pause_ms(1 + i % 3);
        kill(pid, SIGSTOP);
        CHECK(wait_for(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        long before = *progress;
        pause_ms(10);
        CHECK(*progress == before);
        kill(pid, SIGCONT);
        CHECK(wait_for(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    }
    kill(pid, SIGKILL);
    expect_end(pid, -SIGKILL);
}

static void group_stop(void) { stop_of(9); }
static void group_stop_of_100(void) { stop_of(100); }

static void signal_while_stopped(void) {
    /* a handler runs when the process is continued, not before; SIGCONT has its own */
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGUSR1, exit);
        raise(SIGSTOP);
        pause();
    }
    CHECK(wait_for(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    kill(pid, SIGUSR1);
    pause_ms(30);
    CHECK(waitpid(pid, &status, WNOHANG | WUNTRACED) == 0);
    kill(pid, SIGCONT);
    expect_end(pid, SIGUSR1);
}

static void restarted_calls(void) {
    /* calls that a stop has interrupted go on as if nothing had been */
    int ends[2], status;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct timespec start, end, left = {0, 150000000};
        clock_gettime(CLOCK_MONOTONIC, &start);
        CHECK(nanosleep(&left, NULL) == 0);
        CHECK(poll(NULL, 0, 150) == 0);
        clock_gettime(CLOCK_MONOTONIC, &end);
        CHECK((end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000 >= 299);
        char byte;
        CHECK(read(ends[0], &byte, 1) == 1);
        _exit(0);
    }
    for (int i = 0; i < 8; i++) {
        pause_ms(45);
        kill(pid, SIGSTOP);
        CHECK(wait_for(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        kill(pid, SIGCONT);
    }
    CHECK(write(ends[1], "x", 1) == 1);
    expect_end(pid, 0);
}

MAIN({"kinds_of_birth", kinds_of_birth}, {"clone_parent", clone_parent}, {"untraced", untraced}, {"registers_kept", registers_kept},
     {"vfork_waits", vfork_waits}, {"daemonised", daemonised}, {"subreaper", subreaper},
     {"killed_parents", killed_parents}, {"namespaces", namespaces}, {"init_faults", init_faults}, {"user_namespace", user_namespace},
     {"reused_pids", reused_pids}, {"inherited_and_waited", inherited_and_waited},
     {"exec_from_thread", exec_from_thread}, {"exec_behind_leader", exec_behind_leader}, {"exec_race", exec_race},
     {"many_exec_races", many_exec_races}, {"exec_chain", exec_chain}, {"leader_first", leader_first},
     {"ended_in_stops", ended_in_stops}, {"killed_while_stopped", killed_while_stopped}, {"group_stop", group_stop},
     {"group_stop_of_100", group_stop_of_100}, {"stopped_at_birth", stopped_at_birth}, {"signal_while_stopped", signal_while_stopped},
     {"restarted_calls", restarted_calls})
