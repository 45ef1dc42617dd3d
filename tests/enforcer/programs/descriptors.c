/* Writes into the file argv[1] which descriptors were open at the start. */
#include <fcntl.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    char open_[64];
    (void)argc;
    for (int fd = 0; fd < 64; fd++)
        open_[fd] = fcntl(fd, F_GETFD) >= 0;
    FILE *file = fopen(argv[1], "w");
    for (int fd = 0; fd < 64; fd++)
        if (open_[fd])
            fprintf(file, "%d\n", fd);
    return 0;
}
