/* A program that fits seed.policy, the strings of the 2011 seccomp_filter proposal: no libc, hence no other call.

   seed           writes to fd 0, which must be open for writing, and exits 0
   seed read      then also reads from fd 2, which the policy allows
   seed stdout    then also writes to fd 1, which the policy denies
   seed getpid    then also makes a call that the policy does not list
   Exit status 1: a call of the policy failed.  x86_64 and aarch64. */

#ifdef __aarch64__
static long call(long number, long a, long b, long c) {
    register long x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c, x8 __asm__("x8") = number;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x8) : "memory");
    return x0;
}

enum { READ = 63, WRITE = 64, GETPID = 172, EXIT_GROUP = 94 }; /* asm-generic/unistd.h */
#define MOVE_STACK "mov x0, sp\n\tbl start"
#else
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

enum { READ = 0, WRITE = 1, GETPID = 39, EXIT_GROUP = 231 }; /* asm/unistd_64.h */
#define MOVE_STACK "mov %rsp, %rdi\n\tcall start"
#endif

static const char facts[] = "seed writes to fd 0\n"
                            "learn must find: write: fd == 0\n"
                            "learn must refuse: getpid()\n"
                            "learn must refuse: mmap()\n";
static const char denied[] = "seed writes to fd 1\n";

__attribute__((used, noreturn)) static void start(long *stack) {
    const char *option = stack[0] > 1 ? (const char *)stack[2] : "";
    char byte;
    long failed = call(WRITE, 0, (long)facts, sizeof facts - 1) != sizeof facts - 1;

    if (option[0] == 'r')
        failed |= call(READ, 2, (long)&byte, 1) < 0;
    if (option[0] == 's')
        failed |= call(WRITE, 1, (long)denied, sizeof denied - 1) < 0;
    if (option[0] == 'g')
        failed |= call(GETPID, 0, 0, 0) < 0;
    for (;;)
        call(EXIT_GROUP, failed, 0, 0);
}

/* The kernel's entry: the stack pointer is at argc, 16-byte aligned (System V ABI, 3.4.1). */
__asm__(".globl _start\n_start:\n\t" MOVE_STACK "\n");
