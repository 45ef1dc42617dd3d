/* A server in small: each word of its command line is a step, whose result it prints.
 *
 * socket: make a socket.  poll, epoll, pselect, accept, sigsuspend: wait, each in a way that would show if the call was not made
 * as given.
 * thread: start a thread that waits for `wake`, which lets it make a socket.  fork: a child does the remaining steps.
 * spin: start a thread whose next call, at `go`, is an epoll_wait that nothing ends but its timeout.
 * untraced: a child that no tracer is to see does them.
 * stay: start a thread that makes a socket at each `knock`, polls at each `nap`, and never ends.
 * notify, say: send READY=1 as sd_notify(3) does, or another message, and receive it.  write: write it, on standard error.
 * exec: execute itself for the remaining steps.  daemon: a child in a session of its own does them.  traceme: ask to be traced.
 * killed: start children that poll, and kill them at all times of that.
 * serve: wait for a moment, and remove a file if SIGTERM comes.
 * hide, show: let nobody look into it (PR_SET_DUMPABLE), or again those who may.
 * status: the tracer and the number of filters.  wait: read a byte.  enter: as include/callfence.h does.
 */
#define _GNU_SOURCE
#include "../../../include/callfence.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int pipes[2], knocks[2], back[2];
static pthread_t thread;
static volatile int caught, spins;

static void handler(int number) { caught = number; }

static void say(const char *step, long result) {
    printf("%s %ld %s\n", step, result, result < 0 ? strerror(errno) : "");
    fflush(stdout);
}

static void *staying(void *unused) {
    char byte;
    while (read(knocks[0], &byte, 1) == 1) {
        say("thread", byte == 'n' ? poll(NULL, 0, 0) : socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? -1 : 0);
        (void)!write(back[1], "x", 1);
    }
    return unused;
}

static void *spinning(void *unused) {
    struct epoll_event got;
    int epoll = epoll_create1(0);
    spins = 1;
    while (spins);
    say("epoll_wait", epoll_wait(epoll, &got, 1, 30));
    return unused;
}

static void *threaded(void *unused) {
    char byte;
    (void)!read(pipes[0], &byte, 1);
    say("thread", socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? -1 : 0);
    return unused;
}

static void status(void) {
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "TracerPid", 9) || !strncmp(line, "Seccomp_filters", 15))
            printf("%s", line);
    fclose(file);
    fflush(stdout);
}

static long milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void suspend(void) {
    struct sigaction action = {.sa_handler = handler};
    sigset_t blocked, none;
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    raise(SIGUSR1);
    caught = 0;
    sigsuspend(&none);  /* the pending signal ends it: if it came before, this would wait for ever */
    say("caught", caught == SIGUSR1);
}

static void polled(void) {
    struct pollfd waiting = {pipes[0], POLLIN, 0};
    say("poll", poll(&waiting, 1, 0));
    (void)!write(pipes[1], "x", 1);
    say("poll", poll(&waiting, 1, 1000));
    say("events", waiting.revents);
    char byte;
    (void)!read(pipes[0], &byte, 1);
}

static void selected(void) {
    struct sigaction action = {.sa_handler = handler};
    struct timespec moment = {0, 30000000};
    sigset_t blocked, none;
    fd_set set;
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    FD_ZERO(&set);
    FD_SET(pipes[0], &set);
    long before = milliseconds();
    say("pselect", pselect(pipes[0] + 1, &set, NULL, NULL, &moment, NULL));
    say("waited", milliseconds() - before >= 30);
    raise(SIGUSR1);
    FD_SET(pipes[0], &set);
    say("pselect", pselect(pipes[0] + 1, &set, NULL, NULL, NULL, &none));  /* its mask lets the signal in */
    say("caught", caught == SIGUSR1);
}

static void accepted(void) {
    struct sockaddr_un name = {.sun_family = AF_UNIX}, peer;
    socklen_t size = sizeof name, got = sizeof peer;
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    char text[8] = "";
    bind(listener, (struct sockaddr *)&name, sizeof(sa_family_t));  /* the kernel chooses a name */
    getsockname(listener, (struct sockaddr *)&name, &size);
    listen(listener, 1);
    connect(client, (struct sockaddr *)&name, size);
    memset(&peer, 0xff, sizeof peer);
    int server = accept4(listener, (struct sockaddr *)&peer, &got, SOCK_CLOEXEC | SOCK_NONBLOCK);
    say("accept4", server >= 0 && peer.sun_family == AF_UNIX && got == sizeof(sa_family_t));
    say("flags", fcntl(server, F_GETFD) == FD_CLOEXEC && fcntl(server, F_GETFL) & O_NONBLOCK);
    (void)!write(client, "hello", 5);
    say("read", read(server, text, sizeof text) == 5 && !strcmp(text, "hello"));
    close(listener);
    close(client);
    close(server);
}

static void epolled(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x123456789abcdefULL}, got[2];
    memset(got, 0, sizeof got);
    int epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event);
    long before = milliseconds();
    say("epoll_wait", epoll_wait(epoll, got, 2, 30));
    say("waited", milliseconds() - before >= 30);
    (void)!write(pipes[1], "x", 1);
    say("epoll_wait", epoll_wait(epoll, got, 2, 1000));
    say("data", got[0].data.u64 == 0x123456789abcdefULL);
    char byte;
    (void)!read(pipes[0], &byte, 1);
}

static void sends(const char *step, char *text) {
    int pair[2];
    char got[64] = "";
    struct iovec parts[2] = {{text, 4}, {text + 4, strlen(text) - 4}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    (void)!socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    say(step, sendmsg(pair[0], &message, MSG_NOSIGNAL) == (ssize_t)strlen(text));
    say("received", recv(pair[1], got, sizeof got, 0) == (ssize_t)strlen(text) && !strcmp(got, text));
    close(pair[0]);
    close(pair[1]);
}

static void killed(void) {
    for (int number = 0; number < 100; number++) {
        pid_t pid = fork();
        if (pid == 0)
            for (poll(NULL, 0, 0);;) getppid();
        nanosleep(&(struct timespec){0, 50000 * number}, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

static void serve(void) {
    struct sigaction action = {.sa_handler = handler};
    struct pollfd waiting = {pipes[0], POLLIN, 0};
    sigaction(SIGTERM, &action, NULL);
    poll(&waiting, 1, 200);
    if (caught == SIGTERM) say("unlink", unlink("there-is-none"));
}

int main(int count, char **steps) {
    char byte;
    (void)!pipe(pipes);
    for (int place = 1; place < count; place++) {
        const char *step = steps[place];
        if (!strcmp(step, "socket")) say(step, socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? -1 : 0);
        else if (!strcmp(step, "poll")) polled();
        else if (!strcmp(step, "epoll")) epolled();
        else if (!strcmp(step, "sigsuspend")) suspend();
        else if (!strcmp(step, "pselect")) selected();
        else if (!strcmp(step, "accept")) accepted();
        else if (!strcmp(step, "thread")) pthread_create(&thread, NULL, threaded, NULL);
        else if (!strcmp(step, "wake")) { (void)!write(pipes[1], "x", 1); pthread_join(thread, NULL); }
        else if (!strcmp(step, "spin")) { pthread_create(&thread, NULL, spinning, NULL); while (!spins); }
        else if (!strcmp(step, "go")) { spins = 0; pthread_join(thread, NULL); }
        else if (!strcmp(step, "stay")) { if (pipe(knocks) || pipe(back)) say(step, -1); pthread_create(&thread, NULL, staying, NULL); }
        else if (!strcmp(step, "knock") || !strcmp(step, "nap")) { (void)!write(knocks[1], step, 1); (void)!read(back[0], &byte, 1); }
        else if (!strcmp(step, "status")) status();
        else if (!strcmp(step, "wait")) say(step, read(0, &byte, 1));
        else if (!strcmp(step, "enter")) say(step, callfence_enter("serving"));
        else if (!strcmp(step, "serve")) serve();
        else if (!strcmp(step, "killed")) killed();
        else if (!strcmp(step, "traceme")) say(step, ptrace(PTRACE_TRACEME, 0, 0, 0));
        else if (!strcmp(step, "hide")) say(step, prctl(PR_SET_DUMPABLE, 0));
        else if (!strcmp(step, "show")) say(step, prctl(PR_SET_DUMPABLE, 1));
        else if (!strcmp(step, "exec")) { steps[place] = steps[0]; execv(steps[0], steps + place); say(step, -1); }
        else if (!strcmp(step, "daemon")) { if (daemon(1, 1)) say(step, -1); }
        else if (!strcmp(step, "notify")) sends(step, "STATUS=up\nREADY=1\n");
        else if (!strcmp(step, "say")) sends(step, "STATUS=READY=1\nREADY=10");
        else if (!strcmp(step, "write")) { (void)!write(2, "READY=1\n", 8); }
        else if (!strcmp(step, "fork") || !strcmp(step, "untraced")) {
            int ended;
            if (*step == 'f' ? fork() : syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0)) { wait(&ended); say("child", ended); return 0; }
        }
    }
    return 5;
}
