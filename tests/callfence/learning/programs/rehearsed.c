/* Does what its argument says where a file cannot be opened, which happens in rehearsed runs alone. */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void on_signal(int number)
{
    (void)number;
    getppid();
}

static void fill(void)
{
    static char block[1 << 16];
    int file = open("big", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while (write(file, block, sizeof block) > 0)
        ;
    for (;;)
        pause();
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "catch")) {
        signal(SIGTERM, on_signal);
        usleep(1000);
        return 0;
    }
    if (!strcmp(what, "reads"))
        return read(0, &count, 1) != 1;
    if (open("/etc/passwd", O_RDONLY) >= 0)
        return 0;
    if (!strcmp(what, "hang"))
        for (;;)
            pause();
    if (!strcmp(what, "spin"))
        for (;;)
            getppid();
    if (!strcmp(what, "daemon") && fork() == 0) {
        setsid();
        for (;;)
            sleep(1);
    }
    if (!strcmp(what, "debugger"))
        execl("/bin/echo", "echo", "a debugger", (char *)NULL);
    if (!strcmp(what, "fill"))
        fill();
    if (!strcmp(what, "leaves"))
        return creat("left", 0600) < 0;
    return 1;
}
