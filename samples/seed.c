/* A program that fits seed.policy, the strings of the 2011 seccomp_filter proposal: no libc, hence no other call.

   seed           writes to fd 0, which must be open for writing, and exits 0
   seed read      then also reads from fd 2, which the policy allows
   seed stdout    then also writes to fd 1, which the policy denies
   seed getpid    then also makes a call that the policy does not list
   Exit status 1: a call of the policy failed.  x86_64 only. */

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

enum { READ = 0, WRITE = 1, GETPID = 39, EXIT_GROUP = 231 }; /* asm/unistd_64.h */

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
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tcall start\n");
