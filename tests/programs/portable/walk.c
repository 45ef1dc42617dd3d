/* Makes a tree of files, changes and walks it, and takes it away again. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int walk(const char *path, int depth)
{
	struct dirent **names;
	int entries = scandir(path, &names, NULL, alphasort), total = 0;
	for (int i = 0; i < entries; i++) {
		char below[512];
		struct stat status;
		if (names[i]->d_name[0] != '.') {
			snprintf(below, sizeof below, "%s/%s", path, names[i]->d_name);
			if (lstat(below, &status))
				exit(20);
			total++;
			printf("%*s%s %o\n", depth, "", names[i]->d_name, status.st_mode & 07777);
			if (S_ISDIR(status.st_mode))
				total += walk(below, depth + 1);
		}
		free(names[i]);
	}
	free(names);
	return total;
}

int main(void)
{
	struct stat status;
	struct timespec times[2] = {{1000, 0}, {2000, 0}};
	char target[4096] = "";

	umask(022);
	if (mkdir("tree", 0755) || mkdir("tree/inner", 0700) || mkdirat(AT_FDCWD, "tree/other", 0755))
		return 1;
	int fd = open("tree/file", O_WRONLY | O_CREAT | O_EXCL, 0644);
	if (fd < 0 || ftruncate(fd, 1000) || fstat(fd, &status) || status.st_size != 1000 || fchmod(fd, 0600) || close(fd))
		return 2;
	if (rename("tree/file", "tree/inner/moved") || link("tree/inner/moved", "tree/linked") || symlink("linked", "tree/soft"))
		return 3;
	if (readlink("tree/soft", target, sizeof target - 1) != 6 || strcmp(target, "linked"))
		return 4;
	if (chmod("tree/linked", 0640) || utimensat(AT_FDCWD, "tree/linked", times, 0) || stat("tree/soft", &status))
		return 5;
	if (status.st_mtime != 2000 || access("tree/linked", R_OK | W_OK) || access("tree/missing", F_OK) == 0)
		return 6;
	if (chown("tree/linked", -1, -1) || lchown("tree/soft", -1, -1))
		return 7;
	if ((fd = open("tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 || fstatat(fd, "linked", &status, 0))
		return 8;
	if (renameat(fd, "other", fd, "another") || faccessat(fd, "another", X_OK, 0) || close(fd))
		return 9;
	printf("%d\n", walk("tree", 0));
	if (chdir("tree") || !getcwd(target, sizeof target) || chdir(".."))
		return 10;
	if (unlink("tree/soft") || unlink("tree/linked") || remove("tree/inner/moved") || rmdir("tree/inner"))
		return 11;
	return rmdir("tree/another") || unlinkat(AT_FDCWD, "tree", AT_REMOVEDIR) ? 12 : 0;
}
