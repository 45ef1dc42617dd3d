/* Talks to others: `talks WHAT ARGUMENT ...`.
 *
 *   tcp NAME PORT          looks NAME up, and connects to the first of its addresses that answers
 *   udp NAME PORT          connects by UDP, and sends
 *   send CALL ADDRESS PORT [PORT ...]   sends a datagram to each port: by sendto, sendmsg, one sendmmsg, or socketcall (i386)
 *   unix PATH              connects to a unix socket; @NAME is an abstract one
 *   gram PATH              sends to one
 *   threads NAME PORT      asks the name server itself in one thread, has another one wait for the answer, and connects
 *   twice COUNT WHAT ...   does the rest COUNT times
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static int named(int type, const char *name, const char *port)
{
	struct addrinfo hints = { .ai_socktype = type }, *found, *one;
	int result = 1;

	if (getaddrinfo(name, port, &hints, &found))
		return 1;
	for (one = found; one && result; one = one->ai_next) {
		int fd = socket(one->ai_family, one->ai_socktype, 0);

		result = connect(fd, one->ai_addr, one->ai_addrlen) != 0;
		if (!result && type == SOCK_DGRAM)
			result = send(fd, "x", 1, 0) != 1;
		close(fd);
	}
	freeaddrinfo(found);
	return result;
}

static int sends(const char *call, const char *address, int count, char **ports)
{
	struct iovec byte = { (void *)"x", 1 };
	struct sockaddr_in to[8];
	struct mmsghdr messages[8];
	int fd = socket(AF_INET, SOCK_DGRAM, 0), index, failed = 0;

	memset(messages, 0, sizeof(messages));
	for (index = 0; index < count; index++) {
		to[index] = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(atoi(ports[index])) };
		inet_pton(AF_INET, address, &to[index].sin_addr);
		messages[index].msg_hdr.msg_name = &to[index];
		messages[index].msg_hdr.msg_namelen = sizeof(to[index]);
		messages[index].msg_hdr.msg_iov = &byte;
		messages[index].msg_hdr.msg_iovlen = 1;
	}
	if (!strcmp(call, "sendmmsg"))
		return sendmmsg(fd, messages, count, 0) != count;
	for (index = 0; index < count; index++) {
		if (!strcmp(call, "sendto"))
			failed |= sendto(fd, "x", 1, 0, (struct sockaddr *)&to[index], sizeof(to[index])) != 1;
		else if (!strcmp(call, "sendmsg"))
			failed |= sendmsg(fd, &messages[index].msg_hdr, 0) != 1;
#ifdef SYS_socketcall
		else {
			unsigned long arguments[6] = { fd, (unsigned long)"x", 1, 0, (unsigned long)&to[index], sizeof(to[index]) };

			failed |= syscall(SYS_socketcall, 11, arguments) != 1; /* SYS_SENDTO */
		}
#endif
	}
	return failed;
}

static int to_unix(const char *name, int type)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + strlen(name) + (name[0] != '@');
	int fd = socket(AF_UNIX, type, 0), result;

	strcpy(to.sun_path, name);
	if (name[0] == '@')
		to.sun_path[0] = 0;
	if (type == SOCK_DGRAM)
		result = sendto(fd, "x", 1, 0, (struct sockaddr *)&to, length) == 1 ? 0 : errno;
	else
		result = connect(fd, (struct sockaddr *)&to, length) ? errno : 0;
	close(fd);
	if (result)
		printf("%s: %s\n", name, strerror(result));
	return 0;
}

static int asking, answered;
static unsigned char answer[512];

static void *wait_for_it(void *unused)
{
	struct epoll_event event = { .events = EPOLLIN };
	int queue = epoll_create1(0);

	epoll_ctl(queue, EPOLL_CTL_ADD, asking, &event);
	while (epoll_wait(queue, &event, 1, -1) != 1)
		;
	answered = read(asking, answer, sizeof(answer));
	close(queue);
	return unused;
}

static int by_threads(const char *name, int port)
{
	struct sockaddr_in server = { .sin_family = AF_INET, .sin_port = htons(53) };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	unsigned char query[256] = { 0x12, 0x34, 1, 0, 0, 1 };
	int length = 12, fd;
	pthread_t thread;

	while (*name) {
		int size = strcspn(name, ".");

		query[length++] = size;
		memcpy(query + length, name, size);
		length += size;
		name += size + (name[size] == '.');
	}
	memcpy(query + length, "\0\0\1\0\1", 5);
	length += 5;
	inet_pton(AF_INET, "127.0.0.53", &server.sin_addr);
	asking = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	pthread_create(&thread, NULL, wait_for_it, NULL);
	usleep(50000);
	if (connect(asking, (struct sockaddr *)&server, sizeof(server)) || send(asking, query, length, 0) != length)
		return 1;
	pthread_join(thread, NULL);
	close(asking);
	memcpy(&to.sin_addr, answer + answered - 4, 4);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return 1;
	return close(fd);
}

int main(int count, char **words)
{
	if (!strcmp(words[1], "twice")) {
		int left = atoi(words[2]), failed = 0;

		while (left--)
			failed |= main(count - 2, words + 2);
		return failed;
	}
	if (!strcmp(words[1], "tcp"))
		return named(SOCK_STREAM, words[2], words[3]);
	if (!strcmp(words[1], "udp"))
		return named(SOCK_DGRAM, words[2], words[3]);
	if (!strcmp(words[1], "send"))
		return sends(words[2], words[3], count - 4, words + 4);
	if (!strcmp(words[1], "unix"))
		return to_unix(words[2], SOCK_STREAM);
	if (!strcmp(words[1], "gram"))
		return to_unix(words[2], SOCK_DGRAM);
	return by_threads(words[2], atoi(words[3]));
}
