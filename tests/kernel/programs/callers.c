/* Calls libc in ways that differ in how deep its wrapper is: each function is who made its call. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALONE __attribute__((noinline, noclone))

ALONE void directly(void) { mkdir("/sys/nonexistent/directly", 0700); }
ALONE void by_a_stream(void) { FILE *file = fopen("/sys/nonexistent/stream", "r+"); if (file) fclose(file); }
ALONE void by_a_folder(void) { DIR *folder = opendir("/sys/nonexistent/folder"); if (folder) closedir(folder); }
ALONE void by_a_command(void) { if (system("exec 2>/dev/null /sys/nonexistent/command") < 0) abort(); }
ALONE void by_printing(void) { printf("%d\n", 1); fflush(stdout); }

int main(void)
{
    directly();
    by_a_stream();
    by_a_folder();
    by_a_command();
    by_printing();
    return 0;
}
