/* Adds two numbers, later by code that it makes. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(void)
{
    int sum = 1 + 2;
#ifdef AFTER
    static const unsigned char add[] = {0x8d, 0x04, 0x37, 0xc3}; /* lea (%rdi,%rsi,1),%eax; ret */
    void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return 1;
    memcpy(code, add, sizeof add);
    sum = ((int (*)(int, int))code)(1, 2);
#endif
    return printf("%d\n", sum) < 0;
}
