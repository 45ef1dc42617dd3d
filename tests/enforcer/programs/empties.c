/* With -DLIBRARY: a library whose constructor, which the dynamic loader runs before the program's entry point, empties a file.
   Without: a program of it, `empties FILE open|truncate`, which prints the errno with which that failed, or 0. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int empties_result(void);

#ifdef LIBRARY
static int result = -1;

__attribute__((constructor)) static void empty(int count, char **words)
{
    if (count < 3)
        return;
    if (!strcmp(words[2], "open"))
        result = open(words[1], O_RDONLY | O_TRUNC) < 0 ? errno : 0;
    else
        result = truncate(words[1], 0) ? errno : 0;
}

int empties_result(void)
{
    return result;
}
#else
int main(void)
{
    printf("%d\n", empties_result());
    return 0;
}
#endif
