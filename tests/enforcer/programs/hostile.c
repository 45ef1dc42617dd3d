/* Attacks on the helper: `hostile NAME`.  It prints "ready", reads the pids of the helper and its stand-in, makes the attack on
   both and prints its result (an errno, 0 if it succeeded), and then calls getppid, which the policy kills for. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static long denied(void) { return syscall(SYS_getppid); }

static void own_filter(int by_prctl)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    if (by_prctl)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    else
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

static void *flip(void *_)
{
    while (!_) {
        signal(SIGSYS, SIG_IGN);
        signal(SIGSYS, SIG_DFL);
    }
    return 0;
}

static int traced(void)
{
    int status, go[2];
    char byte = 0;
    if (pipe(go))
        return -1;
    pid_t child = fork();
    if (child == 0) {
        if (read(go[0], &byte, 1) == 1)
            denied();
        write(1, "survived\n", 9);
        _exit(0);
    }
    ptrace(PTRACE_SEIZE, child, 0, 0);
    write(go[1], &byte, 1);
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
        ptrace(PTRACE_CONT, child, 0, 0); /* no signal reaches it */
    return WIFSIGNALED(status) ? WTERMSIG(status) : -1;
}

static long attack(const char *name, pid_t pid)
{
    struct rlimit none = {0, 0}, one = {1, 1};
    struct sched_param low = {0};
    cpu_set_t cpus;
    char text[64], byte = 0;
    siginfo_t info;
    struct iovec here = {&byte, 1}, there = {(void *)4096, 1};
    int fd;
    memset(&info, 0, sizeof info);
    info.si_code = SI_QUEUE;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
#define IS(what) (strcmp(name, what) == 0)
    if (IS("kill")) return kill(pid, SIGKILL);
    if (IS("stop")) return kill(pid, SIGSTOP);
    if (IS("group")) return kill(-pid, SIGKILL);
    if (IS("everybody")) return kill(-1, SIGKILL);
    if (IS("everybody_stop")) return kill(-1, SIGSTOP);
    if (IS("tkill")) return syscall(SYS_tkill, pid, SIGKILL);
    if (IS("tgkill")) return syscall(SYS_tgkill, pid, pid, SIGKILL);
    if (IS("sigqueue")) return syscall(SYS_rt_sigqueueinfo, pid, SIGKILL, &info);
    if (IS("tgsigqueue")) return syscall(SYS_rt_tgsigqueueinfo, pid, pid, SIGKILL, &info);
    if (IS("pidfd")) return syscall(SYS_pidfd_open, pid, 0);
    if (IS("descriptors")) return syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, &none, 0);
    if (IS("processor")) return syscall(SYS_prlimit64, pid, RLIMIT_CPU, &one, 0);
    if (IS("memory")) return syscall(SYS_prlimit64, pid, RLIMIT_AS, &none, 0);
    if (IS("filesize")) return syscall(SYS_prlimit64, pid, RLIMIT_FSIZE, &none, 0);
    if (IS("affinity")) return sched_setaffinity(pid, sizeof cpus, &cpus);
    if (IS("scheduler")) return syscall(SYS_sched_setscheduler, pid, SCHED_IDLE, &low);
    if (IS("parameters")) return syscall(SYS_sched_setparam, pid, &low);
    if (IS("nice")) return setpriority(PRIO_PROCESS, pid, 19);
    if (IS("ioprio")) return syscall(SYS_ioprio_set, 1, pid, 3 << 13);
    if (IS("ptrace")) return ptrace(PTRACE_SEIZE, pid, 0, 0);
    if (IS("read_memory")) return process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (IS("write_memory")) return process_vm_writev(pid, &here, 1, &there, 1, 0);
    if (IS("owner")) {
        fd = open("/dev/null", O_RDONLY);
        return fcntl(fd, F_SETOWN, pid);
    }
    if (IS("owner_group")) {
        fd = open("/dev/null", O_RDONLY);
        return fcntl(fd, F_SETOWN, -pid);
    }
    if (IS("upper_half")) return syscall(SYS_kill, (long)pid | 7L << 32, SIGKILL);
    if (IS("open_memory") || IS("open_descriptors")) {
        snprintf(text, sizeof text, "/proc/%d/%s", pid, IS("open_memory") ? "mem" : "fd/0");
        return open(text, O_RDWR);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *name = argv[argc - 1];
    int pids[2] = {0, 0};
    pthread_t thread;
    puts("ready");
    fflush(stdout);
    if (scanf("%d %d", &pids[0], &pids[1]) != 2)
        return 1;
    if (IS("own_filter") || IS("own_filter_prctl"))
        own_filter(IS("own_filter_prctl"));
    else if (IS("flip"))
        pthread_create(&thread, 0, flip, 0), usleep(1000);
    else if (IS("traced"))
        return printf("%d\n", traced()), 0;
    else
        for (int i = 0; i < 2; i++) {
            errno = 0;
            long result = attack(name, pids[i]);
            printf("%d ", result < 0 ? errno : 0);
        }
    fflush(stdout);
    denied();
    write(1, "survived\n", 9);
    return 0;
}
