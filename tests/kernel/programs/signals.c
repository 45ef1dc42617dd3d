/* Every signal arrives once, in order, with its own siginfo. */
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <setjmp.h>
#include <ucontext.h>

static volatile int count, last_code, last_value, last_pid, last_signal;
static void *volatile last_address;
static int order[64];

static void note(int signum, siginfo_t *info, void *context) {
    (void)context;
    order[count % 64] = signum * 1000 + info->si_value.sival_int;
    count++;
    last_signal = signum, last_code = info->si_code, last_value = info->si_value.sival_int;
    last_pid = info->si_pid, last_address = info->si_addr;
}

static void handle(int signum, int flags) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(signum, &action, NULL) == 0);
}

static void queue(pid_t pid, int signum, int value) {
    CHECK(sigqueue(pid, signum, (union sigval){.sival_int = value}) == 0);
}

static void every_one_once(void) {
    for (int signum = 1; signum <= SIGRTMAX; signum++) {
        if (signum == SIGKILL || signum == SIGSTOP || (signum > 31 && signum < SIGRTMIN)) {
            continue;
        }
        handle(signum, 0);
        count = 0;
        queue(getpid(), signum, signum + 100);
        CHECK(count == 1 && last_signal == signum && last_code == SI_QUEUE);
        CHECK(last_value == signum + 100 && last_pid == getpid());
        count = 0;
        CHECK(raise(signum) == 0);
        CHECK(count == 1 && last_code == SI_TKILL && last_pid == getpid());
        CHECK(kill(getpid(), signum) == 0);
        CHECK(count == 2 && last_code == SI_USER);
    }
}

static void rt_order(void) {
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    for (int signum = SIGRTMIN; signum < SIGRTMIN + 4; signum++) {
        struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO, .sa_mask = all};
        sigaction(signum, &action, NULL);
    }
    for (int value = 0; value < 5; value++) {
        for (int signum = SIGRTMIN + 3; signum >= SIGRTMIN; signum--) {
            queue(getpid(), signum, value);
        }
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    CHECK(count == 20);
    for (int i = 0; i < 20; i++) {
        CHECK(order[i] == (SIGRTMIN + i / 5) * 1000 + i % 5);
    }
}

#ifdef __aarch64__
#define IS_ARM
#define BREAKPOINT "brk #0"
#elif defined(__arm__)
#define IS_ARM
#define BREAKPOINT ".inst.n 0xde01"
#endif

static sigjmp_buf back;

static void jump(int signum, siginfo_t *info, void *context) {
    note(signum, info, context);
    siglongjmp(back, 1);
}

static void int3(void) {
#ifdef IS_ARM
    struct sigaction action = {.sa_sigaction = jump, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
#else
    handle(SIGTRAP, 0);
#endif
    for (int i = 1; i <= 3; i++) {
#ifdef IS_ARM
        if (sigsetjmp(back, 1) == 0)
            __asm__ volatile(BREAKPOINT); /* the signal's handler would return to it */
        CHECK(count == i && last_code == TRAP_BRKPT);
#else
        __asm__ volatile("int3");
        CHECK(count == i && last_code == SI_KERNEL);
#endif
    }
}

static void single_step(void) {
    handle(SIGTRAP, 0);
#ifdef __x86_64__
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; nop; nop; pushfq; andq $~0x100, (%%rsp); popfq" ::: "cc", "memory");
    CHECK(count >= 4 && last_code == TRAP_TRACE);
#endif
}

static void fault(int signum, int code, void *address, void (*cause)(void *)) {
    struct sigaction action = {.sa_sigaction = jump, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(signum, &action, NULL) == 0);
    for (int i = 0; i < 2; i++) {
        count = 0;
        if (sigsetjmp(back, 1) == 0) {
            cause(address);
            CHECK(!"reached");
        }
        CHECK(count == 1 && last_signal == signum && last_code == code);
        CHECK(address == NULL || last_address == address);
    }
}

static void write_to(void *address) { *(volatile char *)address = 1; }
#ifdef IS_ARM
#define UNDEFINED "udf #0"
#define ILLEGAL ILL_ILLOPC
#else
#define UNDEFINED "ud2"
#define ILLEGAL ILL_ILLOPN
#endif
static void undefined(void *address) { (void)address; __asm__ volatile(UNDEFINED); }
#ifndef IS_ARM /* where a division by zero is 0 */
static void divide(void *address) {
    (void)address;
    volatile int zero = 0;
    volatile int result = 1000 / zero;
    (void)result;
}
#endif

static void faults(void) {
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *gone = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int empty = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    char *behind = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, empty, 0);
    munmap(gone, 4096);
    fault(SIGSEGV, SEGV_ACCERR, page + 5, write_to);
    fault(SIGSEGV, SEGV_MAPERR, gone + 7, write_to);
    fault(SIGILL, ILLEGAL, NULL, undefined);
#ifndef IS_ARM
    fault(SIGFPE, FPE_INTDIV, NULL, divide);
#endif
    if (behind != MAP_FAILED) {
        fault(SIGBUS, BUS_ADRERR, behind, write_to);
    }
}

static void waited_for(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int file = signalfd(-1, &set, 0);
    queue(getpid(), SIGUSR1, 5);
    struct signalfd_siginfo info;
    CHECK(read(file, &info, sizeof info) == sizeof info);
    CHECK(info.ssi_signo == SIGUSR1 && info.ssi_int == 5 && info.ssi_pid == (unsigned)getpid());
    queue(getpid(), SIGRTMIN, 6);
    queue(getpid(), SIGRTMIN, 7);
    siginfo_t got;
    CHECK(sigwaitinfo(&set, &got) == SIGRTMIN && got.si_value.sival_int == 6);
    CHECK(sigwaitinfo(&set, &got) == SIGRTMIN && got.si_value.sival_int == 7);
    struct timespec none = {0, 0};
    CHECK(sigtimedwait(&set, &got, &none) == -1 && errno == EAGAIN);
}

/* Waits until a process sleeps in a call: one that a tracer has stopped is in another state. */
static void until_asleep(pid_t pid) {
    char name[40], text[512];
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    for (int times = 0; times < 3;) {
        pause_ms(10);
        int file = open(name, O_RDONLY);
        ssize_t length = read(file, text, sizeof text - 1);
        CHECK(length > 0 && close(file) == 0);
        text[length] = 0;
        times = strrchr(text, ')')[2] == 'S' ? times + 1 : 0;
    }
}

/* A child sends `signum` to us once we wait. */
static pid_t send_later(int signum) {
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        until_asleep(parent);
        kill(parent, signum);
        _exit(0);
    }
    return pid;
}

static void interrupted(void) {
    int ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    handle(SIGUSR1, 0);
    pid_t child = send_later(SIGUSR1);
    CHECK(read(ends[0], &byte, 1) == -1 && errno == EINTR && count == 1);
    expect_end(child, 0);
    handle(SIGUSR1, SA_RESTART);
    child = fork();
    if (child == 0) {
        pause_ms(30);
        kill(getppid(), SIGUSR1);
        pause_ms(30);
        CHECK(write(ends[1], "x", 1) == 1);
        _exit(0);
    }
    CHECK(read(ends[0], &byte, 1) == 1 && count == 2);
    expect_end(child, 0);
    struct timespec long_while = {30, 0}, left = {0, 0};
    child = send_later(SIGUSR1);
    CHECK(nanosleep(&long_while, &left) == -1 && errno == EINTR && left.tv_sec > 0);
    expect_end(child, 0);
    signal(SIGUSR1, SIG_IGN);
    struct timespec short_while = {0, 60000000};
    child = send_later(SIGUSR1);
    CHECK(nanosleep(&short_while, NULL) == 0);
    expect_end(child, 0);
    sigset_t none;
    sigemptyset(&none);
    handle(SIGUSR1, SA_RESTART);
    child = send_later(SIGUSR1);
    CHECK(sigsuspend(&none) == -1 && errno == EINTR);
    expect_end(child, 0);
    child = send_later(SIGUSR1);
    CHECK(poll(NULL, 0, 30000) == -1 && errno == EINTR);
    expect_end(child, 0);
    child = send_later(SIGUSR1);
    CHECK(select(0, NULL, NULL, NULL, &(struct timeval){30, 0}) == -1 && errno == EINTR);
    expect_end(child, 0);
}

static void child_states(void) {
    siginfo_t info;
    int seen[2];
    char byte;
    CHECK(pipe(seen) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        raise(SIGSTOP);
        CHECK(read(seen[0], &byte, 1) == 1); /* once it has stopped again, nobody can wait for its having continued */
        raise(SIGTSTP);
        _exit(7);
    }
    handle(SIGCHLD, SA_RESTART);
    CHECK(waitid(P_PID, pid, &info, WSTOPPED) == 0 && info.si_code == CLD_STOPPED && info.si_status == SIGSTOP);
    kill(pid, SIGCONT);
    CHECK(waitid(P_PID, pid, &info, WCONTINUED) == 0 && info.si_code == CLD_CONTINUED && info.si_status == SIGCONT);
    CHECK(write(seen[1], "", 1) == 1);
    CHECK(waitid(P_PID, pid, &info, WSTOPPED | WEXITED) == 0);
    /* SIGTSTP stops nobody in an orphaned process group */
    if (info.si_code == CLD_STOPPED) {
        CHECK(info.si_status == SIGTSTP);
        kill(pid, SIGCONT);
        CHECK(waitid(P_PID, pid, &info, WEXITED) == 0);
    }
    CHECK(info.si_code == CLD_EXITED && info.si_status == 7 && info.si_pid == pid);
    pid = fork();
    if (pid == 0) {
        pause();
    }
    count = 0;
    kill(pid, SIGKILL);
    while (count == 0) {
        pause_ms(5);
    }
    CHECK(last_code == CLD_KILLED && last_pid == pid);
    expect_end(pid, -SIGKILL);
}

static void no_child_stops_shown(void) {
    /* a tracer's stops are not the parent's business */
    handle(SIGCHLD, SA_RESTART);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 500; i++) {
            getppid();
        }
        for (int i = 0; i < 20; i++) {
            signal(SIGUSR1, SIG_IGN);
            raise(SIGUSR1);
        }
        pause_ms(50);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED | WCONTINUED) == pid && WIFEXITED(status));
    CHECK(count == 1);
}

static void timers(void) {
    handle(SIGALRM, SA_RESTART);
    handle(SIGVTALRM, SA_RESTART);
    struct itimerval often = {{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &often, NULL);
    while (count < 20) {
        getppid();
    }
    CHECK(last_code == SI_KERNEL);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
}

static void masked_over_exec(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    if (arguments[2] == NULL) {
        sigprocmask(SIG_BLOCK, &set, NULL);
        signal(SIGUSR2, SIG_IGN);
        raise(SIGUSR1);
        execl("/proc/self/exe", "signals", "masked_over_exec", "again", NULL);
    }
    sigset_t now, pending;
    sigprocmask(SIG_BLOCK, NULL, &now);
    sigpending(&pending);
    CHECK(sigismember(&now, SIGUSR1) && sigismember(&pending, SIGUSR1) && signal(SIGUSR2, SIG_DFL) == SIG_IGN);
}

static void *to_itself(void *unused) {
    (void)unused;
    pthread_kill(pthread_self(), SIGUSR1);
    return NULL;
}

static void to_threads(void) {
    handle(SIGUSR1, 0);
    for (int i = 1; i <= 50; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, to_itself, NULL) == 0);
        pthread_join(thread, NULL);
        CHECK(count == i && last_code == SI_TKILL);
    }
}

/* What a process starts with: printed, to be compared. */
static void state(void) {
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    for (int signum = 1; signum <= SIGRTMAX; signum++) {
        struct sigaction action;
        if (sigaction(signum, NULL, &action) == 0) {
            printf("%d%s%s ", signum, action.sa_handler == SIG_IGN ? "i" : "", sigismember(&mask, signum) ? "b" : "");
        }
    }
    puts("");
}

MAIN({"every_one_once", every_one_once}, {"rt_order", rt_order}, {"int3", int3}, {"single_step", single_step},
     {"faults", faults}, {"waited_for", waited_for}, {"interrupted", interrupted}, {"child_states", child_states},
     {"no_child_stops_shown", no_child_stops_shown}, {"timers", timers}, {"masked_over_exec", masked_over_exec},
     {"to_threads", to_threads}, {"state", state})
