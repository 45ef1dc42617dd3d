/* A server and its client in two processes: over loopback, over a socket in the file system, over a pair. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void client(int family, struct sockaddr *address, socklen_t size)
{
	char answer[64] = "";
	int fd = socket(family, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, address, size))
		_exit(1);
	if (send(fd, "hello", 5, MSG_NOSIGNAL) != 5 || shutdown(fd, SHUT_WR))
		_exit(2);
	struct pollfd ready = {fd, POLLIN, 0};
	if (poll(&ready, 1, 5000) != 1)
		_exit(3);
	if (recv(fd, answer, sizeof answer - 1, 0) != 11 || strcmp(answer, "hello there"))
		_exit(4);
	close(fd);
	_exit(0);
}

static int serve(int family, struct sockaddr *address, socklen_t size, int plain)
{
	char heard[64] = "";
	int status, on = 1, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || (family == AF_INET && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)))
		return 10;
	if (bind(fd, address, size) || listen(fd, 4) || getsockname(fd, address, &size))
		return 11;
	pid_t child = fork();
	if (child == 0)
		client(family, address, size);
	int peer = plain ? accept(fd, NULL, NULL) : accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (peer < 0)
		return 12;
	struct iovec part = {heard, sizeof heard - 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (recvmsg(peer, &message, 0) != 5)
		return 13;
	strcat(heard, " there");
	if (write(peer, heard, strlen(heard)) != 11)
		return 14;
	close(peer);
	close(fd);
	if (waitpid(child, &status, 0) != child)
		return 15;
	return WEXITSTATUS(status);
}

int main(void)
{
	struct sockaddr_in inet = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "socket"};
	int pair[2], result;
	char byte = 0;

	if ((result = serve(AF_INET, (struct sockaddr *)&inet, sizeof inet, 1)))
		return result;
	if ((result = serve(AF_UNIX, (struct sockaddr *)&local, sizeof local, 0)) || unlink("socket"))
		return 20 + result;
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) || send(pair[0], "x", 1, 0) != 1 || recv(pair[1], &byte, 1, 0) != 1)
		return 30;
	printf("served, %c\n", byte);
	return 0;
}
