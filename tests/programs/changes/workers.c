/* Adds up in two workers: processes, later threads. */
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static void *work(void *unused)
{
    volatile unsigned long sum = 0;
    for (unsigned long i = 0; i < 1000; i++)
        sum += i;
    return sum ? unused : NULL;
}

int main(void)
{
#ifdef AFTER
    pthread_t workers[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&workers[i], NULL, work, NULL))
            return 1;
    for (int i = 0; i < 2; i++)
        pthread_join(workers[i], NULL);
#else
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child == 0) {
            work(NULL);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
#endif
    puts("done");
    return 0;
}
