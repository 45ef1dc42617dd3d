/* Executes its arguments from an unusual but legal state: nothing of it may be lost or tidied up on the way. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argc;
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGRTMIN + 3);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, 0);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGTTOU, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    raise(SIGUSR2); /* stays pending */
    umask(027);
    setpgid(0, 0);
    struct rlimit limit = {100, 200};
    setrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 1 << 20;
    limit.rlim_max = 1 << 21;
    setrlimit(RLIMIT_STACK, &limit);
    prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof one, &one);
    struct itimerval timer = {{0, 0}, {1000, 0}};
    setitimer(ITIMER_REAL, &timer, 0);
    nice(3);
    dup2(open("/dev/zero", O_RDONLY), 17);
    fcntl(17, F_SETFL, O_NONBLOCK);
    close(0);
    close(3);
    execvp(argv[1], argv + 1);
    return 120;
}
