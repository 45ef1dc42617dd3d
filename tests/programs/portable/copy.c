/* Copies a file with stdio, by lines and by blocks, and prints a sum of what it read back. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	char block[3000], line[256];
	unsigned long sum = 0;
	size_t count, lines = 0;

	FILE *out = fopen("made.txt", "w");
	if (!out)
		return 1;
	for (int i = 0; i < 5000; i++)
		fprintf(out, "line %d of a file that takes several buffers\n", i);
	if (fclose(out))
		return 2;

	FILE *in = fopen("made.txt", "re");
	out = fopen("copied.txt", "w+");
	if (!in || !out)
		return 3;
	while ((count = fread(block, 1, sizeof block, in)) > 0)
		if (fwrite(block, 1, count, out) != count)
			return 4;
	if (fflush(out) || fseek(out, 0, SEEK_SET))
		return 5;
	while (fgets(line, sizeof line, out)) {
		lines++;
		for (char *c = line; *c; c++)
			sum = sum * 31 + (unsigned char)*c;
	}
	fclose(in);
	fclose(out);
	in = fopen("copied.txt", "a");
	if (!in || fputs("end\n", in) < 0 || fclose(in))
		return 6;
	if (fopen("missing", "r") || errno != ENOENT)
		return 7;
	FILE *scratch = tmpfile();
	if (!scratch || fputs("scratch\n", scratch) < 0 || fclose(scratch))
		return 8;
	if (unlink("made.txt") || remove("copied.txt"))
		return 9;
	printf("%zu lines, %lx\n", lines, sum);
	fprintf(stderr, "done\n");
	return 0;
}
