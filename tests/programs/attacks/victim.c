/* A benign program that can be made to attack: `victim benign`, `victim ATTACK`, `victim list`.

   Every run first does the same benign work, from which a policy is learned.  An attack then makes a call that the
   benign work never makes, or makes with other arguments, and prints `attack NAME: RESULT`: what the call returned, a
   negative errno if it failed.  No attack does harm where it succeeds: targets are the process itself, objects that
   do not exist, or requests that are refused for their arguments.  Some doors are x86_64's alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <net/ethernet.h>
#include <arpa/inet.h>
#ifdef __x86_64__
#include <asm/prctl.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(call) do { if ((call) == -1) { perror(#call); exit(2); } } while (0)
#define CALL(...) result(syscall(__VA_ARGS__))

static long result(long returned) { return returned == -1 ? -errno : returned; }

/* ---- benign work ---- */

static char *page; /* read-write, private */

static void on_signal(int signal) { (void)signal; }

static void *in_thread(void *nothing) { return nothing; }

static void benign(void) {
    struct sigaction action = {.sa_handler = on_signal};
    struct __user_cap_header_struct header = {0, 0};
    struct timespec now;
    pthread_t thread;
    int pipe_ends[2], file, local, on = 1, pending;

    const long size = sysconf(_SC_PAGESIZE);
    page = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        exit(2);
    memset(page, 1, 2 * size);
    CHECK(mprotect(page + size, size, PROT_READ));
    CHECK(madvise(page, size, MADV_DONTNEED));
    if (pthread_create(&thread, NULL, in_thread, NULL) || pthread_join(thread, NULL))
        exit(2);
    CHECK(sigaction(SIGUSR1, &action, NULL));
    CHECK(raise(SIGUSR1));
    CHECK(pipe(pipe_ends));
    CHECK(ioctl(pipe_ends[0], FIONREAD, &pending));
    CHECK(fcntl(pipe_ends[0], F_GETFL));
    CHECK(fcntl(pipe_ends[0], F_SETFL, O_NONBLOCK));
    CHECK(file = open("victim.out", O_WRONLY | O_CREAT | O_TRUNC, 0600));
    CHECK(write(file, "benign\n", 7));
    CHECK(chmod("victim.out", 0640));
    CHECK(close(file));
    CHECK(file = open("victim.out", O_RDONLY));
    CHECK(close(file));
    CHECK(local = socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK(setsockopt(local, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    CHECK(prctl(PR_SET_NAME, "victim"));
    CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now));
    CHECK(syscall(SYS_capget, &header, NULL)); /* asks for the version only */
    getpid();
    getppid();
    getuid();
    CHECK(close(local));
    CHECK(close(pipe_ends[0]));
    CHECK(close(pipe_ends[1]));
}

/* ---- other programs ---- */

#define SAY(name) "echo 'attack " name ": 0'"

static long ends_with(pid_t child) {
    int status;
    if (child < 0)
        return -errno;
    return waitpid(child, &status, 0) < 0 ? -errno : WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
}

static long shell(void) {
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exit 7", NULL);
        _exit(8);
    }
    return ends_with(child) == 7 ? 0 : -ENOEXEC;
}

static long exec_shell(void) { return result(execl("/bin/sh", "sh", "-c", SAY("exec_shell"), NULL)); }

static long exec_at(void) {
    char *arguments[] = {"sh", "-c", SAY("exec_at"), NULL};
    return CALL(SYS_execveat, AT_FDCWD, "/bin/sh", arguments, environ, 0);
}

static long exec_memfd(void) {
    static const char script[] = "#!/bin/sh\n" SAY("exec_memfd") "\n";
    char *arguments[] = {"script", NULL};
    int file = syscall(SYS_memfd_create, "script", 0);
    if (file < 0 || write(file, script, sizeof script - 1) < 0)
        return -errno;
    return CALL(SYS_execveat, file, "", arguments, environ, AT_EMPTY_PATH);
}

#ifdef __x86_64__
static long raw_fork(void) {
    pid_t child = syscall(SYS_fork);
    if (child == 0)
        _exit(0);
    return ends_with(child);
}

static long raw_vfork(void) {
    pid_t child = vfork();
    if (child == 0)
        _exit(0);
    return ends_with(child);
}
#endif

static long clone_with(unsigned long flags) {
    pid_t child = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, 0UL);
    if (child == 0)
        _exit(0);
    return ends_with(child);
}

static long clone_newuser(void) { return clone_with(CLONE_NEWUSER); }
static long clone_newpid(void) { return clone_with(CLONE_NEWUSER | CLONE_NEWPID); }

/* ---- the network ---- */

static long connect_back(void) {
    struct sockaddr_in home = {.sin_family = AF_INET, .sin_port = htons(1), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int out = socket(AF_INET, SOCK_STREAM, 0);
    if (out < 0)
        return -errno;
    return connect(out, (struct sockaddr *)&home, sizeof home) == 0 || errno == ECONNREFUSED ? 0 : -errno;
}

static long udp(void) { return CALL(SYS_socket, AF_INET, SOCK_DGRAM, 0); }
static long unix_datagram(void) { return CALL(SYS_socket, AF_UNIX, SOCK_DGRAM, 0); }
static long sniffer(void) { return CALL(SYS_socket, AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)); }
static long netlink(void) { return CALL(SYS_socket, AF_NETLINK, SOCK_RAW, 0); }

static long socket_option(void) {
    int on = 1;
    return CALL(SYS_setsockopt, 0, SOL_SOCKET, SO_ATTACH_BPF, &on, sizeof on);
}

/* ---- memory ---- */

static long mprotect_wx(void) { return CALL(SYS_mprotect, page, 4096UL, PROT_READ | PROT_WRITE | PROT_EXEC); }
static long mprotect_exec(void) { return CALL(SYS_mprotect, page, 4096UL, PROT_READ | PROT_EXEC); }
static long pkey_wx(void) { return CALL(SYS_pkey_mprotect, page, 4096UL, PROT_READ | PROT_WRITE | PROT_EXEC, -1); }

static long mmap_wx(void) {
    int writable_code = PROT_READ | PROT_WRITE | PROT_EXEC;
    return CALL(SYS_mmap, NULL, 4096UL, writable_code, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0UL);
}

static long madvise_other(void) { return CALL(SYS_madvise, page, 4096UL, MADV_DODUMP); }
static long secret_memory(void) { return CALL(SYS_memfd_secret, 0); }
static long page_faults(void) { return CALL(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY); }

/* ---- other processes ---- */

static long ptrace_attach(void) { return CALL(SYS_ptrace, PTRACE_ATTACH, getpid(), 0UL, 0UL); } /* itself: EPERM */

static long copy_memory(long number) {
    static char from[] = "new", to[] = "old";
    struct iovec near = {from, 4}, far = {to, 4};
    return CALL(number, getpid(), &near, 1UL, &far, 1UL, 0UL);
}

static long write_memory(void) { return copy_memory(SYS_process_vm_writev); }
static long read_memory(void) { return copy_memory(SYS_process_vm_readv); }
static long probe_parent(void) { return CALL(SYS_kill, getppid(), 0); }
static long kill_thread(void) { return CALL(SYS_tgkill, getpid(), 0x7fffffff, SIGKILL); } /* no such thread */
static long pidfd(void) { return CALL(SYS_pidfd_open, getpid(), 0); }
static long steal_fd(void) { return CALL(SYS_pidfd_getfd, -1, 0, 0); }

/* ---- the terminal, and entries by other doors ---- */

/* The kernel takes the low 32 bits of cmd; a filter that compares 64 does not see TIOCSTI (CVE-2019-10063). */
static long type_ahead(void) { return CALL(SYS_ioctl, 0, 0xdead00000000UL | TIOCSTI, "x"); }

#ifdef __x86_64__
static long int80(long number, long argument) {
    long returned;
    __asm__ volatile("int $0x80" : "=a"(returned) : "a"(number), "b"(argument) : "memory");
    return returned;
}

static long int80_getpid(void) { return int80(20, 0); }            /* asm/unistd_32.h */
static long int80_setuid(void) { return int80(213, getuid()); }    /* setuid32 */
static long x32_getpid(void) { return CALL(0x40000000 | SYS_getpid); }
static long arch_base(void) { return CALL(SYS_arch_prctl, ARCH_SET_GS, 0UL); }
#endif

static long future_call(void) { return CALL(4000); }

/* ---- what hides its arguments in memory ---- */

static long ring(void) {
    struct io_uring_params parameters = {0};
    return CALL(SYS_io_uring_setup, 1, &parameters);
}

static long open_at_2(void) {
    struct open_how how = {.flags = O_RDWR};
    return CALL(SYS_openat2, AT_FDCWD, "victim.out", &how, sizeof how);
}

static long clone_3(void) {
    struct clone_args arguments = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    pid_t child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    return ends_with(child);
}

/* ---- files ---- */

static long open_for_both(void) { return CALL(SYS_openat, AT_FDCWD, "victim.out", O_RDWR, 0); }
static long set_user_id(void) { return result(chmod("victim.out", 04755)); }
static long make_link(void) { return result(symlink("victim.out", "victim.link")); }
static long remove_file(void) { return result(unlink("no-such-file")); }
static long make_device(void) { return CALL(SYS_mknodat, -1, "null", S_IFCHR | 0600, 0x103); }
static long open_by_handle(void) { return CALL(SYS_open_by_handle_at, -1, page, O_RDONLY); }

/* ---- privileges ---- */

static long become_user(void) { return CALL(SYS_setuid, getuid()); }
static long become_users(void) { return CALL(SYS_setresuid, -1, -1, -1); }

static long raise_capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data))
        return -errno;
    return CALL(SYS_capset, &header, data);
}

static long personality_exec(void) { return CALL(SYS_personality, READ_IMPLIES_EXEC); }
static long process_dumpable(void) { return CALL(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); }
static long descriptor_owner(void) { return CALL(SYS_fcntl, 0, F_SETOWN, 0); }
static long limits(void) { return CALL(SYS_prlimit64, 0, RLIMIT_CORE, page, NULL); }
static long filter_query(void) {
    uint32_t action = SECCOMP_RET_KILL_PROCESS;
    return CALL(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
}

/* ---- namespaces and mounts ---- */

static long new_namespace(void) {
    long answer;
    do {
        answer = CALL(SYS_unshare, CLONE_NEWUSER);
    } while (answer == -EINVAL); /* the thread that was joined has not ended yet */
    return answer;
}
static long enter_namespace(void) { return CALL(SYS_setns, -1, CLONE_NEWNET); }
static long mount_nothing(void) { return CALL(SYS_mount, "none", "/no-such-folder", "tmpfs", MS_NOSUID | MS_NODEV, NULL); }
static long unmount(void) { return CALL(SYS_umount2, "/no-such-folder", MNT_DETACH); }
static long change_root(void) { return CALL(SYS_chroot, "/no-such-folder"); }
static long pivot(void) { return CALL(SYS_pivot_root, "/no-such-folder", "/no-such-folder"); }
static long new_mount(void) { return CALL(SYS_fsopen, "tmpfs", 1); }

/* ---- the kernel ---- */

static long bpf_map(void) {
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return CALL(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
}

static long performance(void) {
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_DUMMY,
                                    .exclude_kernel = 1, .exclude_hv = 1};
    return CALL(SYS_perf_event_open, &event, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static long keys(void) { return CALL(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 0, 0, 0); }
static long add_key(void) { return CALL(SYS_add_key, "user", "callfence", "x", 1UL, KEY_SPEC_PROCESS_KEYRING); }
static long new_kernel(void) { return CALL(SYS_kexec_load, 0UL, 0UL, NULL, 0xffff0000UL); } /* no such machine */
static long load_module(void) { return CALL(SYS_finit_module, -1, "", 0); }
static long unload_module(void) { return CALL(SYS_delete_module, "no_such_module", O_NONBLOCK); }
static long restart(void) { return CALL(SYS_reboot, 0, 0, 0x1234567, NULL); } /* bad magic */
static long kernel_log(void) { return CALL(SYS_syslog, 10, NULL, 0); } /* SYSLOG_ACTION_SIZE_BUFFER */
static long accounting(void) { return CALL(SYS_acct, "/no-such-file"); }
static long swap(void) { return CALL(SYS_swapon, "/no-such-file", 0); }
static long host_name(void) { return CALL(SYS_sethostname, "x", -1); }

static long clock_back(void) {
    struct timespec invalid = {0, -1};
    return CALL(SYS_clock_settime, CLOCK_REALTIME, &invalid);
}

#define ATTACK(name) {#name, name}
static const struct { const char *name; long (*run)(void); } attacks[] = {
    ATTACK(shell), ATTACK(exec_shell), ATTACK(exec_at), ATTACK(exec_memfd),
    ATTACK(clone_newuser), ATTACK(clone_newpid),
    ATTACK(connect_back), ATTACK(udp), ATTACK(unix_datagram), ATTACK(sniffer), ATTACK(netlink), ATTACK(socket_option),
    ATTACK(mprotect_wx), ATTACK(mprotect_exec), ATTACK(pkey_wx), ATTACK(mmap_wx), ATTACK(madvise_other),
    ATTACK(secret_memory), ATTACK(page_faults),
    ATTACK(ptrace_attach), ATTACK(write_memory), ATTACK(read_memory), ATTACK(probe_parent), ATTACK(kill_thread),
    ATTACK(pidfd), ATTACK(steal_fd),
    ATTACK(type_ahead), ATTACK(future_call),
    ATTACK(ring), ATTACK(open_at_2), ATTACK(clone_3),
    ATTACK(open_for_both), ATTACK(set_user_id), ATTACK(make_link), ATTACK(remove_file), ATTACK(make_device),
    ATTACK(open_by_handle),
    ATTACK(become_user), ATTACK(become_users), ATTACK(raise_capabilities), ATTACK(personality_exec),
    ATTACK(process_dumpable), ATTACK(descriptor_owner), ATTACK(limits), ATTACK(filter_query),
    ATTACK(new_namespace), ATTACK(enter_namespace), ATTACK(mount_nothing), ATTACK(unmount), ATTACK(change_root),
    ATTACK(pivot), ATTACK(new_mount),
    ATTACK(bpf_map), ATTACK(performance), ATTACK(keys), ATTACK(add_key), ATTACK(new_kernel), ATTACK(load_module),
    ATTACK(unload_module), ATTACK(restart), ATTACK(kernel_log), ATTACK(accounting), ATTACK(swap), ATTACK(host_name),
    ATTACK(clock_back),
#ifdef __x86_64__
    ATTACK(raw_fork), ATTACK(raw_vfork), ATTACK(int80_getpid), ATTACK(int80_setuid), ATTACK(x32_getpid), ATTACK(arch_base),
#endif
};

int main(int count, char **arguments) {
    const char *wanted = count > 1 ? arguments[1] : "benign";

    setvbuf(stdout, NULL, _IONBF, 0); /* what was printed stays printed when the kernel kills the process */
    if (!strcmp(wanted, "list")) {
        for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++)
            puts(attacks[i].name);
        return 0;
    }
    benign();
    puts("benign work done");
    if (!strcmp(wanted, "benign"))
        return 0;
    for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++)
        if (!strcmp(attacks[i].name, wanted)) {
            printf("attack %s: %ld\n", wanted, attacks[i].run());
            return 0;
        }
    fprintf(stderr, "victim: no attack is called %s\n", wanted);
    return 2;
}
