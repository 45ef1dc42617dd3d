/* `tree SEED FILE`: a random tree of processes and threads, the same for the same seed but for timing.  Appends a byte
 * to FILE for each getppid that it has made.  Ends with SEED % 100. */
#include "check.h"

static unsigned long long state;
static int counts;

static unsigned rnd(unsigned below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(state >> 33) % below;
}

static void calls(int number) {
    for (int i = 0; i < number; i++) {
        syscall(SYS_getppid);
        if (write(counts, "x", 1) != 1) {
            _exit(97);
        }
    }
}

static void ignore(int signum) { (void)signum; }

static void *thread(void *number) {
    calls((int)(intptr_t)number);
    return NULL;
}

static void threads(void) {
    pthread_t ids[6];
    int count = 1 + rnd(6);
    for (int i = 0; i < count; i++) {
        if (pthread_create(&ids[i], NULL, thread, (void *)(intptr_t)rnd(30))) {
            _exit(96);
        }
    }
    for (int i = 0; i < count; i++) {
        pthread_join(ids[i], NULL);
    }
}

static void node(int depth);

static void child(int depth) {
    int how = rnd(6);
    pid_t pid = how == 1 ? vfork() : fork();
    if (pid == 0) {
        if (how == 1) {
            execl("/bin/true", "true", NULL);
            _exit(0);
        }
        state += 12345 * (depth + 1);
        if (how == 2) {
            execl("/bin/sh", "sh", "-c", "(exit 3) | cat; true & wait", NULL);
        }
        node(depth - 1);
        if (how == 3) {
            kill(getpid(), SIGKILL);
        }
        if (how == 4) {
            raise(SIGSTOP);
        }
        _exit(0);
    }
    int status;
    if (how == 4) {
        wait_for(pid, &status, WUNTRACED);
        kill(pid, SIGCONT);
    }
    if (rnd(3)) {
        kill(pid, rnd(2) ? SIGUSR1 : SIGWINCH);
    }
    while (wait_for(pid, &status, 0) == pid && !WIFEXITED(status) && !WIFSIGNALED(status)) {
    }
}

static void node(int depth) {
    signal(SIGUSR1, ignore);
    calls(rnd(20));
    if (rnd(2)) {
        threads();
    }
    for (int i = depth > 0 ? rnd(4) : 0; i > 0; i--) {
        child(depth);
    }
    if (rnd(4) == 0) {
        pause_ms(rnd(5));
    }
}

int main(int argc, char **argv) {
    arguments = argv;
    (void)run_named;
    alarm(100);
    if (argc != 3) {
        return 98;
    }
    state = strtoull(argv[1], NULL, 10) * 2654435761ULL;
    counts = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0600);
    signal(SIGUSR1, SIG_IGN);
    for (int i = 0; i < 4; i++) {
        node(3);
    }
    return (int)(strtoull(argv[1], NULL, 10) % 100);
}
