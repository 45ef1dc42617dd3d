/* Makes calls that a policy denies by its default, and prints what they return: `instead WHAT...`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static volatile sig_atomic_t got;

static void catch(int number, siginfo_t *info, void *context)
{
    (void)context;
    got = info->si_pid == getpid() || number == SIGUSR2 ? number : -1;
}

static int started(void)
{
    int ready[2];
    char byte;
    if (pipe(ready))
        exit(3);
    pid_t child = fork();
    if (child == 0) {
        if (write(ready[1], "", 1) != 1)
            _exit(3);
        for (;;)
            pause();
    }
    if (read(ready[0], &byte, 1) != 1)
        exit(3);
    close(ready[0]);
    close(ready[1]);
    return child;
}

static long signal_parent(void)
{
    return syscall(SYS_pidfd_send_signal, syscall(SYS_pidfd_open, getppid(), 0), SIGUSR2, NULL, 0);
}

static long made(const char *what)
{
    int status = 0;
    if (!strcmp(what, "null"))
        return open("/dev/null", O_RDWR);
    if (!strcmp(what, "null-kept")) {
        int null = open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        return write(null, "x", 1) == 1 ? fcntl(null, F_GETFD) : -1;
    }
    if (!strcmp(what, "null-full")) {
        while (dup(1) >= 0)
            ;
        return open("/dev/null", O_RDWR);
    }
    if (!strncmp(what, "last-", 5)) { /* libevent asks for two sockets if it gets no pipe */
        int last = -1;
        for (int each; (each = dup(1)) >= 0;)
            last = each;
        return socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0}) == -1 && errno == EMFILE
            && close(last) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0}) == -1 && errno == EMFILE
            ? strcmp(what, "last-one") ? 0 : socket(AF_INET, SOCK_RAW, 0) : -2;
    }
    if (!strcmp(what, "full")) { /* in place of a closed standard input: gnulib's stdopen() */
        int full = open("/dev/full", O_WRONLY);
        return write(full, "x", 1) == -1 && errno == ENOSPC && read(full, &status, 1) == -1 && errno == EBADF ? full : -2;
    }
    if (!strcmp(what, "full-read"))
        return open("/dev/full", O_RDONLY | O_CREAT, 0666);
    if (!strcmp(what, "terminal"))
        return open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (!strcmp(what, "console")) /* syslog(3) with LOG_CONS, where nobody listens at /dev/log */
        return open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (!strcmp(what, "tcp-info")) { /* uWSGI's master asks each second how long the queue is */
        socklen_t length = 104;
        return getsockopt(0, IPPROTO_TCP, TCP_INFO, (char[104]){0}, &length);
    }
    if (!strcmp(what, "processors")) { /* as malloc(3) does when the ninth thread asks for memory, while a server serves */
        poll(NULL, 0, 0);
        return get_nprocs();
    }
    if (!strcmp(what, "source")) { /* Python prints a traceback, while a server serves */
        struct stat about;
        poll(NULL, 0, 0);
        return stat("/dev/m.py", &about) + (errno == EACCES) + open("/dev/m.py", O_RDONLY | O_CLOEXEC);
    }
    if (!strcmp(what, "own-terminal")) /* libuv: writes without waiting would be those of all who share the descriptor */
        return open(ttyname(0), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (!strcmp(what, "other-terminal"))
        return open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (!strcmp(what, "settings")) {
        struct termios settings;
        return tcgetattr(0, &settings) ? -2 : tcsetattr(0, TCSANOW, &settings);
    }
    if (!strcmp(what, "other-file"))
        return open("/dev/zero", O_RDWR);
    if (!strcmp(what, "null-folder"))
        return open("/dev/null", O_RDWR | O_DIRECTORY);
    if (!strcmp(what, "itself"))
        return kill(getpid(), SIGUSR1) ? -1 : got;
    if (!strcmp(what, "own-thread"))
        return syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) ? -1 : got;
    if (!strcmp(what, "child")) {
        int child = started();
        return kill(child, SIGTERM) || waitpid(child, &status, 0) != child ? -1 : status;
    }
    if (!strcmp(what, "own-group")) { /* timeout(1) ends with what it has started */
        setpgid(0, 0);
        int child = started();
        signal(SIGTERM, SIG_IGN);
        return kill(0, SIGTERM) || waitpid(child, &status, 0) != child ? -1 : status;
    }
    if (!strcmp(what, "group")) { /* Python's os.killpg, ninja */
        int ready[2];
        char byte;
        pid_t child = pipe(ready) ? -1 : fork();
        if (child == 0) {
            setpgid(0, 0);
            _exit(write(ready[1], "", 1) != 1 || pause());
        }
        return read(ready[0], &byte, 1) != 1 || kill(-child, SIGTERM) || waitpid(child, &status, 0) != child ? -1 : status;
    }
    if (!strcmp(what, "parent") || !strcmp(what, "parent-pidfd")) {
        fflush(stdout);
        if (fork() == 0)
            _exit((what[6] ? signal_parent() : kill(getppid(), SIGUSR2)) ? 1 : 5);
        while (waitpid(-1, &status, 0) < 0 && errno == EINTR)
            ;
        return got == SIGUSR2 ? WEXITSTATUS(status) : -1;
    }
    if (!strncmp(what, "pidfd-", 6)) { /* Go's os/exec signals so what it has started */
        siginfo_t info = {.si_signo = SIGUSR2, .si_code = SI_QUEUE};
        int is_started = !strcmp(what, "pidfd-child") || !strcmp(what, "pidfd-ended"), number = is_started ? SIGTERM : SIGUSR2;
        int target = is_started ? started() : !strcmp(what, "pidfd-outside") ? getppid() : getpid();
        int pidfd = !strcmp(what, "pidfd-none") ? 0 : syscall(SYS_pidfd_open, target, 0);
        if (!strcmp(what, "pidfd-ended"))
            kill(target, SIGKILL), waitpid(target, &status, 0);
        if (syscall(SYS_pidfd_send_signal, pidfd, number, strcmp(what, "pidfd-queued") ? NULL : &info, 0))
            return -1;
        return !is_started ? got : waitpid(target, &status, 0) != target ? -2 : status;
    }
    if (!strcmp(what, "outside"))
        return kill(getppid(), 0);
    if (!strcmp(what, "another")) { /* whose parent has ended; it ends with this one */
        int told[2], lasts[2], other = 0;
        char byte;
        if (pipe(told) || pipe(lasts))
            return -1;
        if (fork() == 0) {
            if ((other = fork()) == 0) {
                close(lasts[1]);
                _exit(read(lasts[0], &byte, 1) != 0);
            }
            _exit(write(told[1], &other, sizeof other) != sizeof other);
        }
        wait(&status);
        return read(told[0], &other, sizeof other) == sizeof other ? kill(other, 0) : -1;
    }
    if (!strcmp(what, "ended") || !strcmp(what, "ended-group")) { /* as a pid file that is left may name */
        int child = started();
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        return kill(what[5] ? -child : child, 0);
    }
    if (!strcmp(what, "everyone"))
        return kill(-1, 0);
    if (!strcmp(what, "own-ids"))
        return syscall(SYS_setgid, getgid()) + syscall(SYS_setreuid, -1, geteuid());
    if (!strcmp(what, "file-ids"))
        return syscall(SYS_setfsuid, geteuid()) - geteuid() + syscall(SYS_setfsgid, getegid()) - getegid();
    if (!strcmp(what, "other-ids"))
        return syscall(SYS_setresuid, -1, 4321, -1);
    if (!strncmp(what, "owner-", 6)) { /* tar(1) and cp(1) say whose what they have made is */
        int file = open(what, O_RDWR | O_CREAT | O_EXCL, 0600), uid = geteuid(), gid = getegid();
        char whole[4096];
        if (file < 0 || !getcwd(whole, 4000))
            return -3;
        strcat(strcat(whole, "/"), what);
        if (!strcmp(what, "owner-other"))
            return fchown(file, uid + 1, gid);
        if (!strcmp(what, "owner-missing"))
            return lchown("missing", uid, gid);
        if (!strcmp(what, "owner-bits"))
            return fchmod(file, 04700) ? -2 : fchown(file, uid, gid);
        if (!strcmp(what, "owner-link"))
            return symlink("..", "link") || lchown("link", uid, gid) ? -2 : chown("link", uid, gid);
        return fchown(file, uid, gid) || fchown(file, -1, gid) || chown(what, uid, -1) || lchown(whole, -1, -1) ||
               fchownat(AT_FDCWD, what, uid, gid, AT_SYMLINK_NOFOLLOW) || fchownat(file, "", uid, gid, AT_EMPTY_PATH) ||
               fchownat(open(".", O_RDONLY), what, uid, gid, 0);
    }
    if (!strcmp(what, "touch"))
        return syscall(SYS_utimensat, open("instead", O_RDONLY), NULL, NULL, 0);
    if (!strcmp(what, "touch-name"))
        return syscall(SYS_utimensat, AT_FDCWD, "instead", NULL, 0);
    if (!strcmp(what, "set-times")) {
        struct timespec times[2] = {{0, 0}, {0, 0}};
        return syscall(SYS_utimensat, open("instead", O_RDONLY), NULL, times, 0);
    }
    if (!strcmp(what, "own-limits"))
        return syscall(SYS_prlimit64, getpid(), RLIMIT_NOFILE, NULL, NULL);
    if (!strcmp(what, "parents-limits"))
        return syscall(SYS_prlimit64, getppid(), RLIMIT_NOFILE, NULL, NULL);
    if (!strcmp(what, "own-core"))
        return syscall(SYS_prlimit64, getpid(), RLIMIT_CORE, NULL, NULL);
    if (!strcmp(what, "set-core")) {
        struct rlimit64 limit = {0, 0};
        return syscall(SYS_prlimit64, 0, RLIMIT_CORE, &limit, NULL);
    }
    if (!strcmp(what, "own-personality"))
        return syscall(SYS_personality, 0xffffffff) < 0;
    if (!strcmp(what, "set-personality"))
        return syscall(SYS_personality, 0x40000); /* ADDR_NO_RANDOMIZE */
    if (!strcmp(what, "own-handle"))
        return syscall(SYS_pidfd_open, getpid(), 0);
    if (!strcmp(what, "own-priority"))
        return syscall(SYS_setpriority, PRIO_PROCESS, getpid(), 19);
    if (!strcmp(what, "group-priority")) /* the number of the process is that of its group, or of a user */
        return syscall(SYS_setpriority, PRIO_USER, getpid(), 19);
    if (!strcmp(what, "parents-priority"))
        return syscall(SYS_setpriority, PRIO_PROCESS, getppid(), 19);
    if (!strcmp(what, "daemon"))
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!strcmp(what, "name-daemon")) /* getpwuid(3), of a program that has unix sockets */
        return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&(struct sockaddr_un){AF_UNIX, "/var/run/nscd/socket"},
                       sizeof(struct sockaddr_un));
    if (!strcmp(what, "log-daemon")) /* syslog(3), which gives another length */
        return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&(struct sockaddr_un){AF_UNIX, "/dev/log"}, 11);
    if (!strcmp(what, "other-daemon"))
        return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&(struct sockaddr_un){AF_UNIX, "/dev/logs"}, 12);
    if (!strcmp(what, "peer"))
        return socket(AF_UNIX, SOCK_STREAM, 0);
    if (!strcmp(what, "no-family"))
        return socket(AF_UNSPEC, SOCK_DGRAM, 0);
    if (!strcmp(what, "no-path")) /* of an output that was not made: pigz */
        return syscall(SYS_renameat2, AT_FDCWD, "instead", AT_FDCWD, NULL, 0) + syscall(SYS_unlinkat, AT_FDCWD, NULL, 0) + 1;
    if (!strcmp(what, "empty-path")) /* as a shell's > "$unset" */
        return open("", O_WRONLY | O_CREAT | O_TRUNC, 0600) + rename("instead", "") + unlink("") + 2;
    if (!strcmp(what, "anew")) /* O_EMPTYPATH: the open file itself */
        return syscall(SYS_openat, 1, "", O_WRONLY | 0x4000000);
    if (!strcmp(what, "cache")) /* as Python and fontconfig bring theirs up to date */
        return mkdir("/no/such/__pycache__", 0777) + open("/no/such/__pycache__/m.pyc.1", O_WRONLY | O_CREAT | O_EXCL, 0600)
               + open("/var/cache/fontconfig//0-le64.cache-9", O_RDWR | O_CLOEXEC) + 2;
    if (!strncmp(what, "output", 6)) { /* as the disk is full */
        int folder = open(".", O_RDONLY), output = open("output", O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (output < 0 || (!strcmp(what, "output-link") && symlink("output", "link")))
            return -2;
        if (!strcmp(what, "output-folder"))
            return unlinkat(folder, "output", AT_REMOVEDIR);
        if (!strcmp(what, "output-link"))
            return unlink("link");
        if (!strcmp(what, "output-owner"))
            return fchown(output, 4321, -1) ? -2 : unlink("output");
        return unlink("output") + unlinkat(folder, "output", 0) + 1;
    }
    if (!strcmp(what, "input"))
        return unlink("instead");
    if (!strcmp(what, "read-cache"))
        return open("/no/such/__pycache__/m.pyc", O_RDONLY | O_DIRECT);
    if (!strcmp(what, "beside-cache"))
        return open("__pycache__/../m.py", O_WRONLY | O_CREAT, 0600);
    if (!strcmp(what, "other-folder"))
        return mkdir("__pycache__.d", 0777);
    if (!strcmp(what, "no-name")) /* the times of what is open, the working folder here */
        return syscall(SYS_utimensat, open(".", O_RDONLY), NULL, (struct timespec[2]){{1, 0}, {1, 0}}, 0);
    if (!strcmp(what, "attributes"))
        return syscall(SYS_fsetxattr, 1, "user.x", "", 0, 0);
    return -1;
}

int main(int count, char **words)
{
    struct sigaction action = {.sa_sigaction = catch, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    for (int place = 1; place < count; place++) {
        errno = 0;
        long result = made(words[place]);
        printf("%s %ld %s\n", words[place], result, result < 0 ? strerrorname_np(errno) : "");
        fflush(stdout);
    }
    return 0;
}
