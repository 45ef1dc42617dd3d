/* Allocates, grows, moves and frees memory of all sizes, and sorts some of it. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCKS 400

static int by_value(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	return (x > y) - (x < y);
}

int main(void)
{
	static unsigned char *blocks[BLOCKS];
	unsigned long sum = 0, state = 1;

	for (int round = 0; round < 6; round++)
		for (int i = 0; i < BLOCKS; i++) {
			state = state * 6364136223846793005u + 1442695040888963407u;
			size_t size = 1 + (state >> 33) % (i % 50 ? 5000 : 2000000);
			if (round % 3 == 2) {
				free(blocks[i]);
				blocks[i] = NULL;
				continue;
			}
			blocks[i] = realloc(blocks[i], size);
			if (!blocks[i])
				return 1;
			blocks[i][size - 1] = (unsigned char)i;
			sum += blocks[i][size - 1];
		}
	unsigned *numbers = calloc(200000, sizeof *numbers);
	for (int i = 0; i < 200000; i++)
		numbers[i] = (unsigned)(i * 2654435761u);
	qsort(numbers, 200000, sizeof *numbers, by_value);
	for (int i = 1; i < 200000; i++)
		if (numbers[i - 1] > numbers[i])
			return 2;
	numbers = realloc(numbers, 40000000);
	void *aligned;
	if (!numbers || posix_memalign(&aligned, 4096, 300000))
		return 3;
	free(aligned);
	free(numbers);
	void *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED || madvise(map, 1 << 20, MADV_DONTNEED) || mprotect(map, 4096, PROT_NONE) || munmap(map, 1 << 20))
		return 4;
	printf("%lu\n", sum);
	return 0;
}
