/* fetch COUNT URL...: getaddrinfo and connect, http:// alone; for musl. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int get(const char *url)
{
    char host[256], path[256] = "", port[16] = "80", text[65536];
    size_t size = 0;
    ssize_t part;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *one;
    int fd = -1, error;
    struct timeval limit = {20, 0};

    if (sscanf(url, "http://%255[^:/]:%15[0-9]/%255s", host, port, path) < 2)
        sscanf(url, "http://%255[^/]/%255s", host, path);
    if ((error = getaddrinfo(host, port, &hints, &found))) {
        printf("failed %s\n", gai_strerror(error));
        return 1;
    }
    for (one = found; one && fd < 0; one = one->ai_next) {
        fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (connect(fd, one->ai_addr, one->ai_addrlen)) {
            printf("(connect) ");
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    if (fd < 0) {
        printf("failed\n");
        return 1;
    }
    dprintf(fd, "GET /%s HTTP/1.0\r\nHost: %s\r\n\r\n", path, host);
    while (size < sizeof text - 1 && (part = read(fd, text + size, sizeof text - 1 - size)) > 0)
        size += part;
    text[size] = 0;
    close(fd);
    char *body = strstr(text, "\r\n\r\n");
    printf("got %s", body ? body + 4 : "nothing\n");
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 0; i < atoi(argv[1]); i++)
        get(argv[2 + i % (argc - 2)]);
    return 0;
}
