// What a call costs under filters: filter_cost CALL COUNT [FILTER ...] prints the nanoseconds of one round of CALL in the
// fastest of BATCHES batches of COUNT, so that what interrupts the others does not count.
// A FILTER is a file of struct sock_filter; they are installed in that order.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 200 };

static int word, file;
static char byte;

static long getppid_(void) { return syscall(SYS_getppid); }
static long read_(void) { return syscall(SYS_read, file, &byte, 1L); }
static long lseek_(void) { return syscall(SYS_lseek, file, 0L, SEEK_CUR); }
static long futex_(void) { return syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }
static long openat_(void) { return close((int)syscall(SYS_openat, AT_FDCWD, "/dev/zero", O_RDONLY | O_CLOEXEC, 0)); }

static const struct {
    const char *name;
    long (*call)(void);
} calls[] = {
    {"getppid", getppid_}, {"read", read_}, {"lseek", lseek_}, {"futex", futex_}, {"openat+close", openat_},
};

static void refuse(const char *what) {
    perror(what);
    exit(1);
}

static void install(const char *path) {
    static struct sock_filter instructions[BPF_MAXINSNS];
    int descriptor = open(path, O_RDONLY);
    ssize_t size = read(descriptor, instructions, sizeof instructions);
    if (size <= 0)
        refuse(path);
    close(descriptor);
    struct sock_fprog program = {(unsigned short)(size / (ssize_t)sizeof *instructions), instructions};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        refuse("seccomp");
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count < 3)
        return 2;
    file = open("/dev/zero", O_RDONLY);
    long (*call)(void) = NULL;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(arguments[1], calls[i].name))
            call = calls[i].call;
    if (!call)
        return 2;
    long rounds = atol(arguments[2]);
    for (int i = 3; i < count; i++)
        install(arguments[i]);
    if (call() < 0)
        refuse(arguments[1]);
    double least = 1e18;
    for (int batch = 0; batch < BATCHES; batch++) {
        double start = now();
        for (long i = 0; i < rounds; i++)
            call();
        double spent = now() - start;
        least = spent < least ? spent : least;
    }
    char text[32];
    int length = snprintf(text, sizeof text, "%.3f\n", least / (double)rounds);
    if (write(1, text, (size_t)length) != length)
        return 1;
    _exit(0);
}
