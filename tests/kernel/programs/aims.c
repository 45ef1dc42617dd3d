/* Signals processes of its own again and again, then once whom its argument names. */
#include "check.h"

enum { CHILDREN = 6, ROUNDS = 100 };

static pid_t children[CHILDREN];

static pid_t waiting(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    while (child == 0) {
        pause();
    }
    return child;
}

/* More than a recording keeps the numbers of, and itself by the two other calls. */
static void often(void) {
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = waiting();
    }
    for (int i = 0; i < CHILDREN * ROUNDS; i++) {
        CHECK(syscall(SYS_kill, (long)children[i % CHILDREN], 0) == 0);
        CHECK(syscall(SYS_tgkill, (long)getpid(), (long)getpid(), 0) == 0);
        CHECK(syscall(SYS_tkill, (long)children[i % CHILDREN], 0) == 0);
    }
}

static void ended(pid_t child) {
    CHECK(kill(child, SIGKILL) == 0);
    expect_end(child, -SIGKILL);
}

static void all_ended(void) {
    for (int i = 0; i < CHILDREN; i++) {
        ended(children[i]);
    }
}

static void nobody(void) {
    often();
    all_ended();
}

static void ended_ones(void) {
    nobody();
    CHECK(kill(children[0], 0) == -1 && errno == ESRCH);
}

static void a_new_child(void) {
    often();
    ended(waiting());
    all_ended();
}

static void a_child_by_another_register(void) {
    often();
    CHECK(syscall(SYS_kill, 1L << 32 | children[0], 0) == 0); /* the kernel takes the lower half */
    all_ended();
}

static void by_a_child(void) {
    often();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(kill(children[1], 0) != 0);
    }
    expect_end(child, 0);
    all_ended();
}

static void its_parent(void) {
    often();
    CHECK(kill(getppid(), 0) == 0);
    all_ended();
}

static void its_parent_by_tkill(void) {
    often();
    CHECK(syscall(SYS_tkill, (long)getppid(), 0) == 0);
    all_ended();
}

static void its_parent_by_tgkill(void) {
    often();
    CHECK(syscall(SYS_tgkill, (long)getppid(), (long)getppid(), 0) == 0);
    all_ended();
}

static void the_parent_by_a_child(void) {
    pid_t parent = getppid();
    often();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(kill(parent, 0) != 0);
    }
    expect_end(child, 0);
    all_ended();
}

static void its_group(void) {
    often();
    CHECK(kill(0, 0) == 0);
    all_ended();
}

static void its_parents_group(void) {
    often();
    CHECK(kill(-getpgid(getppid()), 0) == 0);
    all_ended();
}

/* In a namespace where 1 is the child, and another's number nobody. */
static void in_a_namespace(void) {
    often();
    CHECK(unshare(CLONE_NEWPID) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(kill(1, 0) != 0 || kill(children[0], 0) != -1);
    }
    expect_end(child, 0);
    all_ended();
}

MAIN({"nobody", nobody}, {"ended_ones", ended_ones}, {"a_new_child", a_new_child},
     {"a_child_by_another_register", a_child_by_another_register}, {"by_a_child", by_a_child}, {"its_parent", its_parent},
     {"its_parent_by_tkill", its_parent_by_tkill}, {"its_parent_by_tgkill", its_parent_by_tgkill},
     {"the_parent_by_a_child", the_parent_by_a_child}, {"its_group", its_group}, {"its_parents_group", its_parents_group},
     {"in_a_namespace", in_a_namespace})
