/* What a stop costs at least: SECCOMP_RET_TRACE stops of one task on its tracer's processor, and nothing else.

   floor COUNT: prints nanoseconds for each of COUNT calls, stopped, then not stopped.  Exits with 1 if the kernel refuses. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(int failed, const char *what)
{
    if (failed) {
        perror(what);
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static double each(long count)
{
    double start = now();
    for (long i = 0; i < count; i++)
        syscall(SYS_getppid);
    return (now() - start) / count;
}

static void child(long count, int go, int result)
{
    struct sock_filter trace = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    struct sock_fprog program = {1, &trace};
    double ns[2];
    char byte;
    check(read(go, &byte, 1) != 1, "read");
    ns[1] = each(count);
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
    ns[0] = each(count);
    check(write(result, ns, sizeof ns) != sizeof ns, "write");
    _exit(0);
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0;
    int go[2], result[2], status;
    double ns[2];
    cpu_set_t one;
    if (count <= 0) {
        fprintf(stderr, "usage: floor COUNT\n");
        return 2;
    }
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    check(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
    check(pipe(go) || pipe(result), "pipe");
    pid_t pid = fork();
    check(pid < 0, "fork");
    if (pid == 0)
        child(count, go[0], result[1]);
    check(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL) < 0, "PTRACE_SEIZE");
    check(write(go[1], "", 1) != 1, "write");
    while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
        ptrace(PTRACE_CONT, pid, 0, 0);
    check(!WIFEXITED(status) || WEXITSTATUS(status), "the child");
    check(read(result[0], ns, sizeof ns) != sizeof ns, "read");
    printf("%.0f %.0f\n", ns[0], ns[1]);
    return 0;
}
