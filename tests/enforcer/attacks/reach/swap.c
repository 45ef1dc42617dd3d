/* listen(2) on a descriptor that is a unix socket when the helper looks, and a TCP socket without a port when the kernel does:
 * `swap WHO ROUNDS`.  Who swaps: a thread, a process with the same table of descriptors, or a chain of such processes, each of
 * which starts the next one and ends, beside others that make listing all slow.  It prints how many calls let the TCP socket
 * listen. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PLACE = 100, OTHERS = 100, SWAPS = 10 };
static int unix_socket, tcp_socket;
static volatile int *ended;

static void *swap(void *_)
{
    while (!*ended) {
        dup2(unix_socket, PLACE);
        dup2(tcp_socket, PLACE);
    }
    return _;
}

static void chain(void)
{
    do
        for (int i = 0; i < SWAPS; i++) {
            dup2(unix_socket, PLACE);
            dup2(tcp_socket, PLACE);
        }
    while (!*ended && syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) == 0);
    _exit(0);
}

static int is_listening(int fd)
{
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value;
}

int main(int argc, char **argv)
{
    int rounds = atoi(argv[2]), listening = 0, answered = 0;
    pthread_t thread;
    pid_t child = 0;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    ended = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc > 3 && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
        return 2;
    unix_socket = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(name.sun_path + 1, 40, "swap%d", getpid());
    bind(unix_socket, (struct sockaddr *)&name, sizeof name);
    tcp_socket = socket(AF_INET, SOCK_STREAM, 0);
    dup2(unix_socket, PLACE);
    if (strcmp(argv[1], "thread") == 0)
        pthread_create(&thread, 0, swap, 0);
    else if (strcmp(argv[1], "process") == 0) {
        child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            swap(0);
            _exit(0);
        }
    }
    else if (strcmp(argv[1], "chain") == 0) {
        signal(SIGCHLD, SIG_IGN);
        for (int i = 0; i < OTHERS; i++)
            if (fork() == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                while (!*ended)
                    sleep(1);
                _exit(0);
            }
        if (syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) == 0)
            chain();
    }
    for (int i = 0; i < rounds; i++) {
        answered += listen(PLACE, 1) == 0;
        if (is_listening(tcp_socket)) {
            listening++;
            dup2(unix_socket, tcp_socket); /* ends it, once it is closed at PLACE too */
            close(tcp_socket);
            tcp_socket = socket(AF_INET, SOCK_STREAM, 0);
        }
    }
    *ended = 1;
    if (child)
        waitpid(child, 0, 0);
    printf("listening %d answered %d\n", listening, answered > 0);
    return 0;
}
