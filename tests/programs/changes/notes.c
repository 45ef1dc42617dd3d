/* Prints a note that it keeps in memory for a while: what differs is the libc, or the malloc, that it is linked with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    for (size_t size = 16; size <= 4 << 20; size *= 2) {
        char *note = malloc(size);
        if (!note)
            return 1;
        memset(note, 'n', size);
        note = realloc(note, 2 * size);
        if (!note || note[size - 1] != 'n')
            return 1;
        free(note);
    }
    puts("a note");
    return 0;
}
