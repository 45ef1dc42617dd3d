/* Every way into the kernel: printed, to be compared. */
#include "check.h"
#include <sys/utsname.h>

#ifdef __x86_64__
static long int80(long number, long first) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(first) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static void mixed(void) {
    for (int i = 0; i < 50; i++) {
        CHECK(int80(20, 0) == getpid());                    /* i386's getpid */
        CHECK(int80(6, -1) == -EBADF);                      /* i386's close */
        CHECK((int)int80(60, 022) == 022 || i == 0);        /* i386's umask; x86_64's exit */
        CHECK(syscall(SYS_getuid) == getuid());
    }
}

static void vsyscall(void) {
    int (*gettimeofday_at)(struct timeval *, void *) = (void *)0xffffffffff600000;
    struct timeval now = {0};
    signal(SIGSEGV, exit); /* where there is none */
    CHECK(gettimeofday_at(&now, NULL) == 0 && labs(now.tv_sec - time(NULL)) <= 1); /* time(2) lags behind */
}
#else
static void mixed(void) { CHECK(syscall(SYS_getpid) == getpid()); }
static void vsyscall(void) {}
#endif

static void odd_numbers(void) {
    static const long numbers[] = {-1, 1000, 100000, 0x40000000 + SYS_getpid, 0x40000000 + 512, 0x7fffffff, 0x80000000};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        errno = 0;
        long result = syscall(numbers[i], -1, -1, -1, -1, -1, -1);
        printf("%#lx %d %d\n", numbers[i], result == getpid() ? 0 : (int)result, errno);
    }
}

static void clocks(void) {
    struct timespec first, second;
    struct timeval day;
    clock_gettime(CLOCK_MONOTONIC, &first);
    pause_ms(20);
    clock_gettime(CLOCK_MONOTONIC, &second);
    gettimeofday(&day, NULL);
    CHECK((second.tv_sec - first.tv_sec) * 1000000000 + second.tv_nsec - first.tv_nsec >= 20000000);
    CHECK(day.tv_sec - time(NULL) <= 1 && sched_getcpu() >= 0); /* time(2) is that of the last tick */
}

MAIN({"mixed", mixed}, {"vsyscall", vsyscall}, {"odd_numbers", odd_numbers}, {"clocks", clocks})
