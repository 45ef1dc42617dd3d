/* Calls the functions of the C library that have a system call of their own on some architectures and not on others.  It changes
   nothing but files in its working folder, and ends with 0; a function that fails is none of its business. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

extern char **environ;

static void *waits(void *nothing) {
    usleep(1000);
    return nothing;
}

static void on_alarm(int number) { (void)number; }

static void files(void) {
    struct stat status;
    struct utimbuf times = {1, 2};
    struct timeval both[2] = {{1, 2}, {3, 4}};
    char text[64];
    int fd = creat("made", 0600);
    write(fd, "x", 1);
    close(fd);
    fd = open("made", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    stat("made", &status);
    lstat("made", &status);
    fstat(fd, &status);
    access("made", R_OK);
    utime("made", &times);
    utimes("made", both);
    chmod("made", 0640);
    chown("made", getuid(), getgid());
    lchown("made", getuid(), getgid());
    truncate("made", 1);
    close(fd);
    link("made", "hard");
    symlink("made", "soft");
    readlink("soft", text, sizeof text);
    rename("hard", "moved");
    unlink("moved");
    unlink("soft");
    mkfifo("fifo", 0600);
    unlink("fifo");
    mkdir("folder", 0700);
    DIR *folder = opendir("folder");
    while (readdir(folder) != NULL) {
    }
    closedir(folder);
    rmdir("folder");
    remove("made");
    FILE *temporary = tmpfile();
    if (temporary != NULL)
        fclose(temporary);
}

static void descriptors(void) {
    int ends[2], fd = -1;
    char text[8];
    fd_set set;
    struct timeval soon = {0, 1000};
    struct epoll_event event = {.events = EPOLLIN};
    sigset_t signals;
    pipe(ends);
    dup2(ends[0], 20);
    dup2(ends[0], ends[0]);
    write(ends[1], "x", 1);
    struct pollfd polled = {ends[0], POLLIN, 0};
    poll(&polled, 1, 10);
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    select(ends[0] + 1, &set, NULL, NULL, &soon);
    fd = epoll_create(8);
    epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &event);
    epoll_wait(fd, &event, 1, 10);
    read(ends[0], text, sizeof text);
    close(fd);
    close(eventfd(0, 0));
    close(inotify_init());
    sigemptyset(&signals);
    close(signalfd(-1, &signals, 0));
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    send(pair[0], "x", 1, 0);
    recv(pair[1], text, sizeof text, 0);
}

static void processes(void) {
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    child = vfork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    char *words[] = {"true", NULL};
    if (posix_spawnp(&child, "true", NULL, NULL, words, environ) == 0)
        waitpid(child, NULL, 0);
    system("true");
    pthread_t thread;
    pthread_create(&thread, NULL, waits, NULL);
    pthread_join(thread, NULL);
    getpgrp();
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGALRM, on_alarm);
    alarm(1);
    pause();
}

int main(void) {
    time_t now = time(NULL);
    struct timeval day;
    gettimeofday(&day, NULL);
    printf("%d\n", now > 0);
    files();
    descriptors();
    processes();
    return 0;
}
