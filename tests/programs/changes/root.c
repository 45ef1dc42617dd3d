/* Prints a note; later it gives up root for that, if it is root. */
#define _GNU_SOURCE
#include <grp.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
#ifdef AFTER
    int dropped = setgroups(0, NULL) == 0 && setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0;
    if (geteuid() == 0 || (dropped && geteuid() != 65534))
        return 1;
#endif
    puts("a note");
    return 0;
}
