/* Prints everything that a program can see of the state it was started in, on descriptor 1. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void print_file_lines(const char *path, const char *const *wanted)
{
    char line[4096];
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        for (int i = 0; wanted[i]; i++)
            if (!strncmp(line, wanted[i], strlen(wanted[i])))
                fputs(line, stdout);
    if (file)
        fclose(file);
}

int main(int argc, char **argv)
{
    int descriptors[64], count = 0;
    for (int fd = 0; fd < 1024 && count < 64; fd++) /* before anything is opened here */
        if (fcntl(fd, F_GETFD) >= 0)
            descriptors[count++] = fd;
    printf("pid %d ppid %d pgid %d sid %d\n", getpid(), getppid(), getpgid(0), getsid(0));
    printf("ids %d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
    for (int i = 0; i < count; i++) {
        char link[64], target[256] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptors[i]);
        if (readlink(link, target, sizeof target - 1) < 0)
            strcpy(target, "?");
        if (!strncmp(target, "pipe:", 5))
            target[5] = 0;
        printf("fd %d %s flags %#x cloexec %d\n", descriptors[i], target, fcntl(descriptors[i], F_GETFL),
               fcntl(descriptors[i], F_GETFD));
    }
    printf("tty group %d\n", tcgetpgrp(2));
    mode_t mask = umask(0);
    printf("umask %o\n", mask);
    char cwd[4096];
    printf("cwd %s\n", getcwd(cwd, sizeof cwd));
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit limit;
        getrlimit(i, &limit);
        printf("limit %d %llu %llu\n", i, (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
    }
    int reaper, death;
    prctl(PR_GET_CHILD_SUBREAPER, &reaper, 0, 0, 0);
    prctl(PR_GET_PDEATHSIG, &death, 0, 0, 0);
    printf("dumpable %d reaper %d death %d slack %d personality %x nice %d\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
           reaper, death, prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), personality(0xffffffff), getpriority(PRIO_PROCESS, 0));
    struct itimerval timer;
    getitimer(ITIMER_REAL, &timer);
    printf("timer %d\n", timer.it_value.tv_sec > 900);
    printf("wait %d", waitpid(-1, 0, WNOHANG | __WALL));
    printf(" errno %d\n", errno);
    char children[4096] = "";
    snprintf(cwd, sizeof cwd, "/proc/self/task/%d/children", getpid());
    FILE *file = fopen(cwd, "re");
    printf("children [%s]\n", file && fgets(children, sizeof children, file) ? children : "");
    const char *const wanted[] = {"Name:", "TracerPid:", "Threads:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:",
                                  "Cap", "Cpus_allowed:", "Umask:", "Groups:", 0};
    print_file_lines("/proc/self/status", wanted);
    const char *const confined[] = {"NoNewPrivs:", "Seccomp:", 0};
    print_file_lines("/proc/self/status", confined);
    for (int i = 0; i < argc; i++)
        printf("argument %s\n", argv[i]);
    for (char **entry = environ; *entry; entry++)
        printf("environment %s\n", *entry);
    return 42;
}
