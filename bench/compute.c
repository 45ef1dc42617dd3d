/* Computing on all processors at once.  compute THREADS ROUNDS: each thread takes a call for every million steps. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static long rounds;

static void *work(void *seed)
{
    uint64_t x = (uintptr_t)seed | 1;
    for (long i = 0; i < rounds; i++) {
        for (int j = 0; j < 1000000; j++)
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        syscall(SYS_getppid);
    }
    return (void *)(uintptr_t)x;
}

int main(int argc, char **argv)
{
    pthread_t threads[64];
    long count = argc > 2 ? atol(argv[1]) : 0;
    if (count < 1 || count > 64)
        return 2;
    rounds = atol(argv[2]);
    for (long i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(i + 1)))
            return 1;
    for (long i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
