// Ways to serve without the phase, to survive a kill, or to hold up the helper: `ways WAY`.  `late` is a socket that only the start
// may make, `never` a link that no phase may.  Whoever gets that far prints RAN, or SURVIVED after a call that the policy kills for.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "callfence.h"

static int queue;
static volatile int *shared;  // with processes too
static char stack[1 << 16], stack2[1 << 16];

static void say(const char *text) { write(1, text, strlen(text)); }

// Until the other process says so, or has gone.
static int goes_on(void)
{
    return !shared[1] && getppid() == shared[2];
}

static int serve(void)
{
    struct epoll_event event;
    return epoll_wait(queue, &event, 1, 1);  // the trigger
}

static int late(void)
{
    int made = syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0), failed = made < 0, number = errno;
    if (!failed) close(made);
    say(failed ? number == ENOSYS ? "late: unanswered\n" : "late: denied\n" : "late: RAN\n");
    return failed;
}

static int never(void)
{
    int failed = symlink("x", "never"), number = errno;
    say(failed ? number == EACCES ? "never: denied\n" : "never: SURVIVED\n" : "never: RAN\n");
    return failed;
}

static void spin(long turns) { for (volatile long turn = 0; turn < turns; turn++); }

static pthread_t thread(void *(*work)(void *))
{
    pthread_t made;
    if (pthread_create(&made, 0, work, 0)) say("no thread\n");
    return made;
}

static int ended(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR);
    return status;
}

static long own_filter(const int *numbers, int count, unsigned answer, int flags)
{
    struct sock_filter code[64];
    int size = 0;
    code[size++] = (struct sock_filter){BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)};
    for (int i = 0; i < count; i++) {
        code[size++] = (struct sock_filter){BPF_JMP | BPF_JEQ | BPF_K, 0, 1, numbers[i]};
        code[size++] = (struct sock_filter){BPF_RET | BPF_K, 0, 0, answer};
    }
    code[size++] = (struct sock_filter){BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
    struct sock_fprog program = {size, code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

// The kill

static int flip(void *unused)  // shares the table of handlers, and serves already: nothing stops its calls
{
    serve();
    shared[0] = 1;
    while (goes_on()) {
        signal(SIGSYS, SIG_IGN);
        spin(200);
        signal(SIGSYS, SIG_DFL);
        spin(200);
    }
    _exit(0);
}

static int handlers(void)
{
    for (int round = 0; round < 20; round++) {
        shared[0] = shared[1] = 0;
        pid_t victim = fork();
        if (!victim) {
            shared[2] = getpid();
            clone(flip, stack + sizeof stack, CLONE_VM | CLONE_SIGHAND | SIGCHLD, 0);
            while (!shared[0]);
            never();
            serve();
            late();
            shared[1] = 1;
            _exit(0);
        }
        ended(victim);
        shared[1] = 1;
    }
    return 0;
}

// The filter in memory: where the kernel maps it is known but for its number of pages

static char *end;
static struct { struct sock_fprog program; struct sock_filter code[1]; } all = {{1, 0}, {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}}};

static char *at(int pages)
{
    char *place = end - getpagesize() * pages;
    all.program.filter = (void *)(place + sizeof all.program);
    return place;
}

static void look_for_the_place(void)
{
    char *place = mmap(0, getpagesize(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(place, getpagesize());
    end = place + getpagesize();
}

static void enter_and_wait(pid_t other)
{
    while (!shared[0]);
    serve();
    shared[1] = 1;
    late();
    ended(other);
}

static int overwrite(void)
{
    look_for_the_place();
    int memory = open("/proc/self/mem", O_RDWR);
    pid_t other = fork();
    if (!other) {
        serve();
        shared[0] = 1;
        while (goes_on())
            for (int pages = 1; pages < 5; pages++) {
                char *place = at(pages);
                pwrite(memory, &all, sizeof all, (off_t)place);
            }
        _exit(0);
    }
    enter_and_wait(other);
    return 0;
}

static int overwrite_shared(void *unused)
{
    serve();
    shared[0] = 1;
    while (goes_on())
        for (int pages = 1; pages < 5; pages++) {
            char *place = at(pages);
            if (!mprotect(place, getpagesize(), PROT_READ | PROT_WRITE)) memcpy(place, &all, sizeof all);
        }
    _exit(0);
}

static int memory(void)
{
    look_for_the_place();
    enter_and_wait(clone(overwrite_shared, stack + sizeof stack, CLONE_VM | SIGCHLD, 0));
    return 0;
}

static int stays(void *unused)  // what the process in its last phase writes into the common memory, this one would do
{
    while (!shared[0] && goes_on());
    late();
    _exit(0);
}

static int behind(void)
{
    pid_t other = clone(stays, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
    serve();
    shared[0] = 1;
    ended(other);
    late();
    return 0;
}

// Threads

static char stacks[8][1 << 14], orphans[50][1 << 14];

static int stays_asleep(void *unused)
{
    while (!shared[0] && goes_on()) usleep(500);
    late();
    _exit(0);
}

static void *bears(void *unused)
{
    for (int i = 0; i < 8; i++) {
        shared[3] = i;
        clone(stays_asleep, stacks[i] + sizeof stacks[i], CLONE_VM | SIGCHLD, 0);
    }
    return 0;
}

static int born(void)  // the helper hears of some of these processes after this thread has entered the phase
{
    thread(bears);
    while (shared[3] < getpid() % 6);
    serve();
    usleep(20000);
    shared[0] = 1;
    while (waitpid(-1, 0, __WALL) > 0);
    late();
    return 0;
}

static int ends_all(void *unused)
{
    while (!shared[1]);
    spin(shared[2]);
    syscall(SYS_exit_group, 0);
    return 0;
}

static int waits_alone(void *unused)
{
    for (int i = 0; !shared[0] && i < 4000; i++) usleep(1000);
    late();
    _exit(0);
}

static int bears_as_it_ends(void *unused)
{
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    clone(ends_all, stack2 + sizeof stack2, flags, 0);
    shared[1] = 1;
    clone(waits_alone, orphans[shared[3]] + sizeof orphans[0], CLONE_VM | SIGCHLD, 0);
    syscall(SYS_exit_group, 0);
    return 0;
}

static int orphaned(void)  // nobody tells the helper who started some of these processes, with the memory of this one
{
    for (; shared[3] < 50; shared[3]++) {
        shared[1] = 0, shared[2] = shared[3] * 400;
        waitpid(clone(bears_as_it_ends, stack + sizeof stack, CLONE_VM | SIGCHLD, 0), 0, 0);
        usleep(300);
    }
    serve();
    usleep(20000);
    shared[0] = 1;
    usleep(100000);
    late();
    return 0;
}

static void *after_the_first(void *unused)
{
    usleep(20000);
    serve();
    late();
    exit_group_now: syscall(SYS_exit_group, 0);
    return 0;
}

static int leader(void)
{
    thread(after_the_first);
    syscall(SYS_exit, 0);
    return 0;
}

static void *executes(void *unused)
{
    serve();
    execl("/proc/self/exe", "ways", "late", NULL);
    say("not executed\n");
    return 0;
}

static int replaced(void)
{
    struct epoll_event event;
    thread(executes);
    int other = epoll_create1(0);
    syscall(SYS_epoll_pwait, other, &event, 1, -1, 0, 8);  // is not interrupted by the helper
    return 1;
}

// Own filters

static int listener(void)
{
    int numbers[] = {SYS_mmap, SYS_close_range};
    own_filter(numbers, 2, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    serve();
    late();
    return 0;
}

static int forbidding(void)
{
    int numbers[] = {SYS_close_range};
    own_filter(numbers, 1, SECCOMP_RET_KILL_PROCESS, 0);
    serve();
    late();
    return 0;
}

static void stdin_that_can_be_waited_for(void)  // what the helper would take for its listener
{
    int ends[2];
    if (!pipe(ends)) dup2(ends[0], 0);
}

static int faking(void)  // its own filter says that ours is installed, and its groups hide how many it has
{
    static gid_t groups[65536];
    int numbers[] = {SYS_seccomp};
    for (int i = 0; i < 65536; i++) groups[i] = 4000000000u + i;
    if (syscall(SYS_setgroups, 65536, groups)) say("no groups\n");
    stdin_that_can_be_waited_for();
    own_filter(numbers, 1, SECCOMP_RET_ERRNO, 0);
    serve();
    late();
    return 0;
}

static char *held;  // memory that does not answer until another process has it

static void *installs(void *unused)
{
    shared[3] = 1;
    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, held);
    return unused;
}

static int counted(void)  // its own filter says that ours is installed, while another thread installs one
{
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, SYS_seccomp},
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args[1])},
        {BPF_JMP | BPF_JSET | BPF_K, 0, 1, SECCOMP_FILTER_FLAG_TSYNC_ESRCH},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    static char page[4096];
    struct sock_fprog program = {6, code}, second = {1, code + 5};
    int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    held = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register registered = {.range = {(long)held, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    memcpy(page, &second, sizeof second);
    if (ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &registered)) say("no userfaultfd\n");
    stdin_that_can_be_waited_for();
    pid_t victim = getpid(), other = fork();
    if (!other) {
        char name[64], text[512];
        serve();
        sprintf(name, "/proc/%d/syscall", victim);
        int calls = open(name, O_RDONLY), number;
        shared[0] = 1;
        while (!shared[4]);
        do {
            int size = pread(calls, text, sizeof text - 1, 0);
            text[size > 0 ? size : 0] = 0;
            number = atoi(text);
        } while (goes_on() && number != SYS_mmap && number != SYS_mprotect && number != SYS_seccomp);
        struct uffdio_copy copy = {.dst = (long)held, .src = (long)page, .len = sizeof page};
        ioctl(faults, UFFDIO_COPY, &copy);
        while (goes_on());
        _exit(0);
    }
    while (!shared[0]);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) say("no filter\n");
    thread(installs);
    while (!shared[3]);
    usleep(10000);
    shared[4] = 1;
    serve();
    shared[1] = 1;
    late();
    ended(other);
    return 0;
}

// Clones

static volatile struct clone_args args;
static void *toggle(void *unused)
{
    while (!shared[1]) { args.flags ^= CLONE_UNTRACED; spin(37); }
    return 0;
}

static int untraced(void)
{
    pthread_t other = thread(toggle);
    args.exit_signal = SIGCHLD;
    for (int round = 0; round < 200; round++) {
        spin(rand() % 997);
        pid_t child = syscall(SYS_clone3, &args, sizeof args);
        if (child < 0 && errno != ENOSYS) { say("clone3 failed\n"); break; }
        if (child < 0) continue;
        if (!child) { serve(); _exit(late() ? 1 : 42); }
        ended(child);
    }
    shared[1] = 1;
    pthread_join(other, 0);
    return 0;
}

// The secret

static int key(void)
{
    pid_t self = getpid();
    pid_t entering = fork();
    if (!entering) { while (!shared[0]); usleep(1000); serve(); _exit(0); }
    char name[64], text[512];
    sprintf(name, "/proc/%d/syscall", entering);
    pid_t looking = fork();
    if (!looking) {
        serve();
        int file = open(name, O_RDONLY);
        unsigned long *words = (unsigned long *)(shared + 16);
        shared[0] = 1;
        for (;;) {
            int size = pread(file, text, sizeof text - 1, 0);
            if (size <= 0) break;
            text[size] = 0;
            unsigned long number, a, b, c;
            if (sscanf(text, "%lu %lx %lx %lx %lx %lx %lx", &number, &a, &b, &c, words, words + 1, words + 2) == 7 && number == SYS_seccomp) {
                shared[1] = 1;
                break;
            }
        }
        _exit(0);
    }
    ended(entering);
    ended(looking);
    if (!shared[1]) { say("missed\n"); return 1; }
    unsigned long *words = (unsigned long *)(shared + 16);
    struct sock_filter all = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
    struct sock_fprog program = {1, &all};
    long done = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program, words[0], words[1], words[2]);
    say(done ? "no filter\n" : "filter\n");
    pid_t child = fork();
    if (!child) { serve(); late(); _exit(0); }
    ended(child);
    return 0;
}

static int plain(void)
{
    serve();
    late();
    return 0;
}

static const struct { const char *name; int (*run)(void); } WAYS[] = {
    {"plain", plain}, {"late", late}, {"never", never}, {"handlers", handlers}, {"overwrite", overwrite}, {"memory", memory}, {"behind", behind}, {"leader", leader},
    {"replaced", replaced}, {"listener", listener}, {"forbidding", forbidding}, {"untraced", untraced}, {"born", born}, {"orphaned", orphaned}, {"key", key}, {"faking", faking}, {"counted", counted},
};

int main(int count, char **words)
{
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    queue = epoll_create1(0);
    shared[2] = getpid();
    for (unsigned i = 0; i < sizeof WAYS / sizeof *WAYS; i++)
        if (count > 1 && !strcmp(words[1], WAYS[i].name)) return WAYS[i].run();
    return 99;
}
