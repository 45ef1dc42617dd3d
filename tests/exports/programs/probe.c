/* Makes the calls that its arguments say, and prints what the kernel answers: `probe NUMBER[,ARGUMENT...] ...`.
 * `probe wait` sleeps until it is killed, so that its filters can be read. Without a C library's calls it needs only
 * write, exit_group, and, to wait, pause. */
#include <sys/syscall.h>

static long call(long number, const long *a)
{
	register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static long number(const char **text)
{
	long value = 0, sign = 1;

	if (**text == '-') {
		sign = -1;
		++*text;
	}
	while (**text >= '0' && **text <= '9')
		value = value * 10 + *(*text)++ - '0';
	return sign * value;
}

static void print(long value)
{
	char digits[24], *end = digits + sizeof digits, *start = end;
	unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;

	*--start = '\n';
	do
		*--start = (char)('0' + rest % 10);
	while (rest /= 10);
	if (value < 0)
		*--start = '-';
	call(SYS_write, (const long[6]){1, (long)start, end - start});
}

/* entry() has the stack as the kernel leaves it: argc, then argv (execve(2)) */
__attribute__((used)) static void run(const long *stack)
{
	const char **argv = (const char **)(stack + 1);

	for (long i = 1; i < stack[0]; i++) {
		const char *text = argv[i];
		long arguments[6] = {0}, which;

		if (*text == 'w')
			for (;;)
				call(SYS_pause, arguments);
		which = number(&text);
		for (int n = 0; *text == ',' && n < 6; n++) {
			++text;
			arguments[n] = number(&text);
		}
		print(call(which, arguments));
	}
	call(SYS_exit_group, (const long[6]){0});
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n");
