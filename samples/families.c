/* Sockets of two families, with options of two levels: a policy must keep what belongs together together. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int option(int fd, int level, int name) {
    int on = 1;
    return setsockopt(fd, level, name, &on, sizeof on);
}

int main(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int stream = socket(AF_INET, SOCK_STREAM, 0), datagram = socket(AF_UNIX, SOCK_DGRAM, 0);

    if (stream < 0 || datagram < 0)
        return perror("socket"), 1;
    if (option(stream, SOL_SOCKET, SO_REUSEADDR) || option(stream, IPPROTO_TCP, TCP_NODELAY) ||
        option(datagram, SOL_SOCKET, SO_PASSCRED))
        return perror("setsockopt"), 1;
    if (bind(stream, (struct sockaddr *)&here, sizeof here) || listen(stream, 1))
        return perror("listen"), 1;
    close(stream);
    close(datagram);
    puts("learn must find: socket: family == AF_INET && type & 0xf == SOCK_STREAM\n"
         "learn must find: socket: family == AF_UNIX && type & 0xf == SOCK_DGRAM\n"
         "learn must find: setsockopt: level == SOL_SOCKET && optname == SO_REUSEADDR\n"
         "learn must find: setsockopt: level == SOL_TCP && optname in {TCP_NODELAY, TCP_CORK, TCP_QUICKACK}\n"
         "learn must find: setsockopt: level == SOL_SOCKET && optname == SO_PASSCRED\n"
         "learn must refuse: socket(family=AF_INET, type=SOCK_DGRAM)\n"
         "learn must refuse: socket(family=AF_UNIX, type=SOCK_STREAM)\n"
         "learn must refuse: socket(family=AF_INET6, type=SOCK_DGRAM)\n"
         "learn must refuse: socket(family=AF_INET, type=SOCK_RAW)\n"
         "learn must refuse: setsockopt(level=SOL_SOCKET, optname=SO_DEBUG)\n"
         "learn must refuse: connect()");
    return 0;
}
