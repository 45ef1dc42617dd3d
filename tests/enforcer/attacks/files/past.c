// Ways past Landlock, each by a raw call with arguments for which the kernel itself has another error: `past WAY ...`.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static long way(const char *name)
{
	unsigned char memory[256] = { 3 }; // struct open_how: flags 3

#ifdef SYS_open
	if (!strcmp(name, "open")) return syscall(SYS_open, "/dev/full", 3);
#endif
	if (!strcmp(name, "openat")) return syscall(SYS_openat, AT_FDCWD, "/dev/full", 3 | O_CLOEXEC);
	if (!strcmp(name, "handle")) return syscall(SYS_open_by_handle_at, -1, memory, 3);
	if (!strcmp(name, "path")) return syscall(SYS_openat, AT_FDCWD, "/dev/full", 3 | O_PATH);
	if (!strcmp(name, "openat2")) return syscall(SYS_openat2, AT_FDCWD, "/dev/full", memory, 24);
	if (!strcmp(name, "fsopen")) return syscall(SYS_fsopen, "ext4", 99);
	if (!strcmp(name, "fsconfig")) return syscall(SYS_fsconfig, -1, 6, 0, 0, 0); // FSCONFIG_CMD_CREATE
	if (!strcmp(name, "ring")) return syscall(SYS_io_uring_setup, 0, memory);
	if (!strcmp(name, "subvolume")) return syscall(SYS_ioctl, -1, 0x5000940e, memory); // BTRFS_IOC_SUBVOL_CREATE
	if (!strcmp(name, "device")) return syscall(SYS_ioctl, -1, 0x5000940a, memory); // BTRFS_IOC_ADD_DEV
	if (!strcmp(name, "replace")) return syscall(SYS_ioctl, -1, 0xca289435, memory); // BTRFS_IOC_DEV_REPLACE
	if (!strcmp(name, "reflink")) return syscall(SYS_ioctl, -1, 0x40049409, -1); // FICLONE
	if (!strcmp(name, "smc")) return syscall(SYS_socket, 43, 99, 0);
	if (!strcmp(name, "rds")) return syscall(SYS_socket, 21, 99, 0);
	if (!strcmp(name, "mptcp")) return syscall(SYS_socket, 2, 99, 262);
	if (!strcmp(name, "mptcp6")) return syscall(SYS_socket, 10, 99, 262);
	if (!strcmp(name, "inet-smc")) return syscall(SYS_socket, 10, 99, 256);
	if (!strcmp(name, "ulp")) return syscall(SYS_setsockopt, -1, 6, 31, "smc", 4);
	if (!strcmp(name, "sendto")) return syscall(SYS_sendto, -1, "x", 1, MSG_FASTOPEN, 0, 0);
	if (!strcmp(name, "sendmsg")) return syscall(SYS_sendmsg, -1, memory, MSG_FASTOPEN);
	if (!strcmp(name, "sendmmsg")) return syscall(SYS_sendmmsg, -1, memory, 1, MSG_FASTOPEN);
	if (!strcmp(name, "tcp")) return syscall(SYS_socket, 2, 99, 6);
	if (!strcmp(name, "unix")) return syscall(SYS_socket, 1, 1, 0);
	if (!strcmp(name, "option")) return syscall(SYS_setsockopt, -1, 1, 31, "smc", 4);
	errno = 0;
	return -1;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		printf("%s\n", way(argv[i]) < 0 ? strerrorname_np(errno) : "ok");
	return 0;
}
