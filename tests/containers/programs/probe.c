/* Prints what becomes of some calls, one a line.  `probe kill` makes one that its policy knows nothing of, and `probe wait`
 * waits to be looked at. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void try(const char *name, long number, long a, long b, long c)
{
	long result = syscall(number, a, b, c);
	const char *said = result >= 0 ? "ok" : strerrorname_np(errno);

	dprintf(1, "%s %s\n", name, said);
}

int main(int argc, char **argv)
{
	try("by name", SYS_getppid, 0, 0, 0);
	try("by argument", SYS_socket, AF_UNIX, SOCK_STREAM, 0);
	try("upper half ignored", SYS_socket, AF_UNIX | 1L << 40, SOCK_STREAM, 0);
	if (argc > 1 && !strcmp(argv[1], "kill"))
		try("not reached", SYS_getpgid, 0, 0, 0);
	try("in order", SYS_lseek, 0, -5, 99);
	try("by range", SYS_setfsuid, 5, 0, 0);
	if (argc > 1 && !strcmp(argv[1], "wait"))
		pause();
	try("denied by name", SYS_getpgid, 0, 0, 0);
	try("denied by argument", SYS_socket, AF_INET, SOCK_STREAM, 0);
	try("denied by range", SYS_setfsuid, 6, 0, 0);
	try("denied by the kernel", SYS_setpriority, 0, 0, 0);
	try("allowed by its exception", SYS_getpriority, 0, 0, 0);
	try("its exception", SYS_getpriority, 2, 0, 0);
	return 0;
}
