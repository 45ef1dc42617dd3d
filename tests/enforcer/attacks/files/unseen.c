/* Opens a file into whose process nobody of its user may look. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>

int main(int argc, char **argv)
{
    prctl(PR_SET_DUMPABLE, 0);
    if (open(argv[1], O_RDONLY) < 0)
        perror("open");
    return argc;
}
