/* Preloaded: before the entry point of the program, does what $EARLY says: starts a thread, forks, vforks, executes, clones
   where no tracer sees it, takes a breakpoint out, ends, waits, sends itself a signal. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <stdlib.h>
#include <unistd.h>

static void handler(int number)
{
    if (number == SIGUSR1)
        (void)!write(1, "handled\n", 8);
}

static void *idle(void *_)
{
    (void)_;
    pause();
    return 0;
}

__attribute__((constructor)) static void early(void)
{
    const char *what = getenv("EARLY");
    pthread_t thread;
    if (!what)
        return;
    if (*what == 't')
        pthread_create(&thread, 0, idle, 0);
    else if (*what == 'f') {
        if (fork() == 0)
            _exit(0);
    } else if (*what == 'v') {
        if (vfork() == 0)
            _exit(0);
    } else if (*what == 'x') {
        unsetenv("EARLY");
        execl("/bin/echo", "echo", "executed", (char *)0);
    } else if (*what == 'u') {
        if (syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0) == 0) {
            write(1, "unconfined\n", 11);
            _exit(0);
        }
    } else if (*what == 'b') {
        unsigned char *entry = (unsigned char *)getauxval(AT_ENTRY);
        if (*entry == 0xcc && mprotect((void *)((uintptr_t)entry & ~4095ul), 8192, PROT_READ | PROT_WRITE | PROT_EXEC) == 0)
            *entry = 0xf3; /* endbr64, or xor of the start files: the program goes on either way */
        printf("%s", *entry == 0xcc ? "breakpoint\n" : "");
        fflush(stdout);
    } else if (*what == 's') {
        signal(SIGUSR1, handler);
        raise(SIGUSR1);
    } else if (*what == 'e') {
        write(1, "unconfined\n", 11);
        _exit(0);
    } else if (*what == 'w') {
        wait(0);
        write(1, "unconfined\n", 11);
    }
}
