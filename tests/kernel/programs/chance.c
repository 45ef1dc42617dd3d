/* Calls that are not the same in two runs: an argument that was not given, and a wait that one run did not need. */
#include "check.h"

static void left_over(void) {
    long here = (long)&here;
    long result = syscall(SYS_pidfd_open, getpid(), here); /* what is in the register when a caller gives none */
    CHECK(result >= 0 || errno == EINVAL || errno == ENOSYS);
}

/* With another argument the child takes its time. */
static void look_again(void) {
    pid_t child = fork();
    if (child == 0) {
        if (arguments[2]) {
            pause_ms(50);
        }
        _exit(7);
    }
    siginfo_t ended = {0};
    if (!arguments[2]) {
        waitid(P_PID, child, &ended, WEXITED | WNOWAIT);
    }
    while (waitid(P_PID, child, &ended, WEXITED | WNOWAIT | WNOHANG) == 0 && ended.si_pid != child) {
        usleep(1000);
    }
    expect_end(child, 7);
}

MAIN({"left_over", left_over}, {"look_again", look_again})
