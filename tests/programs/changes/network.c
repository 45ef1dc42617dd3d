/* Prints a note; later it also sends it to a peer. */
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
    puts("a note");
#ifdef AFTER
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
    if (connect(fd, (struct sockaddr *)&peer, sizeof peer) == 0)
        return 1; /* nothing listens there */
    send(fd, "a note\n", 7, MSG_NOSIGNAL);
    close(fd);
#endif
    return 0;
}
