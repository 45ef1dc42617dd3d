/* Memory that is writable first and executable afterwards: a policy must never allow both at once. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(void) {
#ifdef __aarch64__
    static const unsigned char code[] = {0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6}; /* mov w0, #42; ret */
#else
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
#endif
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return perror("mmap"), 1;
    memcpy(page, code, sizeof code);
    __builtin___clear_cache(page, page + sizeof code);
    if (mprotect(page, 4096, PROT_READ | PROT_EXEC))
        return perror("mprotect"), 1;
    printf("the page answers %d\n", ((int (*)(void))(void *)page)());
    puts("learn must find: mprotect: prot == PROT_READ|PROT_EXEC\n"
         "learn must refuse: mprotect(prot=PROT_READ|PROT_WRITE|PROT_EXEC)\n"
         "learn must refuse: mprotect(prot=PROT_WRITE|PROT_EXEC)\n"
         "learn must refuse: mmap(prot=PROT_READ|PROT_WRITE|PROT_EXEC, flags=MAP_PRIVATE|MAP_ANONYMOUS)\n"
         "learn must refuse: mmap(prot=PROT_WRITE|PROT_EXEC, flags=MAP_PRIVATE|MAP_ANONYMOUS)");
    return 0;
}
