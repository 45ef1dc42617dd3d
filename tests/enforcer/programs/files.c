/* Does one thing after another with files and ports, and prints what came of each: `files OPERATION:PATH[,PATH] ...`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int opened(const char *path, int flags)
{
	int fd = open(path, flags, 0600);
	char byte;

	if (fd < 0)
		return -1;
	if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_DIRECTORY) && read(fd, &byte, 1) < 0)
		return -1;
	return close(fd);
}

static int at_port(int type, int do_bind, const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, type, 0), one = 1, result;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	result = (do_bind ? bind : connect)(fd, (struct sockaddr *)&address, sizeof(address));
	int error = errno;
	close(fd);
	errno = error;
	return result;
}

static int fast_open(const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&address, sizeof(address));
}

static int abstract(const char *name, int is_own)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), own = socket(AF_UNIX, SOCK_STREAM, 0);
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);

	strncpy(address.sun_path + 1, name, sizeof(address.sun_path) - 2);
	if (is_own && (bind(own, (struct sockaddr *)&address, length) || listen(own, 1)))
		return -1;
	return connect(fd, (struct sockaddr *)&address, length);
}

static int unix_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	return connect(fd, (struct sockaddr *)&address, sizeof(address));
}

static int named(const char *folder, const char *path)
{
	char link[64];
	int fd = open(folder, O_WRONLY | O_TMPFILE, 0600);

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return fd < 0 ? -1 : linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

static int used(int fd)
{
	char byte;

	return read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1 ? 0 : -1;
}

static int unix_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	return bind(fd, (struct sockaddr *)&address, sizeof(address));
}

static void *reads(void *path) { return (void *)(long)(opened(path, O_RDONLY) < 0 ? errno : 0); }

static int in_thread(const char *path)
{
	pthread_t thread;
	void *number = NULL;
	if (pthread_create(&thread, NULL, reads, (void *)path) || pthread_join(thread, &number))
		return -1;
	errno = (int)(long)number;
	return errno ? -1 : 0;
}

/* Both ends of a new terminal, as openpty(3) opens them. */
static int terminal(const char *path)
{
	int unlocked = 0, one = open(path, O_RDWR | O_NOCTTY);
	return one < 0 || ioctl(one, TIOCSPTLCK, &unlocked) || ioctl(one, TIOCGPTPEER, O_RDWR | O_NOCTTY) < 0 ? -1 : 0;
}

static int executed(const char *path)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		execl(path, path, "nothing", NULL);
		_exit(errno);
	}
	waitpid(child, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

static int leased(const char *path)
{
	signal(SIGIO, SIG_IGN);
	return fcntl(open(path, O_RDWR), F_SETLEASE, F_WRLCK);
}

static const char *volatile no_path;

static int unended(const char *path)
{
	size_t size = getpagesize();
	char *page = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(page + size, size);
	return open(memcpy(page + size - strlen(path), path, strlen(path)), O_RDONLY);
}

static int fexecuted(int fd)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		fexecve(fd, (char *[]){ "files", "nothing", NULL }, (char *[]){ NULL });
		_exit(errno);
	}
	waitpid(child, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

static int script(const char *interpreter)
{
	int fd = memfd_create("script", 0);

	dprintf(fd, "#!%s\n", interpreter);
	return fexecuted(fd);
}

static int by_handle(const char *path)
{
	struct { struct file_handle head; char rest[MAX_HANDLE_SZ]; } handle = { .head.handle_bytes = MAX_HANDLE_SZ };
	int mount;

	if (name_to_handle_at(AT_FDCWD, path, &handle.head, &mount, 0))
		return -1;
	return open_by_handle_at(AT_FDCWD, &handle.head, O_RDONLY);
}

static int done(const char *what, const char *path, const char *other)
{
	if (!strcmp(what, "nothing")) return 0;
	if (!strcmp(what, "read")) return opened(path, O_RDONLY);
	if (!strcmp(what, "list")) return opened(path, O_RDONLY | O_DIRECTORY);
	if (!strcmp(what, "write")) return opened(path, O_WRONLY);
	if (!strcmp(what, "open-truncate")) return opened(path, O_WRONLY | O_TRUNC);
	if (!strcmp(what, "truncate")) return truncate(path, 0);
	if (!strcmp(what, "create")) return opened(path, O_WRONLY | O_CREAT | O_EXCL);
	if (!strcmp(what, "mkdir")) return mkdir(path, 0700);
	if (!strcmp(what, "rmdir")) return rmdir(path);
	if (!strcmp(what, "unlink")) return unlink(path);
	if (!strcmp(what, "symlink")) return symlink("x", path);
	if (!strcmp(what, "fifo")) return mkfifo(path, 0600);
	if (!strcmp(what, "device")) return mknod(path, S_IFCHR | 0600, makedev(1, 3));
	if (!strcmp(what, "socket")) return unix_socket(path);
	if (!strcmp(what, "execute")) return executed(path);
	if (!strcmp(what, "stat")) { struct stat status; return stat(path, &status); }
	if (!strcmp(what, "chmod")) return chmod(path, 0640);
	if (!strcmp(what, "chroot")) return chroot(path);
	if (!strcmp(what, "rename")) return rename(path, other);
	if (!strcmp(what, "link")) return link(path, other);
	if (!strcmp(what, "connect")) return at_port(SOCK_STREAM, 0, path);
	if (!strcmp(what, "bind")) return at_port(SOCK_STREAM, 1, path);
	if (!strcmp(what, "udp")) return at_port(SOCK_DGRAM, 0, path);
	if (!strcmp(what, "fast-open")) return fast_open(path);
	if (!strcmp(what, "protocol")) return socket(AF_INET, SOCK_STREAM, atoi(path));
	if (!strcmp(what, "abstract")) return abstract(path, 0);
	if (!strcmp(what, "own-abstract")) return abstract(path, 1);
	if (!strcmp(what, "unix-connect")) return unix_connect(path);
	if (!strcmp(what, "descriptor")) return used(atoi(path));
	if (!strcmp(what, "lease")) return leased(path);
	if (!strcmp(what, "no-path")) return open(no_path, O_RDONLY) + rename(no_path, path);
	if (!strcmp(what, "unended")) return unended(path);
	if (!strcmp(what, "fexecve")) return fexecuted(open(path, O_PATH));
	if (!strcmp(what, "script")) return script(path);
	if (!strcmp(what, "handle")) return by_handle(path);
	if (!strcmp(what, "account")) return acct(path);
	if (!strcmp(what, "swap")) return swapon(path, 0);
	if (!strcmp(what, "exchange")) return renameat2(AT_FDCWD, path, AT_FDCWD, other, 2);
	if (!strcmp(what, "named")) return named(path, other);
	if (!strcmp(what, "in-thread")) return in_thread(path);
	if (!strcmp(what, "terminal")) return terminal(path);
	if (!strcmp(what, "temporary")) return opened(path, O_WRONLY | O_TMPFILE);
	errno = EINVAL;
	return -1;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char *path = strchr(argv[i], ':'), *other = NULL;

		if (path)
			*path++ = 0;
		if (path && (other = strchr(path, ',')))
			*other++ = 0;
		errno = 0;
		int result = done(argv[i], path, other);
		printf("%s\n", result < 0 ? strerrorname_np(errno) : "ok");
		fflush(stdout);
	}
	return 0;
}
