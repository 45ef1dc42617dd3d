/* Makes calls whose pointers point to all kinds of things; every call fails, or does nothing.  With an argument: that many opens. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void unlink_at(long address)
{
#ifdef SYS_unlink
    syscall(SYS_unlink, address);
#else
    syscall(SYS_unlinkat, AT_FDCWD, address, 0);
#endif
}

static void addresses(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(9)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
    struct sockaddr_un file = {.sun_family = AF_UNIX, .sun_path = "/sys/nonexistent/x.sock"};
    struct sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = "\0hidden"};
    struct sockaddr_nl netlink = {.nl_family = AF_NETLINK};
    inet_pton(AF_INET, "192.0.2.1", &four.sin_addr);
    inet_pton(AF_INET6, "2001:db8::1:0:0:2", &six.sin6_addr);
    connect(99, (void *)&four, sizeof four);
    connect(99, (void *)&six, sizeof six);
    connect(99, (void *)&file, sizeof file);
    connect(99, (void *)&abstract, sizeof(sa_family_t) + 7);
    bind(99, (void *)&netlink, sizeof netlink);
    bind(99, (void *)&four, 1);          /* too short to have a family */
    bind(99, (void *)&four, -1);         /* a length that no address has */
    struct msghdr message = {.msg_name = &four, .msg_namelen = sizeof four};
    sendmsg(99, &message, 0);
    sendto(-1, "", 0, 0, (void *)&four, sizeof four);
    close(fd);
}

static void paths(void)
{
    int size = getpagesize();
    char *page = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *first = page + size - 6, *longest = malloc(8192);
    munmap(page + size, size);
    strcpy(first, "/edge");              /* the NUL is the page's last byte */
    unlink(first);
    memcpy(page + size - 5, "/gone", 5); /* no NUL before memory ends */
    unlink(page + size - 5);
    unlink_at(8);
    unlink_at(-8L);
    unlink("/bad\033[31m\n\"name\xff*");
    memset(longest, 'x', 8192);
    longest[0] = '/';
    rmdir(longest);                      /* no NUL in 4096 bytes */
    char *pages = aligned_alloc(size, 2 * size), *across = pages + size - 4;
    strcpy(across, "/across/pages");
    chmod(across, 0);
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/nothing", getpid());
    chmod(name, 0);
    mkdir("/tmp/sortA7xK2q", 0);         /* made, and removed */
    rmdir("/tmp/sortA7xK2q");
    symlink("../target", "/sys/nonexistent/link");
    mount("none", "/sys/nonexistent", "tmpfs", 0, NULL);
    unlinkat(AT_FDCWD, "here", 0);
    int folder = open("/usr/lib", O_PATH | O_DIRECTORY);
    unlinkat(folder, "relative/name", 0);
    close(folder);
}

static void commands(void)
{
    char *secret[] = {"client", "--password=hunter2", "more", NULL}, *plain[] = {"git", "commit", "-m", "hunter2", NULL};
    char *environment[] = {"TOKEN=hunter2", NULL};
    execve("/sys/nonexistent/client", secret, environment);
    execve("/sys/nonexistent/git", plain, environment);
    syscall(SYS_execve, "/sys/nonexistent/broken", 16, environment);
}

int main(int argc, char **argv)
{
    for (int i = 0; argc > 1 && i < atoi(argv[1]); i++) {
        char name[64];
        snprintf(name, sizeof name, "/sys/nonexistent/name%d", i);
        unlink_at((long)name);
    }
    if (argc == 1) {
        addresses();
        paths();
        commands();
    }
    return 0;
}
