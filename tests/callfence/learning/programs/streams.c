/* Appends a line to ./log: what each standard stream is, and what polling the input and writing to the others gives; whether it
 * leads a session, and has a terminal. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    char line[4096] = "", link[256], name[32];
    signal(SIGPIPE, SIG_IGN);
    for (int number = 0; number < 3; number++) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        int result;
        snprintf(name, sizeof name, "/proc/self/fd/%d", number);
        ssize_t length = readlink(name, link, sizeof link - 1);
        strcpy(link + (length < 0 ? 0 : length), length < 0 ? "closed" : "");
        if (number == 0)
            result = poll(&input, 1, 0) < 0 ? -errno : input.revents;
        else
            result = write(number, "x", 1) < 0 ? -errno : 0;
        snprintf(line + strlen(line), sizeof line - strlen(line), "%s %d, ", link, result);
    }
    int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    const char *leads = getsid(0) == getpid() ? "leads" : "follows";
    snprintf(line + strlen(line), sizeof line - strlen(line), "%s, %s\n", leads, terminal < 0 ? "no terminal" : "a terminal");
    int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);
    return write(log, line, strlen(line)) < 0;
}
