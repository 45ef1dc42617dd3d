/* What a filter that is installed while the program runs must not change or hide. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <ucontext.h>

enum { TURNS = 400, PATTERN = 0x5A, ROOM = 1 << 16, SMALL = 2048 };

static void busy(void) {
    for (int i = 0; i < TURNS; i++) {
        getppid();
        getpgrp();
    }
}

/* What a run must record although it comes once and late: `which` is kept of getpriority. */
static void rare(int which) {
    syscall(SYS_getpriority, which, 0);
}

static size_t contents(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    size_t length = 0;
    for (ssize_t got; (got = read(fd, text + length, size - length)) > 0;) {
        length += got;
    }
    close(fd);
    return length;
}

static void mappings(void) {
    static char before[ROOM], after[ROOM];
    size_t length = contents("/proc/self/maps", before, ROOM);
    length = contents("/proc/self/maps", before, ROOM);
    busy();
    CHECK(contents("/proc/self/maps", after, ROOM) == length);
    CHECK(memcmp(before, after, length) == 0);
}

static void *idle(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

static volatile int spins, stops;

static void *spin(void *unused) {
    for (spins = 1; !stops;) {
    }
    return unused;
}

/* The other thread makes no calls, so that memory which is mapped at one of them is not seen from here. */
static void mappings_with_threads(void) {
    pthread_t thread;
    spins = stops = 0;
    CHECK(pthread_create(&thread, NULL, spin, NULL) == 0);
    while (!spins) {
        sched_yield();
    }
    mappings();
    stops = 1;
    CHECK(pthread_join(thread, NULL) == 0);
}

/* A coroutine with a small stack; what lies around the stack is another's. */
static ucontext_t caller, coroutine;
static unsigned char *around;

static void check_around(void) {
    for (int i = 0; i < ROOM; i++) {
        CHECK((i >= ROOM / 2 && i < ROOM / 2 + SMALL) || around[i] == PATTERN);
    }
}

static void in_coroutine(void) {
    for (int i = 0; i < TURNS; i++) {
        syscall(SYS_getppid);
    }
    swapcontext(&coroutine, &caller);
}

static void run_coroutine(void) {
    memset(around, PATTERN, ROOM);
    CHECK(getcontext(&coroutine) == 0);
    coroutine.uc_stack.ss_sp = around + ROOM / 2;
    coroutine.uc_stack.ss_size = SMALL;
    makecontext(&coroutine, in_coroutine, 0);
    CHECK(swapcontext(&caller, &coroutine) == 0);
    check_around();
}

static void small_stacks(void) {
    unsigned char on_stack[ROOM];
    syscall(SYS_getppid); /* found by the dynamic loader, which needs more stack */
    around = malloc(ROOM);
    run_coroutine();
    free(around);
    around = on_stack;
    run_coroutine();
}

static volatile int ends;

static void *watch(void *unused) {
    while (!ends) {
        check_around();
    }
    return unused;
}

static void small_stacks_that_are_watched(void) {
    unsigned char on_stack[ROOM];
    pthread_t thread;
    syscall(SYS_getppid);
    around = on_stack;
    memset(around, PATTERN, ROOM);
    CHECK(pthread_create(&thread, NULL, watch, NULL) == 0);
    for (int i = 0; i < 20; i++) {
        run_coroutine();
    }
    ends = 1;
    CHECK(pthread_join(thread, NULL) == 0);
}

static volatile sig_atomic_t handled;

static void on_signal(int signum) {
    (void)signum;
    handled++;
    syscall(SYS_getsid, 0);
}

static void *send(void *receiver) {
    for (int i = 0; i < TURNS; i++) {
        int before = handled;
        CHECK(pthread_kill(*(pthread_t *)receiver, SIGUSR1) == 0);
        while (handled == before) {
            sched_yield();
        }
    }
    ends = 1;
    return NULL;
}

/* No signal is lost, doubled or handled on another stack, and no call is lost to one. */
static void signals(void) {
    pthread_t self = pthread_self(), sender;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
    stack_t stack = {.ss_sp = malloc(SIGSTKSZ), .ss_size = SIGSTKSZ};
    CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&sender, NULL, send, &self) == 0);
    int pipes[2], turns = 0;
    CHECK(pipe(pipes) == 0);
    while (!ends) {
        char byte = (char)turns++, got;
        CHECK(write(pipes[1], &byte, 1) == 1 && read(pipes[0], &got, 1) == 1 && got == byte);
    }
    CHECK(pthread_join(sender, NULL) == 0);
    CHECK(handled == TURNS);
}

/* Where nothing can be mapped, no memory, no limit and no error of the program's own may show it. */
static void no_room(void) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t thread;
    struct rlimit none = {0, RLIM_INFINITY};
    pthread_mutex_lock(&gate);
    CHECK(pthread_create(&thread, NULL, idle, &gate) == 0);
    CHECK(setrlimit(RLIMIT_AS, &none) == 0);
    errno = 0;
    busy();
    CHECK(errno == 0);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
    rare(1);
    pthread_mutex_unlock(&gate);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void locked_memory(void) {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) {
        mappings_with_threads();
    }
}

/* The child is forked while another thread may be getting the filter. */
static void *fork_often(void *which) {
    for (int i = 0; i < 40; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            if (i == 39) {
                rare(*(int *)which);
            }
            _exit(0);
        }
        expect_end(child, 0);
    }
    return NULL;
}

static void *be_busy(void *unused) {
    while (!ends) {
        busy();
    }
    return unused;
}

static void forks_of_threads(void) {
    pthread_t busies[2], forkers[2];
    int which[2] = {1, 2};
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&forkers[i], NULL, fork_often, &which[i]) == 0);
        CHECK(pthread_create(&busies[i], NULL, be_busy, NULL) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(forkers[i], NULL) == 0);
    }
    ends = 1;
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(busies[i], NULL) == 0);
    }
}

/* Threads, in calls and out of them, while one of them gets the filter. */
static void *wait_and_call(void *which) {
    pause_ms(50);
    rare(*(int *)which);
    return NULL;
}

static void threads_in_calls(void) {
    pthread_t threads[2];
    int which[2] = {1, 2};
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, wait_and_call, &which[i]) == 0);
    }
    busy();
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    rare(0);
}

/* A program that becomes another: what the first one's filter lets run is new to the other one. */
static void other_executable(void) {
    CHECK(arguments[2] != NULL);
    busy();
    execl(arguments[2], arguments[2], "calls", (char *)NULL);
    CHECK(0);
}

static void other_executable_of_a_child(void) {
    CHECK(arguments[2] != NULL);
    busy();
    for (int i = 0; i < 3; i++) {
        pid_t child = i ? vfork() : fork();
        if (child == 0) {
            execl(arguments[2], arguments[2], "calls", (char *)NULL);
            _exit(1);
        }
        expect_end(child, 0);
    }
    rare(2);
}

static void calls(void) {
    getpgrp();
    getppid();
    rare(1);
}

/* The program's own filter comes after ours. */
static void own_filter(void) {
    struct sock_filter fails[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, fails};
    busy();
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
    for (int i = 0; i < TURNS; i++) {
        CHECK(syscall(SYS_getppid) == -1 && errno == 77);
    }
    rare(1);
}

#ifdef __aarch64__
/* A call keeps all registers but x0. */
static void registers(void) {
    for (long i = 0; i < TURNS; i++) {
        register long x0 __asm__("x0") = i, x1 __asm__("x1") = i + 1, x2 __asm__("x2") = i + 2, x7 __asm__("x7") = i + 7;
        register long x8 __asm__("x8") = SYS_getppid, x16 __asm__("x16") = ~i, x17 __asm__("x17") = i << 32;
        __asm__ volatile("svc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x7), "+r"(x8), "+r"(x16), "+r"(x17) : : "memory");
        long found[] = {x0, x1, x2, x7, x8, x16, x17};
        CHECK(found[0] == getppid() && found[1] == i + 1 && found[2] == i + 2 && found[3] == i + 7);
        CHECK(found[4] == SYS_getppid && found[5] == ~i && found[6] == i << 32);
    }
}
#else
/* A call keeps all registers but rax, rcx and r11. */
static void registers(void) {
    for (long i = 0; i < TURNS; i++) {
        long result, b = i, twelve = ~i, thirteen = i << 32;
        register long r10 __asm__("r10") = i + 1, r8 __asm__("r8") = i + 2, r9 __asm__("r9") = i + 3;
        __asm__ volatile("syscall"
                         : "=a"(result), "+r"(r10), "+r"(r8), "+r"(r9), "+b"(b), "+r"(twelve), "+r"(thirteen)
                         : "a"(SYS_getppid), "D"(i), "S"(i), "d"(i)
                         : "rcx", "r11", "memory");
        long found[] = {r10, r8, r9};
        CHECK(result == getppid() && found[0] == i + 1 && found[1] == i + 2 && found[2] == i + 3);
        CHECK(b == i && twelve == ~i && thirteen == i << 32);
    }
}
#endif

/* Processes of one executable, of which the first one starts another. */
static void start(char *file, char *check, char *argument) {
    pid_t child = fork();
    if (child == 0) {
        execl(file, file, check, argument, (char *)NULL);
        _exit(1);
    }
    expect_end(child, 0);
}

static void some_calls(void) {
    for (int i = 0; i < 300; i++) {
        rare(1);
    }
    if (arguments[2] != NULL) {
        start(arguments[2], "calls", NULL);
    }
}

/* Code that comes when the filter is there, in each way in which memory becomes code, makes a call that no other code makes. */
enum { FAR = 1 << 30, PAGE = 4096 };
static const unsigned char getpriority_of[] = {0xb8, SYS_getpriority, 0, 0, 0, 0x31, 0xf6, 0x0f, 0x05, 0xc3};
static unsigned char *far, *early;

static void *mapped(int protection, int flags, int fd) {
    far -= FAR;
    void *where = mmap(far, PAGE, protection, flags | MAP_FIXED_NOREPLACE, fd, 0);
    CHECK(where == far);
    return where;
}

static void *written(void *where) {
    return memcpy(where, getpriority_of, sizeof getpriority_of);
}

static void *by_mmap(void) {
    return written(mapped(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1));
}

static void *by_mmap_of_a_file(void) {
    int fd = memfd_create("code", 0);
    CHECK(write(fd, getpriority_of, sizeof getpriority_of) == sizeof getpriority_of);
    return mapped(PROT_READ | PROT_EXEC, MAP_PRIVATE, fd);
}

static void *by_mprotect(void) {
    void *where = written(mapped(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
    CHECK(mprotect(where, PAGE, PROT_READ | PROT_EXEC) == 0);
    return where;
}

static void *by_pkey_mprotect(void) {
    void *where = written(mapped(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
    CHECK(syscall(SYS_pkey_mprotect, where, PAGE, PROT_READ | PROT_EXEC, -1) == 0);
    return where;
}

static void *by_shmat(void) {
    int id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0700);
    far -= FAR;
    void *where = shmat(id, far, SHM_EXEC);
    CHECK(id >= 0 && shmctl(id, IPC_RMID, NULL) == 0 && where == far);
    return written(where);
}

static void *by_mremap(void) {
    far -= FAR;
    CHECK(mremap(early, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, far) == far);
    return far;
}

static void *by_personality(void) {
    CHECK(personality(personality(-1) | READ_IMPLIES_EXEC) >= 0);
    return written(mapped(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
}

static void *by_vfork(void) {
    static void *volatile where;
    pid_t child = vfork();
    if (child == 0) {
        where = by_mmap();
        _exit(0);
    }
    expect_end(child, 0);
    return where;
}

static void *of_thread(void *unused) {
    (void)unused;
    return by_mmap();
}

static void *by_thread(void) {
    pthread_t thread;
    void *where;
    CHECK(pthread_create(&thread, NULL, of_thread, NULL) == 0 && pthread_join(thread, &where) == 0);
    return where;
}

static void new_code(void) {
    void *(*const ways[])(void) = {by_mmap, by_mmap_of_a_file, by_mprotect, by_pkey_mprotect, by_shmat, by_mremap, by_personality,
                                   by_vfork, by_thread};
    far = (unsigned char *)((uintptr_t)&far & ~(uintptr_t)(PAGE - 1));
    early = written(mapped(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1));
    for (int i = 0; i < 4; i++) {
        busy();
    }
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        pid_t child = fork();
        if (child == 0) {
            void (*code)(size_t);
            void *where = ways[i]();
            memcpy(&code, &where, sizeof code);
            code(100 + i);
            busy();
            rare(200 + i);
            _exit(0);
        }
        expect_end(child, 0);
    }
}

/* What a process with a filter starts stops no more for that. */
static void starts_often(void) {
    for (int i = 0; i < 4; i++) {
        busy();
    }
    for (int i = 0; i < 20; i++) {
        start(arguments[2], "some_calls", NULL);
    }
}

/* One call in hundreds is new in each process. */
static void some_news(void) {
    for (int i = 0; i < 300; i++) {
        rare(1);
    }
    rare(100 + atoi(arguments[2]));
}

static void starts_with_news(void) {
    for (int i = 0; i < 20; i++) {
        char number[12];
        snprintf(number, sizeof number, "%d", i);
        pid_t child = fork();
        if (child == 0) {
            execl(arguments[2], arguments[2], "some_news", number, (char *)NULL);
            _exit(1);
        }
        expect_end(child, 0);
    }
}

static void links(void) {
    char text[64];
    for (int i = 0; i < 300; i++) {
        CHECK(readlink("/proc/self/exe", text, sizeof text) > 0);
    }
}

static void starts_links(void) {
    for (int i = 0; i < 20; i++) {
        start(arguments[2], "links", NULL);
    }
}

static void seldom_starts(void) {
    for (int i = 0; i < 20; i++) {
        start(arguments[2], "some_calls", i == 0 ? arguments[3] : NULL);
    }
}

/* A server that makes many equal calls when it starts, and then processes that do something else. */
static void children_after_a_burst(void) {
    for (int i = 0; i < 450; i++) {
        getppid();
        getpgrp();
    }
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (int j = 0; j < 4000; j++) {
                rare(1);
            }
            _exit(0);
        }
        expect_end(child, 0);
    }
}

/* Many calls on a small alternate stack; what lies around it is another's. */
static void on_alternate_stack(int signum) {
    (void)signum;
    for (int i = 0; i < TURNS; i++) {
        syscall(SYS_getppid);
    }
    rare(1);
}

static void alternate_stack(void) {
    enum { LENGTH = ROOM / 4 }; /* a signal frame may take 11 KiB (AVX-512, AMX) */
    struct sigaction action = {.sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK};
    unsigned char *around = malloc(2 * ROOM + LENGTH);
    stack_t stack = {.ss_sp = around + ROOM, .ss_size = LENGTH};
    memset(around, PATTERN, 2 * ROOM + LENGTH);
    syscall(SYS_getppid);
    CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(raise(SIGUSR1) == 0);
    for (int i = 0; i < ROOM; i++) {
        CHECK(around[i] == PATTERN && around[ROOM + LENGTH + i] == PATTERN);
    }
}

/* Processes that end by another thread, or by a signal, at the moment at which they may be getting the filter. */
static void *end_soon(void *after) {
    for (volatile long i = 0; i < *(long *)after; i++) {
    }
    if (*(long *)after % 2) {
        kill(getpid(), SIGKILL);
    }
    _exit(7);
}

static void ends_meanwhile(void) {
    for (long i = 0; i < 60; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            long after = i * 5000 + i % 2;
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, end_soon, &after) == 0);
            for (;;) {
                busy();
            }
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(i % 2 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : WIFEXITED(status) && WEXITSTATUS(status) == 7);
    }
    rare(1);
}

/* One executable after another, all with the same many calls, so that each has a long filter: at the end there is room for
   the program's own.  chain N FILE: becomes FILEn for each n below N. */
static void chain(void) {
    static struct sock_filter allows[4096];
    struct sock_fprog program = {4096, allows};
    int left = atoi(arguments[2]);
    for (int i = 0; i < 600; i++) {
        rare(1 + i % 150); /* of more values of one call `learn` would list none */
        syscall(SYS_ioprio_get, 1 + i % 150, 0);
    }
    busy();
    if (left > 0) {
        char file[4096], count[16];
        snprintf(count, sizeof count, "%d", left - 1);
        snprintf(file, sizeof file, "%s%s", arguments[3], count);
        execl(file, file, "chain", count, arguments[3], (char *)NULL);
        CHECK(0);
    }
    for (int i = 0; i < 4096; i++) {
        allows[i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0); /* the kernel counts a return as two */
    rare(777);
}

MAIN({"mappings", mappings}, {"mappings_with_threads", mappings_with_threads}, {"small_stacks", small_stacks},
     {"small_stacks_that_are_watched", small_stacks_that_are_watched}, {"signals", signals}, {"no_room", no_room},
     {"locked_memory", locked_memory}, {"forks_of_threads", forks_of_threads}, {"threads_in_calls", threads_in_calls},
     {"other_executable", other_executable}, {"other_executable_of_a_child", other_executable_of_a_child},
     {"calls", calls}, {"own_filter", own_filter}, {"registers", registers}, {"alternate_stack", alternate_stack},
     {"ends_meanwhile", ends_meanwhile}, {"chain", chain}, {"children_after_a_burst", children_after_a_burst},
     {"some_calls", some_calls}, {"new_code", new_code}, {"some_news", some_news}, {"starts_with_news", starts_with_news}, {"links", links},
     {"starts_links", starts_links}, {"starts_often", starts_often}, {"seldom_starts", seldom_starts})
