/* Programs with seccomp filters of their own: each answer is what it is without a tracer. */
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>

/* Answers `action` for call `number`, and allows the rest. */
static int install(int number, unsigned action, unsigned flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    int result = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    CHECK(result >= 0);
    return result;
}

static void with_errno(void) {
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 77, 0);
    for (int i = 0; i < 3; i++) {
        CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 77);
        CHECK(syscall(SYS_getppid) > 0);
    }
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 77);
        execl("/bin/sh", "sh", "-c", "exit 3", NULL);
    }
    expect_end(pid, 3);
}

static void by_prctl(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 78),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 78);
}

static void killing(void) {
    pid_t pid = fork();
    if (pid == 0) {
        install(SYS_getpriority, SECCOMP_RET_KILL_PROCESS, 0);
        syscall(SYS_getpriority, 0, 0);
        _exit(1);
    }
    expect_end(pid, -SIGSYS);
}

static void *forbidden(void *unused) {
    install(SYS_getpriority, SECCOMP_RET_KILL_THREAD, 0);
    syscall(SYS_getpriority, 0, 0);
    return unused;
}

static void killing_a_thread(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, forbidden, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(syscall(SYS_getpriority, 0, 0) > 0);
}

#ifdef __aarch64__
#define NATIVE AUDIT_ARCH_AARCH64
#else
#define NATIVE AUDIT_ARCH_X86_64
#endif

static volatile int traps;

static void trapped(int signum, siginfo_t *info, void *context) {
    (void)context;
    CHECK(signum == SIGSYS && info->si_code == 1 && info->si_syscall == SYS_getpriority);
    CHECK(info->si_arch == NATIVE && info->si_errno == 55);
    traps++;
}

static void trapping(void) {
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    install(SYS_getpriority, SECCOMP_RET_TRAP | 55, 0);
    for (int i = 1; i <= 3; i++) {
        syscall(SYS_getpriority, 0, 0);
        CHECK(traps == i);
    }
}

static void tracing(void) {
    /* nobody of the program's traces it: the call fails with ENOSYS */
    install(SYS_getpriority, SECCOMP_RET_TRACE | 5, 0);
    for (int i = 0; i < 3; i++) {
        CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == ENOSYS);
        CHECK(syscall(SYS_getppid) > 0);
    }
}

static void logging(void) {
    install(SYS_getpriority, SECCOMP_RET_LOG, 0);
    CHECK(syscall(SYS_getpriority, 0, 0) > 0);
}

static void *asking(void *result) {
    *(long *)result = syscall(SYS_getpriority, 0, 0);
    return (void *)(intptr_t)errno;
}

static void answer(int listener, struct seccomp_notif_resp how) {
    struct seccomp_notif question = {0};
    CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question) == 0);
    CHECK(question.data.nr == SYS_getpriority && question.pid != 0);
    how.id = question.id;
    CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &how) == 0);
}

static void notifying(void) {
    long result;
    void *error;
    pthread_t thread;
    int listener = install(SYS_getpriority, SECCOMP_RET_USER_NOTIF,
                           SECCOMP_FILTER_FLAG_NEW_LISTENER);
    CHECK(pthread_create(&thread, NULL, asking, &result) == 0);
    answer(listener, (struct seccomp_notif_resp){.error = -66});
    pthread_join(thread, &error);
    CHECK(result == -1 && (intptr_t)error == 66);
    CHECK(pthread_create(&thread, NULL, asking, &result) == 0);
    answer(listener, (struct seccomp_notif_resp){.val = 1234});
    pthread_join(thread, NULL);
    CHECK(result == 1234);
    CHECK(pthread_create(&thread, NULL, asking, &result) == 0);
    answer(listener, (struct seccomp_notif_resp){.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE});
    pthread_join(thread, NULL);
    CHECK(result > 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(listener);
        syscall(SYS_getpriority, 0, 0);
        _exit(4);
    }
    answer(listener, (struct seccomp_notif_resp){.error = -1});
    expect_end(pid, 4);
}

static volatile int go;

static void *bystander(void *failures) {
    while (!go) {
        syscall(SYS_getpriority, 0, 0);
    }
    for (int i = 0; i < 50; i++) {
        *(int *)failures += syscall(SYS_getpriority, 0, 0) == -1 && errno == 77;
    }
    return NULL;
}

static void for_all_threads(void) {
    pthread_t threads[4];
    int failures[4] = {0};
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, bystander, &failures[i]) == 0);
    }
    pause_ms(5);
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 77, SECCOMP_FILTER_FLAG_TSYNC);
    go = 1;
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK(failures[i] == 50);
    }
}

static void for_one_thread(void) {
    pthread_t thread;
    int failures = 0;
    CHECK(pthread_create(&thread, NULL, bystander, &failures) == 0);
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 77, 0);
    go = 1;
    pthread_join(thread, NULL);
    CHECK(failures == 0);
}

static void precedence(void) {
    install(SYS_getpriority, SECCOMP_RET_LOG, 0);
    CHECK(syscall(SYS_getpriority, 0, 0) > 0);
    install(SYS_getpriority, SECCOMP_RET_TRACE | 1, 0);
    CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == ENOSYS);
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 70, 0);
    CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 70);
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 71, 0);
    CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 71);
    install(SYS_getpriority, SECCOMP_RET_ALLOW, 0);
    CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 71);
    signal(SIGSYS, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0) {
        install(SYS_getpriority, SECCOMP_RET_TRAP, 0);
        syscall(SYS_getpriority, 0, 0);
        _exit(1);
    }
    expect_end(pid, -SIGSYS);
}

static void signals_and_filters(void) {
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 77, 0);
    int status, ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 300; i++) {
            CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 77);
        }
        struct timespec some = {0, 100000000};
        CHECK(nanosleep(&some, NULL) == 0 && read(ends[0], &byte, 1) == 1);
        _exit(6);
    }
    pause_ms(30);
    kill(pid, SIGSTOP);
    CHECK(wait_for(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    kill(pid, SIGCONT);
    CHECK(write(ends[1], "x", 1) == 1);
    expect_end(pid, 6);
}

static void before_another(void) {
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 77, 0);
    execvp(arguments[2], arguments + 2);
}

static void refused(void) { CHECK(syscall(SYS_getpriority, 0, 0) == -1 && errno == 77); }

static void none_yet(void) {
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL) == -1 && errno == EFAULT);
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 77, 0);
    CHECK(prctl(PR_GET_SECCOMP) == 2);
}

/* As libseccomp asks for what the kernel can do: what is known fails for the want of a filter. */
static void asking_for_flags(void) {
    for (unsigned flags = 0; flags < 32; flags++) {
        CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, NULL) == -1 && (errno == EFAULT || errno == EINVAL));
    }
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, NULL) == -1 && errno == EFAULT);
}

static void vsyscalls(void) {
    int (*gettimeofday_at)(struct timeval *, void *) = (void *)0xffffffffff600000;
    struct timeval now;
    install(SYS_getpriority, SECCOMP_RET_ERRNO | 77, 0);
    for (int i = 0; i < 3; i++) {
        CHECK(gettimeofday_at(&now, NULL) == 0);
    }
}

MAIN({"none_yet", none_yet}, {"with_errno", with_errno}, {"by_prctl", by_prctl}, {"killing", killing}, {"killing_a_thread", killing_a_thread},
     {"trapping", trapping}, {"tracing", tracing}, {"logging", logging}, {"notifying", notifying}, {"asking_for_flags", asking_for_flags},
     {"for_all_threads", for_all_threads}, {"for_one_thread", for_one_thread}, {"precedence", precedence},
     {"signals_and_filters", signals_and_filters}, {"before_another", before_another}, {"refused", refused},
     {"vsyscalls", vsyscalls})
