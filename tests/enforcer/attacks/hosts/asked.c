// While a sendto by socketcall(2) of i386 to port 1 waits for an answer, a thread writes another port: `asked DESCRIPTOR PORT`.  It
// reads a byte before, and writes a line after; in the end, what sendto(2) came to.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in *to;
static int other;

static void *change(void *unused)
{
    getchar();
    to->sin_port = htons(other);
    puts("changed");
    return unused;
}

int main(int count, char **words)
{
    unsigned *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    int number = atoi(words[1]);
    pthread_t thread;
    setvbuf(stdout, 0, _IOLBF, 0);
    other = atoi(words[2]);
    to = (void *)(at + 64);
    *to = (struct sockaddr_in){AF_INET, htons(1), {htonl(INADDR_LOOPBACK)}};
    dup2(socket(AF_INET, SOCK_DGRAM, 0), number);
    unsigned arguments[] = {number, (unsigned)(long)memcpy(at + 128, "sent", 4), 4, 0, (unsigned)(long)to, sizeof *to};
    memcpy(at, arguments, sizeof arguments);
    pthread_create(&thread, 0, change, 0);
    long result;
    asm volatile("int $0x80" : "=a"(result) : "a"(102), "b"(11), "c"((long)at), "d"(0), "S"(0), "D"(0)
                 : "memory", "r8", "r9", "r10", "r11", "cc");
    puts(result < 0 ? strerrorname_np(-result) : "sent");
}
