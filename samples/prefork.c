/* A pre-forking server without the network: three workers, each driven by SIGUSR1 and ended by SIGTERM.

   The signals are blocked but in sigsuspend, so none can come at another moment: every run makes the same calls. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 3, JOBS = 2 };

static volatile sig_atomic_t jobs, ending;

static void on_job(int signal) { (void)signal; jobs++; }
static void on_end(int signal) { (void)signal; ending = 1; }

static int work(int done, const sigset_t *open_mask) {
    int seen = 0;
    while (!ending) {
        sigsuspend(open_mask);
        for (; seen < jobs; seen++)
            if (write(done, "x", 1) != 1)
                return 1;
    }
    return seen == JOBS ? 0 : 2;
}

int main(void) {
    struct sigaction job = {.sa_handler = on_job}, end = {.sa_handler = on_end};
    sigset_t closed_mask, open_mask;
    pid_t workers[WORKERS];
    int done[2], failures = 0;

    sigemptyset(&closed_mask);
    sigaddset(&closed_mask, SIGUSR1);
    sigaddset(&closed_mask, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &closed_mask, &open_mask) || sigaction(SIGUSR1, &job, NULL) ||
        sigaction(SIGTERM, &end, NULL) || pipe(done))
        return perror("prefork"), 1;
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = fork();
        if (workers[i] < 0)
            return perror("fork"), 1;
        if (workers[i] == 0)
            _exit(work(done[1], &open_mask));
    }
    for (int round = 0; round < JOBS; round++)
        for (int i = 0; i < WORKERS; i++) {
            char mark;
            kill(workers[i], SIGUSR1);
            if (read(done[0], &mark, 1) != 1)
                return perror("read"), 1;
        }
    for (int i = 0; i < WORKERS; i++) {
        int status;
        kill(workers[i], SIGTERM);
        if (waitpid(workers[i], &status, 0) != workers[i] || status != 0)
            failures++;
    }
    printf("%d workers did %d jobs each, %d failed\n", WORKERS, JOBS, failures);
    puts("learn must find: kill: sig == SIGUSR1\n"
         "learn must find: kill: sig == SIGTERM\n"
         "learn must find: clone: clone_flags == SIGCHLD\n"
         "learn must refuse: kill(sig=SIGSTOP)\n"
         "learn must refuse: kill(sig=SIGWINCH)\n"
         "learn must refuse: execve()\n"
         "learn must refuse: clone(clone_flags=CLONE_NEWUSER|SIGCHLD)");
    return failures;
}
