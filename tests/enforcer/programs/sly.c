/* Attacks that need no pid of the helper: `sly NAME`.  "survived" is what none may print: a denied call has returned. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long denied(void) { return syscall(SYS_getppid); }

static void say(const char *text) { write(1, text, strlen(text)); }

static void *deny_in_thread(void *_)
{
    denied();
    say("survived\n");
    return _;
}

static void *leave_group(void *_)
{
    syscall(SYS_exit_group, 0);
    return _;
}

static void exit_at_once(int _) { syscall(SYS_exit_group, 0 * _); }

/* Each file of a folder becomes something that never ends or never begins. */
static void spoil(const char *folder, const char *how)
{
    struct dirent *one;
    DIR *open_ = opendir(folder);
    if (!open_ || chdir(folder))
        exit(9);
    while ((one = readdir(open_)))
        if (one->d_name[0] != '.') {
            if (!strcmp(how, "sparse")) {
                truncate(one->d_name, 1L << 40);
                continue;
            }
            unlink(one->d_name);
            if (!strcmp(how, "fifo"))
                mkfifo(one->d_name, 0600);
            else if (!strcmp(how, "link"))
                symlink("/dev/zero", one->d_name);
            else
                mkdir(one->d_name, 0700);
        }
}

int main(int argc, char **argv)
{
    const char *name = argv[argc > 1];
    pthread_t thread;
    int status;
#define IS(what) (strcmp(name, what) == 0)
    if (IS("name")) { /* /proc/PID/status has the name before everything else */
        prctl(PR_SET_NAME, "\nTgid:\t1\n");
        denied();
        say("survived\n");
    } else if (IS("exec")) { /* the thread that makes the call goes in another one's execve */
        pthread_create(&thread, 0, deny_in_thread, 0);
        for (int i = atoi(argv[2]); i > 0; i--)
            sched_yield();
        execl(argv[0], argv[0], "after", (char *)0);
    } else if (IS("after")) {
        denied();
        say("survived\n");
    } else if (IS("children")) { /* the process that makes the call is killed by another one meanwhile */
        for (int i = 0; i < 100; i++) {
            pid_t child = fork();
            if (child == 0) {
                for (;;)
                    denied();
            }
            usleep(i * 40);
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            if (!WIFSIGNALED(status))
                return 8;
        }
        say("all killed\n");
    } else if (IS("log")) { /* the log's name becomes a FIFO that nobody reads, a device, a link to another file */
        denied();
        rename("log", "log.1");
        mkfifo("log", 0600);
        denied();
        unlink("log");
        symlink("victim", "log");
        syscall(SYS_getuid);
        say("done\n");
    } else if (IS("cache")) {
        spoil(argv[2], argv[3]);
    } else { /* ways to exit after a report was lost */
        denied();
        if (IS("exit"))
            syscall(SYS_exit, 0);
        if (IS("thread")) {
            pthread_create(&thread, 0, leave_group, 0);
            pause();
        }
        if (IS("again")) { /* in a handler, with a signal pending */
            signal(SIGALRM, exit_at_once);
            ualarm(1, 0);
            for (;;)
                ;
        }
        if (IS("traced")) { /* by a child, which keeps the helper from it */
            int ready[2], alive[2];
            char byte;
            pid_t program = getpid();
            pipe(ready);
            pipe(alive);
            prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
            if (fork() == 0) {
                alarm(20);
                ptrace(PTRACE_SEIZE, program, 0, 0);
                write(ready[1], "!", 1);
                close(alive[1]);
                read(alive[0], &byte, 1);
                _exit(0);
            }
            read(ready[0], &byte, 1);
            syscall(SYS_exit_group, 0);
        }
        if (IS("vfork")) {
            if (vfork() == 0)
                _exit(0);
            syscall(SYS_exit_group, 0);
        }
    }
    return 0;
}
