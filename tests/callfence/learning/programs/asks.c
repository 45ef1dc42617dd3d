/* Sends a byte by UDP to port 53 of this machine: `asks sendto|sendmsg|sendmmsg`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int main(int count, char **words)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct iovec byte = { "x", 1 };
	struct mmsghdr message = {
		.msg_hdr = { .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &byte, .msg_iovlen = 1 }
	};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (count != 2)
		return 2;
	if (!strcmp(words[1], "sendto"))
		return sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) != 1;
	if (!strcmp(words[1], "sendmsg"))
		return sendmsg(fd, &message.msg_hdr, 0) != 1;
	return sendmmsg(fd, &message, 1, 0) != 1;
}
