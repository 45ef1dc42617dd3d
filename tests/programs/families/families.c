/* Makes calls of families that grant nothing, and their neighbours: `families WHAT...` prints what each returns. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/cdrom.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

static long option(int family, int type, int level, int name)
{
    int one = 1, fd = socket(family, type, 0);
    struct linger linger = {1, 0};
    long result = name == SO_LINGER && level == SOL_SOCKET ? setsockopt(fd, level, name, &linger, sizeof linger)
                                                           : setsockopt(fd, level, name, &one, sizeof one);
    int number = errno;
    close(fd);
    errno = number;
    return result;
}

static long interface(unsigned long request)
{
    struct ifreq lo = {.ifr_name = "lo"};
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    long result = ioctl(fd, request, &lo);
    close(fd);
    return result < 0 ? -1 : 0;
}

static long opened(const char *name, int flags, int mode)
{
    int fd = syscall(SYS_openat, AT_FDCWD, name, flags, mode), number = errno;
    close(fd);
    errno = number;
    return fd < 0 ? -1 : 0;
}

static long made(const char *what)
{
    char data[512];
    socklen_t size = sizeof data;
    struct itimerval never = {{0, 0}, {0, 0}};
    sigset_t usr1;
    int fd;
#define WHAT(name, value) if (!strcmp(what, name)) return value
    WHAT("nothing", 0);
    /* sockets */
    WHAT("peer", getpeername(0, (void *)data, &size));
    WHAT("peer-descriptor", getsockopt(0, SOL_SOCKET, 77 /* SO_PEERPIDFD */, data, &size));
    WHAT("tcp", (fd = socket(AF_INET, SOCK_STREAM, 0)) < 0 ? -1 : close(fd));
    WHAT("linger", option(AF_INET, SOCK_STREAM, SOL_SOCKET, SO_LINGER));
    WHAT("no-delay", option(AF_INET, SOCK_STREAM, SOL_TCP, TCP_NODELAY));
    WHAT("tls", option(AF_INET, SOCK_STREAM, SOL_TCP, TCP_ULP));
    WHAT("filter", option(AF_INET, SOCK_STREAM, SOL_SOCKET, SO_ATTACH_FILTER));
    WHAT("only-6", option(AF_INET6, SOCK_STREAM, SOL_IPV6, IPV6_V6ONLY));
    WHAT("is-only-6", getsockopt(0, SOL_IPV6, IPV6_V6ONLY, data, &size));
    WHAT("routes", (fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)) < 0 ? -1 : close(fd));
    WHAT("extended", option(AF_NETLINK, SOCK_RAW, SOL_NETLINK, NETLINK_EXT_ACK));
    WHAT("strict", option(AF_NETLINK, SOCK_RAW, SOL_NETLINK, NETLINK_GET_STRICT_CHK));
    WHAT("join", option(AF_NETLINK, SOCK_RAW, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP));
    WHAT("index", interface(SIOCGIFINDEX));
    WHAT("set-flags", interface(SIOCSIFFLAGS));
    /* questions */
    WHAT("sectors", ioctl(0, BLKGETSIZE, data));
    WHAT("read-only", ioctl(0, BLKROGET, data));
    WHAT("physical", ioctl(0, BLKPBSZGET, data));
    WHAT("drive", ioctl(0, CDROM_GET_CAPABILITY, 0));
    WHAT("discard", ioctl(0, BLKDISCARD, data));
    WHAT("drain", ioctl(0, TCSBRK, 1));
    WHAT("break", ioctl(0, TCSBRK, 0));
    /* the process */
    WHAT("not-dumpable", prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    WHAT("dumpable", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    WHAT("no-timer", setitimer(99, &never, NULL));
    WHAT("processor-timer", setitimer(ITIMER_PROF, &never, NULL));
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    WHAT("signals", (fd = signalfd(-1, &usr1, SFD_CLOEXEC)) < 0 ? -1 : close(fd));
    /* files */
    WHAT("reads", opened("/etc/passwd", O_RDONLY, 0));
    WHAT("creates", opened("new", O_WRONLY | O_CREAT | O_EXCL, 0644));
    WHAT("writes", opened("file", O_WRONLY | O_CREAT | O_TRUNC, 0644));
    WHAT("ignored", opened("file", 0x10 | O_WRONLY | O_CREAT | O_TRUNC, 0644));
    WHAT("both", opened("file", O_RDWR | O_CREAT | O_TRUNC, 0644));
    WHAT("set-id", opened("file", O_WRONLY | O_CREAT | O_TRUNC, 04644));
    WHAT("direct", opened("file", O_WRONLY | O_DIRECT, 0));
    WHAT("folder", mkdir("folder", 0755));
    WHAT("sticky", mkdir("sticky", 01777));
    WHAT("attribute", fsetxattr(open("file", O_RDONLY), "user.x", "", 0, 0));
    WHAT("named-attribute", setxattr("file", "user.x", "", 0, 0));
    WHAT("link-attribute", lsetxattr("file", "user.x", "", 0, 0));
    WHAT("no-attribute", removexattr("file", "user.x"));
    return -2;
}

int main(int count, char **words)
{
    for (int place = 1; place < count; place++) {
        errno = 0;
        long result = made(words[place]);
        printf("%s %s\n", words[place], result < 0 ? strerrorname_np(errno) : "0");
        fflush(stdout);
    }
    return 0;
}
