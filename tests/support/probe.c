/* Makes system calls under a filter and tells what became of them.
 *
 * Standard input, repeated until its end: the number of instructions (32 bits), the instructions, the number of calls
 * (32 bits), the calls (struct call).  Each call is made by a child of its own under that filter.  Standard output, a
 * line for each: errno of installing the filter, whether the call returned, what (rax), whether SIGSYS was handled,
 * the signal that ended the child.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct call {
	uint32_t i386;
	uint32_t number;
	uint64_t arguments[6];
};

static volatile struct {
	int error, returned, handled;
	int64_t result;
} *shared;

static void handle(int number)
{
	(void)number;
	shared->handled = 1;
	__builtin_trap();
}

static int64_t make(const struct call *call)
{
	const uint64_t *a = call->arguments;
#ifdef __aarch64__
	register uint64_t x0 asm("x0") = a[0], x1 asm("x1") = a[1], x2 asm("x2") = a[2], x3 asm("x3") = a[3];
	register uint64_t x4 asm("x4") = a[4], x5 asm("x5") = a[5], x8 asm("x8") = call->number;

	asm volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8) : "memory");
	return x0;
#else
	uint64_t result = call->number;
	register uint64_t fourth asm("r10") = a[3];
	register uint64_t fifth asm("r8") = a[4];
	register uint64_t sixth asm("r9") = a[5];

	if (call->i386)
		asm volatile("push %%rbp; mov %[sixth], %%rbp; int $0x80; pop %%rbp"
			     : "+a"(result)
			     : "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]), [sixth] "r"(sixth)
			     : "memory");
	else
		asm volatile("syscall"
			     : "+a"(result)
			     : "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(fourth), "r"(fifth), "r"(sixth)
			     : "rcx", "r11", "memory");
	return result;
#endif
}

static void child(struct sock_fprog *program, const struct call *call)
{
	signal(SIGSYS, handle);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program)) {
		shared->error = errno;
	} else {
		shared->result = make(call);
		shared->returned = 1;
	}
	__builtin_trap(); /* an exit is a call too */
}

static uint32_t count(void)
{
	uint32_t number;

	if (fread(&number, sizeof number, 1, stdin) != 1)
		exit(0);
	return number;
}

int main(void)
{
	static struct sock_filter instructions[1 << 16];
	const struct rlimit none = { 0, 0 };
	struct call call;

	setrlimit(RLIMIT_CORE, &none);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (;;) {
		struct sock_fprog program = { count(), instructions };

		if (fread(instructions, sizeof *instructions, program.len, stdin) != program.len)
			return 1;
		for (uint32_t calls = count(); calls > 0; calls--) {
			int status;
			pid_t pid;

			if (fread(&call, sizeof call, 1, stdin) != 1)
				return 1;
			shared->error = shared->returned = shared->handled = shared->result = 0;
			fflush(stdout);
			pid = fork();
			if (pid == 0)
				child(&program, &call);
			waitpid(pid, &status, 0);
			printf("%d %d %lld %d %d\n", shared->error, shared->returned, (long long)shared->result,
			       shared->handled, WTERMSIG(status));
		}
	}
}
