/* callfence-run [-s SOCKET] [OPTION OF enforce ...] PROGRAM [ARGUMENT ...]: become PROGRAM, confined by its policy.
 *
 * `callfence spawn` listens at SOCKET; default: $CALLFENCE_SPAWN, else $XDG_RUNTIME_DIR/callfence/spawn.
 *
 *     cc -O2 -o callfence-run callfence-run.c
 */
#define _GNU_SOURCE
#include "callfence_spawn.h"

extern char **environ;

int main(int count, char **words)
{
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)], error[8192];
    const char *named = getenv("CALLFENCE_SPAWN"), *runtime = getenv("XDG_RUNTIME_DIR");
    int first = count > 2 && !strcmp(words[1], "-s") ? 3 : 1, status = 125;
    if (first == 3)
        named = words[2];
    int length = named && *named ? snprintf(path, sizeof path, "%s", named)
                                 : snprintf(path, sizeof path, "%s/callfence/spawn", runtime ? runtime : "");
    if (length >= (int)sizeof path)
        snprintf(error, sizeof error, "the path of the socket is too long");
    else
        status = callfence_spawn(path, words + first, environ, error, sizeof error);
    dprintf(STDERR_FILENO, "callfence-run: %s\n", error);
    return status;
}
