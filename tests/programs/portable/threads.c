/* Threads that share a counter, hand it to each other, keep values of their own, and end in each of three ways. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_key_t key;
static sem_t begun, never;
static int turn;
static long total;
static __thread int own;

static void *work(void *given)
{
	int me = (int)(long)given;
	own = me;
	char *memory = malloc(20000);
	memset(memory, me, 20000);
	pthread_setspecific(key, memory);
	pthread_mutex_lock(&lock);
	while (turn != me)
		pthread_cond_wait(&changed, &lock);
	total += own * memory[100];
	turn++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	if (me % 2)
		pthread_exit((void *)(long)me);
	return (void *)(long)me;
}

static void *sleeper(void *given)
{
	sem_post(&begun);
	sem_wait(&never); /* pause(2) would be in the policy only if it gets so far before it is cancelled */
	return given;
}

int main(void)
{
	pthread_t threads[THREADS], cancelled;
	long sum = 0;
	void *result;

	if (pthread_key_create(&key, free) || sem_init(&begun, 0, 0) || sem_init(&never, 0, 0))
		return 1;
	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i))
			return 2;
	for (int i = 0; i < THREADS; i++) {
		if (pthread_join(threads[i], &result))
			return 3;
		sum += (long)result;
	}
	if (pthread_create(&cancelled, NULL, sleeper, NULL) || sem_wait(&begun))
		return 4;
	if (pthread_cancel(cancelled) || pthread_join(cancelled, &result) || result != PTHREAD_CANCELED)
		return 5;
	printf("%ld %ld\n", total, sum);
	return 0;
}
