// Disturbs the helper while it makes calls to peers that are allowed: `disturb MODE [COUNT]`, in the folder of network.py.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in to = {.sin_family = AF_INET};
static struct sockaddr_un full = {AF_UNIX, "full"};
static volatile int signals, waiting;

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void caught(int number) { signals++; }

static void catch(int number, int flags)
{
    struct sigaction action = {.sa_handler = caught, .sa_flags = flags};
    sigaction(number, &action, 0);
}

static void *urge(void *of)
{
    for (;;) {
        pthread_kill(*(pthread_t *)of, SIGURG);
        usleep(50);
    }
}

// Signals all the time: each datagram is to arrive once, and each call has to have its own result
static void storm(int count, int flags)
{
    int made = socket(AF_INET, SOCK_DGRAM, 0), wrong = 0, again = 0;
    struct itimerval often = {{0, 150}, {0, 150}};
    static pthread_t self; // the other thread goes on with it after this function
    pthread_t other;
    self = pthread_self();
    catch(SIGALRM, flags);
    catch(SIGURG, flags);
    pthread_create(&other, 0, urge, &self);
    setitimer(ITIMER_REAL, &often, 0);
    char text[64];
    struct iovec part = {text, 0};
    struct msghdr head = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &part, .msg_iovlen = 1};
    for (int number = 0; number < count; number++) {
        size_t length = snprintf(text, sizeof text, "<storm-%d>", number);
        part.iov_len = length;
        ssize_t result;
        while ((result = number % 2 ? sendmsg(made, &head, 0) : sendto(made, text, length, 0, (void *)&to, sizeof to)) < 0 && errno == EINTR) again++;
        wrong += result != (ssize_t)length;
        if (number % 10 == 0) {
            int stream = socket(AF_INET, SOCK_STREAM, 0);
            while ((result = connect(stream, (void *)&to, sizeof to)) < 0 && errno == EINTR) again++;
            wrong += result != 0 && errno != EISCONN && errno != EALREADY;
            close(stream);
        }
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, 0);
    printf("wrong %d disturbed %d\n", wrong, signals > 0);
    fprintf(stderr, "again %d signals %d\n", again, signals);
}

static void *connects(void *number)
{
    int made = (long)number % 2 ? socket(AF_UNIX, SOCK_STREAM, 0) : socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in busy = to;
    busy.sin_port = htons(7009);
    __sync_fetch_and_add(&waiting, 1);
    if ((long)number % 2) connect(made, (void *)&full, sizeof full);
    else connect(made, (void *)&busy, sizeof busy);
    __sync_fetch_and_sub(&waiting, 1);
    return 0;
}

static void pending(long count)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 15);
    for (long number = 0; number < count; number++) {
        pthread_t other;
        if (pthread_create(&other, &small, connects, (void *)number)) abort();
    }
    usleep(300000);
    double from = now();
    for (int number = 0; number < 100; number++) sendto(socket(AF_INET, SOCK_DGRAM, 0), "<pending>", 9, 0, (void *)&to, sizeof to);
    fprintf(stderr, "100 in %.3f s\n", now() - from);
    printf("most wait %d\n", waiting > count * 9 / 10);
    fflush(stdout);
    kill(getpid(), SIGKILL);
}

static void interrupted(int family, int flags)
{
    struct sockaddr_in busy = to;
    busy.sin_port = htons(7009);
    catch(SIGALRM, flags & SA_RESTART);
    for (int number = 0; number < 20; number++) {  // until its queue is full
        int made = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (family == AF_UNIX) connect(made, (void *)&full, sizeof full);
        else connect(made, (void *)&busy, sizeof busy);
    }
    int made = socket(family, SOCK_STREAM, 0);
    setitimer(ITIMER_REAL, &(struct itimerval){{0}, {0, 300000}}, 0);
    double from = now();
    struct timeval limit = {30, 0};
    if (flags) setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int result = family == AF_UNIX ? connect(made, (void *)&full, sizeof full) : connect(made, (void *)&busy, sizeof busy);
    printf("%s %s\n", result ? strerrorname_np(errno) : "done", now() - from < 15 ? "at once" : "late");
}

// One call, again and again, until it is told to end
static void steady(long count)
{
    for (long number = 0; number < count; number++) {
        char text[64];
        snprintf(text, sizeof text, "<steady-%ld>", number);
        int made = socket(AF_INET, SOCK_DGRAM, 0);
        if (sendto(made, text, strlen(text), 0, (void *)&to, sizeof to) < 0) printf("%s\n", strerrorname_np(errno));
        close(made);
        if (number == 10) { write(1, "begun\n", 6); }
        usleep(1000);
    }
    int stream = socket(AF_INET, SOCK_STREAM, 0);
    printf("%s\n", connect(stream, (void *)&to, sizeof to) ? strerrorname_np(errno) : "ended");
}

static int held;

static void *unblocks(void *unused)
{
    for (;;) fcntl(held, F_SETFL, 0);
}

// Has the helper block in a connection, by changing the flags of a socket; another process makes calls meanwhile
static void hold(int family)
{
    struct sockaddr_in busy = to;
    busy.sin_port = htons(7009);
    for (int number = 0; number < 20; number++) {
        int made = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (family == AF_UNIX) connect(made, (void *)&full, sizeof full);
        else connect(made, (void *)&busy, sizeof busy);
    }
    pid_t child = fork();
    if (!child) {
        pthread_t other;
        held = socket(family, SOCK_STREAM, 0);
        pthread_create(&other, 0, unblocks, 0);
        for (;;) {
            struct timeval limit = {0, 2000};
            int made = socket(family, SOCK_STREAM, 0);
            setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
            dup2(made, held);
            limit.tv_usec = 0;
            setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
            struct itimerval soon = {{0, 3000}, {0, 3000}};
            catch(SIGALRM, 0);
            setitimer(ITIMER_REAL, &soon, 0);
            if (family == AF_UNIX) connect(held, (void *)&full, sizeof full);
            else connect(held, (void *)&busy, sizeof busy);
            close(made);
        }
    }
    double most = 0;
    for (int number = 0; number < 200; number++) {
        double from = now();
        sendto(socket(AF_INET, SOCK_DGRAM, 0), "<hold>", 6, 0, (void *)&to, sizeof to);
        if (now() - from > most) most = now() - from;
        usleep(5000);
    }
    kill(child, SIGKILL);
    wait(0);
    printf("held up %d\n", most > 10); // without end, if the helper waited
    fprintf(stderr, "%.3f s\n", most);
}

static void late(void)  // a call that waits, while the helper is killed
{
    write(1, "begun\n", 6);
    interrupted(AF_INET, 0);
}

int main(int count, char **arguments)
{
    int number = count > 2 ? atoi(arguments[2]) : 0;
    to.sin_port = htons(7000);
    inet_pton(AF_INET, "10.77.0.1", &to.sin_addr);
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(arguments[1], "storm")) storm(number, 0);
    if (!strcmp(arguments[1], "restart")) storm(number, SA_RESTART);
    if (!strcmp(arguments[1], "pending")) pending(number);
    if (!strcmp(arguments[1], "interrupted")) interrupted(AF_INET, 0);
    if (!strcmp(arguments[1], "unix")) interrupted(AF_UNIX, 0);
    if (!strcmp(arguments[1], "limited")) interrupted(AF_INET, 1), interrupted(AF_UNIX, 1);
    if (!strcmp(arguments[1], "restarted")) interrupted(AF_INET, SA_RESTART), interrupted(AF_UNIX, SA_RESTART);
    if (!strcmp(arguments[1], "steady")) steady(number);
    if (!strcmp(arguments[1], "late")) late();
    if (!strcmp(arguments[1], "hold")) hold(AF_INET);
    if (!strcmp(arguments[1], "holdunix")) hold(AF_UNIX);
    return 0;
}
