/* Makes exactly the system calls it is told, and prints each result: calls NAME[,ARGUMENT...] ...
 *
 * NAME is one of those below, or a number; other words mean nothing.
 *
 * No libc and no start-up code, so besides those it makes write and exit_group, and read where told to wait:
 * `wait` reads a byte from standard input, `i20` makes call 20 by int 0x80, `9xclose,1` makes a call nine times.
 */
#include <sys/syscall.h>

#ifndef SYS_mmap
#define SYS_mmap SYS_mmap2
#endif
#ifndef SYS_poll
#define SYS_poll SYS_ppoll /* whose time, in milliseconds here, too, is behind a pointer there */
#endif
#define CALL(name) {#name, SYS_##name}
static const struct { const char *name; int number; } calls[] = {
    CALL(bind), CALL(clone3), CALL(close), CALL(close_range), CALL(fcntl), CALL(getgid), CALL(getpid), CALL(getppid), CALL(getpriority),
    CALL(getuid), CALL(ioctl), CALL(kill), CALL(listen), CALL(mmap), CALL(mprotect), CALL(poll), CALL(ptrace),
    CALL(sendfile), CALL(setsockopt), CALL(socket), CALL(wait4), CALL(write),
};

#if defined(__i386__)
enum { READ = 3, WRITE = 4, EXIT_GROUP = 252 };
__asm__(".globl _start\n_start: mov %esp, %eax\n push %eax\n call start\n");
#elif defined(__arm__)
enum { READ = 3, WRITE = 4, EXIT_GROUP = 248 };
__asm__(".syntax unified\n .thumb\n .globl _start\n .thumb_func\n_start: mov r0, sp\n bl start\n");
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, EXIT_GROUP = 94 };
__asm__(".globl _start\n_start: mov x0, sp\n bl start\n");
#else
enum { READ = 0, WRITE = 1, EXIT_GROUP = 231 };
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#endif

#ifdef __aarch64__
static long call(const long *a)
{
    long time[2] = {a[3] / 1000, a[3] % 1000 * 1000000}, wait[7] = {a[0], a[1], a[2], (long)time, 0, 0, 0};
    a = a[0] == SYS_ppoll ? wait : a;
    register long x0 __asm__("x0") = a[1], x1 __asm__("x1") = a[2], x2 __asm__("x2") = a[3], x3 __asm__("x3") = a[4];
    register long x4 __asm__("x4") = a[5], x5 __asm__("x5") = a[6], x8 __asm__("x8") = a[0];
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8) : "memory");
    return x0;
}

#elif defined(__arm__)
static long call(const long *a) /* r7 is the frame pointer of Thumb code */
{
    register long r0 __asm__("r0") = a[1], r1 __asm__("r1") = a[2], r2 __asm__("r2") = a[3], r3 __asm__("r3") = a[4];
    register long r4 __asm__("r4") = a[5], r5 __asm__("r5") = a[6];
    __asm__ volatile("push {r7}\n mov r7, %[number]\n svc #0\n pop {r7}"
                     : "+r"(r0) : "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5), [number] "r"(a[0]) : "memory");
    return r0;
}
#endif

#if defined(__aarch64__) || defined(__arm__)
static long compat(const long *a) /* there is no such call */
{
    (void)a;
    return -38;
}
#else
static long compat(const long *a)
{
    long result;
#if defined(__i386__)
    __asm__ volatile("push %%ebp\n push %%ebx\n mov 4(%1), %%ebx\n mov 8(%1), %%ecx\n mov 12(%1), %%edx\n"
                     "mov 20(%1), %%edi\n mov 24(%1), %%ebp\n mov (%1), %%eax\n mov 16(%1), %%esi\n"
                     "int $0x80\n pop %%ebx\n pop %%ebp"
                     : "=a"(result) : "S"(a) : "ecx", "edx", "edi", "memory");
#else
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(a[0]), "b"(a[1]), "c"(a[2]), "d"(a[3]), "S"(a[4]), "D"(a[5])
                     : "r8", "r9", "r10", "r11", "memory");
#endif
    return result;
}

static long call(const long *a)
{
#if defined(__i386__)
    return compat(a);
#else
    long result;
    register long r10 __asm__("r10") = a[4], r8 __asm__("r8") = a[5], r9 __asm__("r9") = a[6];
    __asm__ volatile("syscall" : "=a"(result) : "a"(a[0]), "D"(a[1]), "S"(a[2]), "d"(a[3]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#endif
}
#endif

static long number(const char **text)
{
    int negative = **text == '-';
    unsigned long value = 0;
    *text += negative;
    for (; **text >= '0' && **text <= '9'; ++*text)
        value = 10 * value + (**text - '0');
    return negative ? -(long)value : (long)value;
}

static long named(const char **text)
{
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
        int length = 0;
        while (calls[i].name[length] && calls[i].name[length] == (*text)[length])
            length++;
        if (!calls[i].name[length] && (!(*text)[length] || (*text)[length] == ',')) {
            *text += length;
            return calls[i].number;
        }
    }
    return number(text);
}

static void print(long value)
{
    char text[24];
    int place = sizeof text;
    unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;
    text[--place] = '\n';
    do
        text[--place] = '0' + rest % 10;
    while (rest /= 10);
    if (value < 0)
        text[--place] = '-';
    call((long[7]){WRITE, 1, (long)(text + place), sizeof text - place});
}

__attribute__((used)) void start(long *stack)
{
    for (char **argument = (char **)stack + 2; *argument; argument++) {
        const char *text = *argument, *first;
        long a[7] = {0}, times = 1;
        if (text[0] == 'w' && text[1] == 'a' && text[2] == 'i' && text[3] == 't' && !text[4]) {
            char byte;
            call((long[7]){READ, 0, (long)&byte, 1});
            continue;
        }
        int by_interrupt = text[0] == 'i' && text[1] >= '0' && text[1] <= '9';
        first = text += by_interrupt;
        a[0] = named(&text);
        if (text == first || *first == '-')
            continue;
        if (*text == 'x') {
            text++;
            times = a[0];
            a[0] = named(&text);
        }
        for (int i = 1; *text == ',' && i < 7; i++) {
            text++;
            a[i] = number(&text);
        }
        while (times--)
            print(by_interrupt ? compat(a) : call(a));
    }
    call((long[7]){EXIT_GROUP, 9});
}
