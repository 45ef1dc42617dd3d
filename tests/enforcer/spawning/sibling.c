/* sibling SOCKET: a client in a Landlock domain, without no_new_privs, which takes root.  A process that shares its memory
 * waits for the instruction that the spawner puts there, and puts in its place a jump to another call, which succeeds. */
#define _GNU_SOURCE
#include "callfence_spawn.h"
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { CALL = 62, PUT = CALL + 2, OTHER = PUT + 32 };
static volatile unsigned char *page;

static int exchange(void *unused)
{
    volatile unsigned short *put = (volatile unsigned short *)(page + PUT);
    for (long turn = 0; turn < 4000000000; turn++)
        if (*put == 0x050f) {
            *put = 0xeb | (OTHER - PUT - 2) << 8;
            break;
        }
    return unused != NULL;
}

int main(int count, char **words)
{
    unsigned long long handled = 1 << 1; /* LANDLOCK_ACCESS_FS_WRITE_FILE */
    long ruleset = syscall(444, &handled, sizeof handled, 0);
    if (count != 2 || ruleset < 0 || syscall(446, ruleset, 0) < 0)
        return 1;
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    static const unsigned char call[] = {0x0f, 0x05, 0xc3};                                 /* syscall; ret */
    static const unsigned char other[] = {0xb8, 24, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xfe};       /* sched_yield, for ever */
    memcpy((void *)(page + CALL), call, sizeof call);
    memcpy((void *)(page + OTHER), other, sizeof other);
    int child = clone(exchange, (char *)malloc(65536) + 65536, CLONE_VM | SIGCHLD, NULL);

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, words[1]);
    long connection = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect((int)connection, (struct sockaddr *)&address, sizeof address) < 0)
        return 1;
    char *const asked[] = {"-p", "it.policy", "--log", "stolen", "true", NULL}, *const environment[] = {"PATH=/usr/bin", NULL};
    struct callfence_ask head = {.magic = CALLFENCE_MAGIC};
    char request[4096], *end = NULL;
    size_t size = 0;
    head.words = callfence_add_(asked, &end, &size);
    head.variables = callfence_add_(environment, &end, &size);
    head.size = (uint32_t)size;
    memcpy(request, &head, sizeof head);
    end = request + sizeof head;
    callfence_add_(asked, &end, &size);
    callfence_add_(environment, &end, &size);
    int folder = open(".", O_PATH | O_DIRECTORY);
    callfence_send_((int)connection, request, (size_t)(end - request), &folder, 1);
    static char answer[65536];
    register long flags __asm__("r10") = 0, from __asm__("r8") = 0, length __asm__("r9") = 0;
    long got = SYS_recvfrom;
    __asm__ volatile("call *%[call]"
                     : "+a"(got)
                     : "D"(connection), "S"(answer), "d"(sizeof answer), "r"(flags), "r"(from), "r"(length),
                       [call] "b"(page + CALL)
                     : "rcx", "r11", "memory");
    struct callfence_answer *said = (struct callfence_answer *)answer;
    printf("%s\n", got < (long)sizeof *said ? "closed" : said->status ? answer + sizeof *said : "served");
    fflush(stdout);
    kill(child, SIGKILL);
    return 0;
}
