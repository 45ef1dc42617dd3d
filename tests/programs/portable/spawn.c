/* Starts itself in each of the ways in which programs start others, with pipes to and from them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int answer(void)
{
	char text[64];
	ssize_t count = read(0, text, sizeof text);
	for (ssize_t i = 0; i < count; i++)
		if (text[i] >= 'a' && text[i] <= 'z')
			text[i] -= 32;
	return write(1, text, count) == count ? 7 : 1;
}

static void say(int to, int from, pid_t child)
{
	char text[64] = "";
	int status;
	if (write(to, "question", 8) != 8)
		exit(10);
	close(to);
	if (read(from, text, sizeof text - 1) != 8 || waitpid(child, &status, 0) != child)
		exit(11);
	close(from);
	printf("%s %d\n", text, WEXITSTATUS(status));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char *child_argv[] = {argv[0], "answer", NULL};
	int to[2], from[2];
	pid_t child;

	if (argc > 1)
		return answer();

	if (pipe(to) || pipe(from))
		return 1;
	if ((child = fork()) == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[1]);
		close(from[0]);
		execv(argv[0], child_argv);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	say(to[1], from[0], child);

	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		return 2;
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, to[0], 0);
	posix_spawn_file_actions_adddup2(&actions, from[1], 1);
	if (posix_spawn(&child, argv[0], &actions, NULL, child_argv, environ))
		return 3;
	close(to[0]);
	close(from[1]);
	say(to[1], from[0], child);

	if ((child = vfork()) == 0)
		_exit(3);
	int status;
	if (wait(&status) != child || WEXITSTATUS(status) != 3)
		return 4;
	if ((child = fork()) == 0) {
		raise(SIGTERM);
		_exit(0);
	}
	siginfo_t info;
	if (waitid(P_PID, child, &info, WEXITED) || info.si_status != SIGTERM)
		return 5;
	if (wait(&status) != -1 || errno != ECHILD)
		return 6;
	printf("signal %d\n", info.si_status);
	return 0;
}
