// A program with a filter and a listener of its own, on both of which its policy says nothing: each ioctl command of a supervisor.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_getppid},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_USER_NOTIF},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog program = {4, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    printf("listener %d\n", listener >= 0);
    unsigned long commands[] = {SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, SECCOMP_IOCTL_NOTIF_ID_VALID, 0x80082102,
                                SECCOMP_IOCTL_NOTIF_ADDFD, 0x40082104};
    for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
        char space[128] = "";
        errno = 0;
        if (i) ioctl(listener, commands[i], space);  // receiving would wait
        else ioctl(-1, commands[i], space);
        int wide = errno;
        errno = 0;
        if (i) syscall(SYS_ioctl, listener, commands[i] | 1UL << 40, space);
        printf("%#lx %s %s\n", commands[i], strerror(wide), i ? strerror(errno) : "-");
    }
    return 0;
}
