/* A library that a program needs, and that has turned hostile: when the program has done its work and exits, it does what the
   environment variable ATTACK names.  `none`, or no ATTACK: nothing.  TARGET is the process, or the TCP port, that is attacked.

   It prints `attack NAME: tried`, then `attack NAME: done` or the error.  What has an effect outside is judged by that effect
   (attacks.py), not by what is printed here. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

__asm__(".section .rodata\n.global dropped, dropped_end\ndropped: .incbin \"dropped\"\ndropped_end:\n.text");
extern const char dropped[], dropped_end[];

static int target(void) { return atoi(getenv("TARGET")); }

static const char *in_home(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", getenv("HOME"), name);
    return path;
}

static long send_word(int family, void *address, socklen_t size) {
    int one = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (one == -1 || connect(one, address, size) == -1)
        return -1;
    return write(one, "attack", 6);
}

static long read_key(void) {
    char key[256];
    int file = open(in_home(".ssh/id_ed25519"), O_RDONLY | O_CLOEXEC);
    long size = file == -1 ? -1 : read(file, key, sizeof key);
    return size == -1 ? -1 : write(2, key, (size_t)size);
}

static long write_outside(void) {
    int file = open(in_home(".bashrc"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    return file == -1 ? -1 : write(file, "attack\n", 7);
}

static long connect_port(void) {
    struct sockaddr_in address = {AF_INET, htons((unsigned short)target()), {htonl(INADDR_LOOPBACK)}, {0}};
    return send_word(AF_INET, &address, sizeof address);
}

static long connect_abstract(void) {
    struct sockaddr_un address = {AF_UNIX, "\0callfence-comparison"};
    return send_word(AF_UNIX, &address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address.sun_path + 1));
}

static long trace(void) { return ptrace(PTRACE_SEIZE, target(), 0, 0); }

static long end(void) { return kill(target(), SIGKILL); }

static long execute(void) {
    int status, file = open("dropped", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    if (file == -1 || write(file, dropped, (size_t)(dropped_end - dropped)) == -1 || close(file) == -1)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        execl("dropped", "dropped", NULL);
        _exit(errno);
    }
    if (child == -1 || waitpid(child, &status, 0) == -1)
        return -1;
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    return errno ? -1 : 0;
}

static long uring(void) {
    struct io_uring_params parameters = {0};
    return syscall(SYS_io_uring_setup, 4, &parameters);
}

/* By clone: unshare(2) refuses a program with threads. */
static long user_namespace(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        syscall(SYS_exit_group, 0);
    return child == -1 ? -1 : waitpid((pid_t)child, NULL, 0);
}

static long add_key(void) { return syscall(SYS_add_key, "user", "callfence-comparison", "x", 1, -3 /* KEY_SPEC_SESSION_KEYRING */); }

static const struct {
    const char *name;
    long (*act)(void);
} ATTACKS[] = {
    {"read-key", read_key}, {"write-outside", write_outside}, {"connect", connect_port}, {"abstract-socket", connect_abstract},
    {"ptrace", trace},      {"kill", end},                    {"execute", execute},      {"io_uring", uring},
    {"user-namespace", user_namespace},                       {"add-key", add_key},
};

__attribute__((destructor)) static void at_exit(void) {
    const char *name = getenv("ATTACK");
    if (!name)
        return;
    dprintf(2, "attack %s: tried\n", name);
    for (size_t i = 0; i < sizeof ATTACKS / sizeof *ATTACKS; i++)
        if (strcmp(name, ATTACKS[i].name) == 0)
            dprintf(2, "attack %s: %s\n", name, ATTACKS[i].act() == -1 ? strerror(errno) : "done");
}
