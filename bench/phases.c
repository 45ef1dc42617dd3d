/* phases CALLS: makes so many calls, waits for nothing, and ends; the call that waits is the trigger of a phase. */
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
    for (long left = count > 1 ? atol(words[1]) : 0; left; left--)
        syscall(SYS_getppid);
    poll(0, 0, 0);
    return 0;
}
