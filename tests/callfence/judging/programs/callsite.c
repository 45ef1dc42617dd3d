/* Makes one call, from a function that nothing exports. */
#include <sys/syscall.h>

static __attribute__((noinline)) long calls_getppid(void)
{
    long result;
#if defined(__aarch64__)
    register long x0 __asm__("x0"), x8 __asm__("x8") = SYS_getppid;
    __asm__ volatile("svc #0" : "=r"(x0) : "r"(x8) : "memory");
    result = x0;
#elif defined(__i386__)
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(SYS_getppid) : "memory");
#else
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_getppid) : "rcx", "r11", "memory");
#endif
    return result;
}

int main(void)
{
    return calls_getppid() < 0;
}
