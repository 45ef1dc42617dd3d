// A process has no free descriptor when it enters the phase; then it frees one, and has what a process in the phase has.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
static void tries(const char *when) {
    int may = socket(AF_UNIX, SOCK_STREAM, 0) >= 0 || errno == EMFILE;
    printf("%s: %s, free %d\n", when, may ? "may" : "may not", dup(0));
    fflush(stdout);
}
int main(void) {
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){32, 32});
    while (dup(0) >= 0);
    tries("start");
    poll(0, 0, 0);
    tries("serving");
    return 0;
}
