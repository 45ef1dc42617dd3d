/* callfence_spawn(socket, words, environment, error, size): turn this process into a confined program.
 *
 * `callfence spawn` must listen at `socket`, as the same user.  `words` are those of a command line of `enforce`, without its
 * name: options, the program, its arguments, NULL.  `environment` is the program's.  The program keeps this process's pid,
 * descriptors (but those with FD_CLOEXEC), terminal, working folder, limits, signals and parent.
 *
 * Returns only if the program was not run: 125 if it could not be confined, 126 if it cannot be executed, 127 if it was not
 * found, with the reason in `error`, which has `size` bytes.  Exit with that status then: this process may be traced, and have
 * no_new_privs and Landlock rules.  It must have one thread only.  Linux, C11, no library.
 */
#ifndef CALLFENCE_SPAWN_H
#define CALLFENCE_SPAWN_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before including anything: struct ucred"
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define CALLFENCE_RULESETS 17 /* LANDLOCK_MAX_NUM_LAYERS, and one */
#define CALLFENCE_LONGEST (1u << 20)

#define CALLFENCE_MAGIC {'c', 'f', 's', 'p', 'a', 'w', 'n', '1'}
struct callfence_ask { char magic[8]; uint32_t words, variables, size; };
struct callfence_answer { char magic[8]; uint32_t status, rulesets, first, size; };
struct callfence_ruleset { uint32_t flags; char name[16]; };

static int callfence_fail_(char *error, size_t size, int status, const char *what, const char *why)
{
    snprintf(error, size, "%s%s%s", what, why ? ": " : "", why ? why : "");
    return status;
}

/* Adds the strings of an array to the buffer at `*end`, if there is one, and their size to `*size`; returns their number. */
static uint32_t callfence_add_(char *const strings[], char **end, size_t *size)
{
    uint32_t count = 0;
    for (; strings[count]; count++) {
        size_t length = strlen(strings[count]) + 1;
        if (*end)
            *end = (char *)memcpy(*end, strings[count], length) + length;
        *size += length;
    }
    return count;
}

/* Sends everything, and the descriptors with the first byte; returns 0, or -1 with errno. */
static int callfence_send_(int socket, char *data, size_t size, const int *descriptors, size_t count)
{
    union { struct cmsghdr head; char room[CMSG_SPACE(2 * sizeof(int))]; } control = {0};
    while (size) {
        struct iovec part = {data, size};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (count) {
            message.msg_control = &control;
            message.msg_controllen = CMSG_SPACE(count * sizeof(int));
            control.head.cmsg_level = SOL_SOCKET;
            control.head.cmsg_type = SCM_RIGHTS;
            control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
            memcpy(CMSG_DATA(&control.head), descriptors, count * sizeof(int));
        }
        ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return -1;
        if (sent > 0)
            data += sent, size -= (size_t)sent, count = 0;
    }
    return 0;
}

/* Receives exactly `size` bytes, and descriptors that come with them; returns 0, or -1 with errno, which is 0 at the end. */
static int callfence_receive_(int socket, void *to, size_t size, int *descriptors, size_t *count)
{
    char *data = to;
    while (size) {
        union { struct cmsghdr head; char room[CMSG_SPACE(CALLFENCE_RULESETS * sizeof(int))]; } control;
        struct iovec part = {data, size};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got ? errno : 0;
            return -1;
        }
        for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
            if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
                continue;
            size_t more = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t index = 0; index < more; index++) {
                int descriptor;
                memcpy(&descriptor, CMSG_DATA(head) + index * sizeof(int), sizeof(int));
                if (*count < CALLFENCE_RULESETS)
                    descriptors[(*count)++] = descriptor;
            }
        }
        data += got, size -= (size_t)got;
    }
    return 0;
}

/* Executes the first of the paths that can be executed; returns the errno if there is none (execvp(3)). */
static int callfence_execute_(const char *paths, const char *end, char *const argv[], char *const environment[])
{
    int denied = 0, number = ENOENT;
    for (const char *path = paths; path < end; path += strlen(path) + 1) {
        execve(path, argv, environment);
        number = errno;
        if (number == ENOEXEC) { /* a script without #! */
            size_t count = 0;
            while (argv[count])
                count++;
            const char **script = calloc(count + 2, sizeof *script);
            if (!script)
                return ENOMEM;
            script[0] = "/bin/sh", script[1] = path;
            for (size_t index = 1; index < count; index++)
                script[index + 1] = argv[index];
            execve(script[0], (char *const *)script, environment);
            return errno;
        }
        if (number == EACCES)
            denied = number;
        else if (number != ENOENT && number != ENOTDIR && number != ESTALE && number != ENODEV && number != ETIMEDOUT)
            return number;
    }
    return denied ? denied : number;
}

/* Whether a process traces this one.  A confined program that has put its own socket in the place of the spawner's cannot: it
 * is in a Landlock domain, or may not call ptrace(2). */
static int callfence_is_traced_(void)
{
    char text[4096];
    int file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    text[size < 0 ? 0 : size] = 0;
    const char *tracer = strstr(text, "\nTracerPid:\t");
    return tracer && tracer[strlen("\nTracerPid:\t")] != '0';
}

static int callfence_spawn(const char *path, char *const words[], char *const environment[], char *error, size_t length)
{
    int has_stderr = fcntl(STDERR_FILENO, F_GETFD) >= 0; /* before another descriptor has that number */
    int was_traced = callfence_is_traced_();             /* by another process than the spawner's */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return callfence_fail_(error, length, 125, path, "the path of a socket is too long");
    strcpy(address.sun_path, path);
    int socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), result;
    if (socket_ < 0)
        return callfence_fail_(error, length, 125, "socket", strerror(errno));
    do
        result = connect(socket_, (struct sockaddr *)&address, sizeof address);
    while (result < 0 && errno == EINTR);
    if (result < 0)
        return callfence_fail_(error, length, 125, path, strerror(errno));
    struct ucred server;
    socklen_t size = sizeof server;
    if (getsockopt(socket_, SOL_SOCKET, SO_PEERCRED, &server, &size) < 0 || server.uid != geteuid())
        return callfence_fail_(error, length, 125, path, "another user listens there");
    prctl(0x59616d61 /* PR_SET_PTRACER, for Yama: it and the processes that it starts */, (unsigned long)server.pid, 0, 0, 0);

    int own[2] = {open(".", O_PATH | O_DIRECTORY | O_CLOEXEC), STDERR_FILENO};
    if (own[0] < 0)
        return callfence_fail_(error, length, 125, "the working folder", strerror(errno));
    struct callfence_ask ask = {.magic = CALLFENCE_MAGIC};
    char *end = NULL;
    size_t strings = 0;
    ask.words = callfence_add_(words, &end, &strings);
    ask.variables = callfence_add_(environment, &end, &strings);
    char *request = strings < UINT32_MAX ? malloc(sizeof ask + strings) : NULL;
    if (!request)
        return callfence_fail_(error, length, 125, "not enough memory", NULL);
    ask.size = (uint32_t)strings;
    memcpy(request, &ask, sizeof ask);
    end = request + sizeof ask;
    callfence_add_(words, &end, &strings);
    callfence_add_(environment, &end, &strings);
    /* An error of sending is not the reason: that is in the answer. */
    callfence_send_(socket_, request, (size_t)(end - request), own, has_stderr ? 2 : 1);
    free(request);
    close(own[0]);

    struct callfence_answer answer;
    struct callfence_ruleset rulesets[CALLFENCE_RULESETS];
    int descriptors[CALLFENCE_RULESETS];
    size_t count = 0;
    char *text = NULL;
    errno = 0;
    if (callfence_receive_(socket_, &answer, sizeof answer, descriptors, &count) < 0)
        return callfence_fail_(error, length, 125, "`callfence spawn` has not answered", errno ? strerror(errno) : NULL);
    if (memcmp(answer.magic, ask.magic, sizeof ask.magic) || answer.rulesets > CALLFENCE_RULESETS ||
        answer.size > CALLFENCE_LONGEST || !(text = malloc(answer.size + 1)) ||
        callfence_receive_(socket_, rulesets, answer.rulesets * sizeof *rulesets, descriptors, &count) < 0 ||
        callfence_receive_(socket_, text, answer.size, descriptors, &count) < 0)
        return callfence_fail_(error, length, 125, "`callfence spawn` has sent an answer that is not one", NULL);
    text[answer.size] = 0;
    if (answer.status)
        return callfence_fail_(error, length, (int)answer.status, text, NULL);
    if (count != answer.rulesets || answer.first >= ask.words)
        return callfence_fail_(error, length, 125, "the answer of `callfence spawn` lacks something", NULL);
    if (was_traced || !callfence_is_traced_())
        return callfence_fail_(error, length, 125, path, "who listens there does not trace this process, and cannot confine it");

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return callfence_fail_(error, length, 125, "prctl(PR_SET_NO_NEW_PRIVS)", strerror(errno));
    for (size_t index = 0; index < count; index++) {
        if (rulesets[index].name[0]) /* by which audit records are known to be this program's */
            prctl(PR_SET_NAME, rulesets[index].name, 0, 0, 0);
        if (syscall(446 /* landlock_restrict_self */, descriptors[index], rulesets[index].flags) < 0)
            return callfence_fail_(error, length, 125, "landlock_restrict_self", strerror(errno));
        if (rulesets[index].name[0]) /* the first denial: the record of the domain is written with it */
            syscall(SYS_kcmp, getpid(), 2, 2, 0, 0);
        close(descriptors[index]);
    }
    close(socket_);
    result = callfence_execute_(text, text + answer.size, words + answer.first, environment);
    int status = result == ENOENT || result == ENOTDIR ? 127 : 126;
    const char *why = result == ENOENT ? "not found; or its interpreter or dynamic loader was not" : strerror(result);
    if (result == EACCES && count)
        why = "permission denied; the policy may not grant `read, execute` to it, its interpreter or its dynamic loader";
    return callfence_fail_(error, length, status, words[answer.first], why);
}

#endif
