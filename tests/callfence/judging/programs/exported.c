/* With LIBRARY, a library that exports a function, which makes one call; without, a program that uses the library. */
#include <sys/syscall.h>
#include <unistd.h>

long exported_getppid(void);

#ifdef LIBRARY
long exported_getppid(void)
{
    return syscall(SYS_getppid) + 1; /* the addition keeps this frame: no jump to syscall() */
}
#else
int main(void)
{
    return exported_getppid() < 1;
}
#endif
