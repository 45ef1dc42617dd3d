/* A thread that clone(2) reports to a tracer as a fork, since its flags have SIGCHLD, makes ./made once its process has waited
   in poll. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int waited;
static char stack[1 << 16] __attribute__((aligned(16)));

static int work(void *nothing)
{
	(void)nothing;
	while (!waited)
		;
	syscall(SYS_mkdirat, AT_FDCWD, "made", 0700);
	syscall(SYS_exit, 0);
	return 0;
}

int main(void)
{
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

	if (clone(work, stack + sizeof(stack), flags | SIGCHLD, NULL) < 0)
		return 1;
	poll(NULL, 0, 50);
	waited = 1;
	while (access("made", F_OK))
		;
	return 0;
}
