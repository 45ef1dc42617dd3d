/* Opens files under Landlock rules of its own, and prints the processor time of one open and close in nanoseconds, with `wall`
 * the time that passed:
 *
 *     opens FILE LAYERS ABOVE HANDLED TIMES [wall]
 *
 * LAYERS rulesets are put on, which handle the rights HANDLED, each with one rule: reading in the folder ABOVE levels above FILE (0: its
 * own folder). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void confine(const char *file, int above, unsigned long rights)
{
	uint64_t read = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
	struct landlock_ruleset_attr handled = { .handled_access_fs = rights };
	struct landlock_path_beneath_attr rule = { .allowed_access = read };
	char folder[4096];
	int ruleset = syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0);

	strncpy(folder, file, sizeof(folder) - 1);
	for (int level = 0; level <= above; level++)
		*strrchr(folder, '/') = 0;
	rule.parent_fd = open(*folder ? folder : "/", O_PATH);
	if (ruleset < 0 || rule.parent_fd < 0 || syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_landlock_restrict_self, ruleset, 0)) {
		perror("landlock");
		exit(1);
	}
	close(rule.parent_fd);
	close(ruleset);
}

int main(int argc, char **argv)
{
	struct timespec begin, end;
	int times = argc > 5 ? atoi(argv[5]) : 0;
	clockid_t clock = argc > 6 ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID;

	for (int layer = 0; argc > 5 && layer < atoi(argv[2]); layer++)
		confine(argv[1], atoi(argv[3]), strtoul(argv[4], NULL, 0));
	clock_gettime(clock, &begin);
	for (int count = 0; count < times; count++) {
		int fd = open(argv[1], O_RDONLY);

		if (fd < 0) {
			perror(argv[1]);
			return 1;
		}
		close(fd);
	}
	clock_gettime(clock, &end);
	printf("%.1f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / times);
	return 0;
}
