/* Prints a note; later it lets another program count its letters. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef AFTER
#include <spawn.h>
#endif

int main(void)
{
    puts("a note");
#ifdef AFTER
    pid_t child;
    int status;
    char *words[] = {"true", NULL}, *environment[] = {NULL};
    if (posix_spawn(&child, "/bin/true", NULL, NULL, words, environment) || waitpid(child, &status, 0) < 0)
        return 1;
#endif
    return 0;
}
