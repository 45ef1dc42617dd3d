/* A thread with descriptors of its own listens on, and connects, a TCP socket without a port, while the process's first thread has
 * a unix socket of that number: `table [another]`.  It prints whether the sockets listen, and both calls' results. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { PLACE = 100, FORBIDDEN = 9 };

static const char *is_listening(void)
{
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(PLACE, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value ? "listens" : "does not";
}

static const char *said(int result) { return result ? strerrorname_np(errno) : "done"; }

static void *work(void *_)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(FORBIDDEN), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (unshare(CLONE_FILES))
        perror("unshare");
    dup2(socket(AF_INET, SOCK_STREAM, 0), PLACE);
    printf("listen %s ", said(listen(PLACE, 1)));
    printf("%s ", is_listening());
    printf("connect %s ", said(connect(PLACE, (struct sockaddr *)&to, sizeof to)));
    return _;
}

int main(int argc, char **argv)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    pthread_t thread;
    if (argc > 1 && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
        return 2;
    snprintf(name.sun_path + 1, 40, "table%d", getpid());
    dup2(socket(AF_UNIX, SOCK_STREAM, 0), PLACE);
    bind(PLACE, (struct sockaddr *)&name, sizeof name);
    pthread_create(&thread, 0, work, 0);
    pthread_join(thread, 0);
    puts(is_listening());
    return 0;
}
