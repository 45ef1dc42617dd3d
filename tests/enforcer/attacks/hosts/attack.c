// Attempts to reach a peer without a line: `attack NAME ...`, each in a process of its own, in the folder of network.py.
// Each sends <NAME> to 10.77.0.2 or another peer that is forbidden, and afterwards <NAME.ok> to 10.77.0.1, which is allowed.  The
// line about it has what its calls came to.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/if_alg.h>
#include <linux/if_packet.h>
#include <linux/in6.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <linux/vm_sockets.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ALLOWED "10.77.0.1"
#define FORBIDDEN "10.77.0.2"
#define ALLOWED6 "fd00:77::1"
#define FORBIDDEN6 "fd00:77::2"
#define NAMESERVER "10.77.0.53"
#define PORT 7000
#ifndef ROUNDS
#define ROUNDS 3000  // tools/storm/storm_hosts.py has more
#endif

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;
    char bytes[128];
} Address;

static char word[80];
static char line[4096];
static size_t size4 = sizeof(struct sockaddr_in), size6 = sizeof(struct sockaddr_in6);

static long said(const char *what, long result)
{
    int number = errno;
    size_t used = strlen(line);
    snprintf(line + used, sizeof line - used, " %s=%s", what, result < 0 ? strerrorname_np(number) : "done");
    errno = number;
    return result;
}

static Address v4(const char *host, int port)
{
    Address made = {.v4 = {.sin_family = AF_INET, .sin_port = htons(port)}};
    inet_pton(AF_INET, host, &made.v4.sin_addr);
    return made;
}

static Address v6(const char *host, int port)
{
    Address made = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)}};
    inet_pton(AF_INET6, host, &made.v6.sin6_addr);
    return made;
}

static socklen_t unix_at(Address *at, const char *path, int length)  // the length given, or that of the text with its NUL
{
    memset(at, 0, sizeof *at);
    at->un.sun_family = AF_UNIX;
    memcpy(at->un.sun_path, path, length < 0 ? strlen(path) + 1 : (size_t)length);
    return offsetof(struct sockaddr_un, sun_path) + (length < 0 ? strlen(path) + 1 : (size_t)length);
}

static int tcp(void) { return socket(AF_INET, SOCK_STREAM, 0); }
static int udp(void) { return socket(AF_INET, SOCK_DGRAM, 0); }
static int tcp6(void) { return socket(AF_INET6, SOCK_STREAM, 0); }
static int udp6(void) { return socket(AF_INET6, SOCK_DGRAM, 0); }

static void tell(int made)
{
    said("send", send(made, word, strlen(word), MSG_NOSIGNAL));
}

static void connect_tell(int made, const Address *to, socklen_t size)
{
    if (said("connect", connect(made, &to->any, size)) == 0) tell(made);
}

static void send_to(int made, const Address *to, socklen_t size)
{
    said("sendto", sendto(made, word, strlen(word), MSG_NOSIGNAL, &to->any, size));
}

static struct iovec part;

static struct msghdr message(Address *to, socklen_t size)
{
    part = (struct iovec){word, strlen(word)};
    return (struct msghdr){.msg_name = to, .msg_namelen = size, .msg_iov = &part, .msg_iovlen = 1};
}

static void send_msg(int made, Address *to, socklen_t size)
{
    struct msghdr head = message(to, size);
    said("sendmsg", sendmsg(made, &head, MSG_NOSIGNAL));
}

// Plain

static void plain_tcp(void) { Address to = v4(FORBIDDEN, PORT); connect_tell(tcp(), &to, size4); }
static void plain_tcp6(void) { Address to = v6(FORBIDDEN6, PORT); connect_tell(tcp6(), &to, size6); }
static void plain_udp(void) { Address to = v4(FORBIDDEN, PORT); connect_tell(udp(), &to, size4); }
static void sendto_udp(void) { Address to = v4(FORBIDDEN, PORT); send_to(udp(), &to, size4); }
static void sendto_udp6(void) { Address to = v6(FORBIDDEN6, PORT); send_to(udp6(), &to, size6); }
static void sendmsg_udp(void) { Address to = v4(FORBIDDEN, PORT); send_msg(udp(), &to, size4); }
static void sendmsg_udp6(void) { Address to = v6(FORBIDDEN6, PORT); send_msg(udp6(), &to, size6); }

static void sendmmsg_second(void)
{
    Address to[3] = {v4(ALLOWED, PORT), v4(FORBIDDEN, PORT), v4(FORBIDDEN, PORT)};
    struct mmsghdr heads[3] = {{message(&to[0], size4), 0}, {message(&to[1], size4), 0}, {message(&to[2], size4), 0}};
    struct iovec own = {"<sendmmsg_second.first>", 23};
    heads[0].msg_hdr.msg_iov = &own;
    long result = said("sendmmsg", sendmmsg(udp(), heads, 3, MSG_NOSIGNAL));
    snprintf(line + strlen(line), 20, " count=%ld", result);
}

static void other_port(void) { Address to = v4(ALLOWED, PORT); to.v4.sin_port = htons(7001); send_to(udp(), &to, size4); connect_tell(tcp(), &to, size4); }
static void loopback(void) { Address to = v4("127.0.0.1", PORT); connect_tell(tcp(), &to, size4); send_to(udp(), &to, size4); }
static void loopback6(void) { Address to = v6("::1", PORT); connect_tell(tcp6(), &to, size6); send_to(udp6(), &to, size6); }

// Forms of addresses

static void mapped(void)
{
    Address to = v6("::ffff:" FORBIDDEN, PORT);
    connect_tell(tcp6(), &to, size6);
    send_to(udp6(), &to, size6);
    send_msg(udp6(), &to, size6);
    connect_tell(udp6(), &to, size6);
}

static void v4_on_v6(void) { Address to = v4(FORBIDDEN, PORT); send_to(udp6(), &to, size4); send_msg(udp6(), &to, size4); connect_tell(udp6(), &to, size4); }

static void zero(void)
{
    Address to = v4("0.0.0.0", PORT);
    connect_tell(tcp(), &to, size4);
    send_to(udp(), &to, size4);
}

static void zero6(void)
{
    Address to = v6("::", PORT);
    connect_tell(tcp6(), &to, size6);
    send_to(udp6(), &to, size6);
}

static int bound_to(int made, Address *own, socklen_t size)
{
    said("bind", bind(made, &own->any, size));
    return made;
}

static void zero_bound(void)  // 0.0.0.0 is the address that the socket is bound to
{
    Address own = v4(FORBIDDEN, 0), to = v4("0.0.0.0", 7001);
    connect_tell(bound_to(tcp(), &own, size4), &to, size4);
    send_to(bound_to(udp(), &own, size4), &to, size4);
}

static void zero6_bound(void)
{
    Address own = v6("::ffff:" FORBIDDEN, 0), to = v6("::", 7002), zero = v6("::ffff:0.0.0.0", 7001);
    connect_tell(bound_to(tcp6(), &own, size6), &to, size6);
    send_to(bound_to(udp6(), &own, size6), &to, size6);
    send_to(bound_to(udp6(), &own, size6), &zero, size6);
}

static void link_local(void)
{
    Address to = v6("fe80::77", PORT);
    to.v6.sin6_scope_id = 1;
    connect_tell(tcp6(), &to, size6);
    send_to(udp6(), &to, size6);
}

static void lengths(void)
{
    Address to = v4(FORBIDDEN, PORT), to6 = v6(FORBIDDEN6, PORT);
    send_to(udp6(), &to6, 24);
    connect_tell(tcp6(), &to6, 24);
    send_to(udp(), &to, 128);
    connect_tell(tcp(), &to, 100);
    for (int size = 0; size < 16; size++) sendto(udp(), word, strlen(word), 0, &to.any, size);
    for (int size = 0; size < 24; size++) connect(udp6(), &to6.any, size);
    send_to(udp(), &to, 129);
    send_to(udp(), &to, -1);
}

static void unspecified(void)
{
    Address to = v4(FORBIDDEN, PORT);
    to.any.sa_family = AF_UNSPEC;
    send_to(udp(), &to, size4);
    send_msg(udp(), &to, size4);
}

static void unspecified_connected(void)
{
    Address to = v4(FORBIDDEN, PORT), first = v4(ALLOWED, PORT);
    int made = udp();
    connect(made, &first.any, size4);
    to.any.sa_family = AF_UNSPEC;
    send_to(made, &to, size4);
    said("connect", connect(made, &to.any, size4));
    send_to(made, &to, size4);
}

static volatile int over;
static volatile long turns;
static int raced;

static void *change_family(void *unused)  // an IPv6 socket becomes one of IPv4
{
    int inet = AF_INET;
    while (!over) { setsockopt(raced, IPPROTO_IPV6, IPV6_ADDRFORM, &inet, sizeof inet); turns++; }
    return 0;
}

static pthread_t thread(void *(*work)(void *))
{
    pthread_t made;
    over = 0;
    turns = 0;
    if (pthread_create(&made, 0, work, 0)) said("thread", -1);
    while (!turns) sched_yield();
    return made;
}

static void spin(void)
{
    static unsigned seed = 1;
    seed = seed * 1664525 + 1013904223;
    for (volatile unsigned turn = seed >> 22; turn; turn--);
}

static void join(pthread_t made)
{
    over = 1;
    pthread_join(made, 0);
}

static void address_form(void)
{
    Address first = v6("::ffff:" ALLOWED, PORT), to = v4(FORBIDDEN, PORT);
    to.any.sa_family = AF_UNSPEC;
    pthread_t other = 0;
    raced = udp6();
    other = thread(change_family);
    for (int round = 0; round < ROUNDS / 10; round++) {
        int made = udp6();
        connect(made, &first.any, size6);
        dup2(made, raced);
        for (int send = 0; send < 4; send++) sendto(raced, word, strlen(word), MSG_NOSIGNAL, &to.any, size4);
        close(made);
    }
    join(other);
}

static void address_form_calm(void)
{
    Address first = v6("::ffff:" ALLOWED, PORT), to = v4(FORBIDDEN, PORT);
    int made = udp6(), inet = AF_INET;
    said("first", connect(made, &first.any, size6));
    said("form", setsockopt(made, IPPROTO_IPV6, IPV6_ADDRFORM, &inet, sizeof inet));
    to.any.sa_family = AF_UNSPEC;
    send_to(made, &to, size4);
    connect_tell(made, &(Address){.v4 = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = v4(FORBIDDEN, 0).v4.sin_addr}}, size4);
}

// Order of calls

static void connect_twice(void)
{
    Address first = v4(ALLOWED, PORT), to = v4(FORBIDDEN, PORT);
    int made = udp();
    said("first", connect(made, &first.any, size4));
    connect_tell(made, &to, size4);
}

static void connect_twice_tcp(void)
{
    Address first = v4(ALLOWED, PORT), none = {.any = {.sa_family = AF_UNSPEC}}, to = v4(FORBIDDEN, PORT);
    int made = tcp();
    said("first", connect(made, &first.any, size4));
    said("none", connect(made, &none.any, size4));
    said("second", connect(made, &to.any, size4));
    tell(made);
}

static void connected_sendto(void)
{
    Address first = v4(ALLOWED, PORT), to = v4(FORBIDDEN, PORT);
    int made = udp();
    said("first", connect(made, &first.any, size4));
    send_to(made, &to, size4);
    send_msg(made, &to, size4);
}

static void corked(void)  // what waits goes where the first part goes
{
    Address first = v4(ALLOWED, PORT), to = v4(FORBIDDEN, PORT);
    int made = udp();
    sendto(made, "x", 1, MSG_MORE, &first.any, size4);
    said("connect", connect(made, &to.any, size4));
    tell(made);
    said("sendto", sendto(udp(), "x", 1, MSG_MORE, &to.any, size4));
    send_to(udp(), &to, size4);
}

static void uncork(int made)
{
    int zero = 0;
    said("uncork", setsockopt(made, SOL_UDP, UDP_CORK, &zero, sizeof zero));
}

static void cork_to_host(void)  // what waits goes where connect(2) leads, which is permitted, and sends nothing
{
    Address first = v4(ALLOWED, PORT), to = v4("10.77.0.3", PORT);
    int made = udp();
    said("sendto", sendto(made, word, strlen(word), MSG_MORE, &first.any, size4));
    said("connect", connect(made, &to.any, size4));
    uncork(made);
}

static void cork_to_mixture(void)  // the address of IPv4 is written over a part of that of IPv6
{
    Address first = v6(ALLOWED6, PORT), to = v6("::ffff:" ALLOWED, PORT);
    for (int connected = 0; connected < 2; connected++) {
        int made = udp6();
        if (connected) said("first", connect(made, &first.any, size6));
        said("sendto", sendto(made, word, strlen(word), MSG_MORE, connected ? NULL : &first.any, connected ? 0 : size6));
        said("connect", connect(made, &to.any, size6));
        uncork(made);
    }
}

static volatile int corking;

static void *keep_corking(void *made)
{
    while (corking) send(*(int *)made, word, strlen(word), MSG_MORE | MSG_DONTWAIT);
    return NULL;
}

static void cork_race(void)  // another thread begins datagrams meanwhile
{
    Address first = v6(ALLOWED6, PORT), to = v6("::ffff:" ALLOWED, PORT);
    int made = udp6();
    pthread_t other;
    corking = 1;
    pthread_create(&other, NULL, keep_corking, &made);
    for (int round = 0; round < ROUNDS / 10; round++) {
        connect(made, &first.any, size6);
        connect(made, &to.any, size6);
    }
    corking = 0;
    pthread_join(other, NULL);
}

// TCP fast open

static void fast_open(void)
{
    Address to = v4(FORBIDDEN, PORT);
    said("sendto", sendto(tcp(), word, strlen(word), MSG_FASTOPEN, &to.any, size4));
}

static void fast_open_msg(void)
{
    Address to = v4(FORBIDDEN, PORT);
    struct msghdr head = message(&to, size4);
    said("sendmsg", sendmsg(tcp(), &head, MSG_FASTOPEN));
}

static void fast_open_mmsg(void)
{
    Address to = v4(FORBIDDEN, PORT);
    struct mmsghdr head = {message(&to, size4), 0};
    said("sendmmsg", sendmmsg(tcp(), &head, 1, MSG_FASTOPEN));
}

static void fast_open_connect(void)
{
    Address to = v4(FORBIDDEN, PORT);
    int made = tcp(), one = 1;
    said("option", setsockopt(made, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one));
    connect_tell(made, &to, size4);
}

static void fast_open_deferred(void)  // it has connected to the allowed peer, but no packet has been sent
{
    Address first = v4(ALLOWED, PORT), to = v4(FORBIDDEN, PORT), none = {.any = {.sa_family = AF_UNSPEC}};
    int made = tcp(), one = 1;
    said("option", setsockopt(made, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one));
    said("first", connect(made, &first.any, size4));
    send_to(made, &to, size4);
    said("none", connect(made, &none.any, size4));
    send_to(made, &to, size4);
    if (said("second", connect(made, &to.any, size4)) == 0) tell(made);
}

static void repair(void)
{
    Address to = v4(FORBIDDEN, PORT), own = v4(ALLOWED, 7777);
    int made = tcp(), on = 1, off = 0;
    said("repair", setsockopt(made, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on));
    bind(made, &own.any, size4);
    said("connect", connect(made, &to.any, size4));
    said("end", setsockopt(made, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off));
    tell(made);
}

// Other kinds of sockets

static void try_kind(const char *what, int family, int type, int protocol)
{
    int made = said(what, socket(family, type, protocol));
    Address to = family == AF_INET6 ? v6(FORBIDDEN6, PORT) : v4(FORBIDDEN, PORT);
    if (made < 0) return;
    connect_tell(made, &to, family == AF_INET6 ? size6 : size4);
    close(made);
}

static void mptcp(void) { try_kind("mptcp", AF_INET, SOCK_STREAM, 262); try_kind("mptcp6", AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 262); }
static void udplite(void) { try_kind("udplite", AF_INET, SOCK_DGRAM, 136); try_kind("udplite6", AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 136); }

static void sctp(void)
{
    try_kind("stream", AF_INET, SOCK_STREAM, IPPROTO_SCTP);
    try_kind("seqpacket", AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP);
    try_kind("seqpacket6", AF_INET6, SOCK_SEQPACKET, IPPROTO_SCTP);
}

static void dccp(void) { try_kind("dccp", AF_INET, 6, IPPROTO_DCCP); try_kind("any", AF_INET, 6, 0); }
static void l2tp(void) { try_kind("l2tp", AF_INET, SOCK_DGRAM, 115); try_kind("l2tp6", AF_INET6, SOCK_DGRAM, 115); }

static void smc(void)
{
    try_kind("smc", 43, SOCK_STREAM, 0);
    try_kind("smc6", 43, SOCK_STREAM, 1);
    try_kind("protocol", AF_INET, SOCK_STREAM, 256);
    int made = tcp();
    said("ulp", setsockopt(made, IPPROTO_TCP, TCP_ULP, "smc", 4));
}

static void families(void)
{
    static const struct { const char *name; int family, type, protocol; } rows[] = {
        {"rds", 21, SOCK_SEQPACKET, 0}, {"tipc", 30, SOCK_DGRAM, 0}, {"tipc", 30, SOCK_STREAM, 0}, {"vsock", 40, SOCK_STREAM, 0},
        {"vsock", 40, SOCK_DGRAM, 0}, {"xdp", 44, SOCK_RAW, 0}, {"key", 15, SOCK_RAW, 2}, {"x25", 9, SOCK_SEQPACKET, 0},
        {"bluetooth", 31, SOCK_RAW, 1}, {"can", 29, SOCK_RAW, 1}, {"llc", 26, SOCK_DGRAM, 0}, {"phonet", 35, SOCK_DGRAM, 0},
        {"rxrpc", 33, SOCK_DGRAM, AF_INET}, {"kcm", 41, SOCK_DGRAM, 0}, {"qipcrtr", 42, SOCK_DGRAM, 0}, {"mctp", 45, SOCK_DGRAM, 0},
        {"pppox", 24, SOCK_DGRAM, 0}, {"ieee802154", 36, SOCK_DGRAM, 0}, {"nfc", 39, SOCK_RAW, 0}, {"atm", 8, SOCK_DGRAM, 0},
        {"old packet", AF_INET, SOCK_PACKET, 0x300}, {"rdm", AF_INET, SOCK_RDM, 0},
        {"high bits", AF_INET, SOCK_STREAM | 0x10000, 0}, {"type 0", AF_INET, 0, 0}, {"ip", AF_INET, SOCK_DGRAM, 4},
    };
    for (unsigned row = 0; row < sizeof rows / sizeof *rows; row++) try_kind(rows[row].name, rows[row].family, rows[row].type, rows[row].protocol);
}

static void pairs(void)  // socketpair(2) makes sockets, too
{
    int made[2];
    static const int kinds[][3] = {{30, SOCK_DGRAM, 0}, {30, SOCK_SEQPACKET, 0}, {43, SOCK_STREAM, 0}, {31, SOCK_SEQPACKET, 0}, {AF_INET, SOCK_RAW, 255}};
    for (int kind = 0; kind < 5; kind++) said("socketpair", socketpair(kinds[kind][0], kinds[kind][1], kinds[kind][2], made));
}

static void upper_halves(void)  // the kernel reads an int of a register
{
    Address to = v4(FORBIDDEN, PORT);
    long high = 0x7777777700000000;
    int made = syscall(SYS_socket, AF_INET | high, SOCK_DGRAM | high, 136 | high);
    said("udplite", made);
    if (made >= 0) connect_tell(made, &to, size4);
    made = syscall(SYS_socket, AF_INET | high, SOCK_STREAM | high, high);
    said("connect", syscall(SYS_connect, made | high, &to, size4 | high));
    tell(made);
    made = tcp();
    said("fast open", syscall(SYS_sendto, made | high, word, strlen(word), MSG_FASTOPEN | high, &to, size4 | high));
    said("options", syscall(SYS_setsockopt, made | high, high, 4 | high, "\1\1\1", 4 | high));
    tell(made);
}

static unsigned short sum(const void *data, size_t size)
{
    unsigned total = 0;
    for (const unsigned short *one = data; size > 1; size -= 2) total += *one++;
    total = (total >> 16) + (total & 0xFFFF);
    return ~(total + (total >> 16));
}

static void ping(void)
{
    struct { struct icmphdr head; char text[64]; } echo = {.head = {.type = ICMP_ECHO}};
    struct { struct icmp6_hdr head; char text[64]; } echo6 = {.head = {.icmp6_type = ICMP6_ECHO_REQUEST}};
    memcpy(echo.text, word, strlen(word));
    memcpy(echo6.text, word, strlen(word));
    Address to = v4(FORBIDDEN, 0), to6 = v6(FORBIDDEN6, 0), port = v4(FORBIDDEN, PORT);
    int made = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), made6 = socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
    said("ping", sendto(made, &echo, sizeof echo, 0, &to.any, size4));
    said("ping", sendto(made, &echo, sizeof echo, 0, &port.any, size4));
    said("ping6", sendto(made6, &echo6, sizeof echo6, 0, &to6.any, size6));
    if (said("connect", connect(made, &to.any, size4)) == 0) said("send", send(made, &echo, sizeof echo, MSG_NOSIGNAL));
}

static size_t packet_to(char *made)  // an IP packet with a UDP datagram
{
    size_t text = strlen(word), whole = 28 + text;
    memset(made, 0, whole);
    memcpy(made, (char[]){0x45, 0, 0, whole, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2}, 20);
    unsigned short check = sum(made, 20);
    memcpy(made + 10, &check, 2);
    memcpy(made + 20, (char[]){0, 9, PORT >> 8, PORT & 255, 0, 8 + text, 0, 0}, 8);
    memcpy(made + 28, word, text);
    return whole;
}

static void raw(void)
{
    char bytes[256];
    size_t whole = packet_to(bytes);
    Address to = v4(FORBIDDEN, 0), to6 = v6(FORBIDDEN6, 0);
    int made = said("raw", socket(AF_INET, SOCK_RAW, IPPROTO_RAW)), made6 = said("raw6", socket(AF_INET6, SOCK_RAW, IPPROTO_UDP));
    if (made >= 0) said("sendto", sendto(made, bytes, whole, 0, &to.any, size4));
    if (made6 >= 0) said("sendto", sendto(made6, bytes + 20, whole - 20, 0, &to6.any, size6));
}

static void packets(void)
{
    char bytes[256];
    size_t whole = packet_to(bytes);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = 1, .sll_halen = 6};
    int made = said("packet", socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP)));
    if (made >= 0) said("sendto", sendto(made, bytes, whole, 0, (void *)&to, sizeof to));
    said("rawpacket", socket(AF_PACKET, SOCK_RAW, 0));
}

static void netlink(void)  // a socket that takes no IP address, and one that the policy knows nothing about
{
    Address to = v4(FORBIDDEN, PORT);
    int made = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
    send_to(made, &to, size4);
    send_msg(made, &to, size4);
    connect_tell(made, &to, size4);
    made = socket(AF_ALG, SOCK_SEQPACKET, 0);
    if (made >= 0) send_to(made, &to, size4);
    connect_tell(made, &to, size4);
}

// Ways over other hosts

static void ip_options(void)
{
    Address to = v4(ALLOWED, PORT);
    unsigned char route[] = {IPOPT_NOP, IPOPT_LSRR, 7, 4, 10, 77, 0, 2};
    int made = udp(), made6 = udp6();
    said("options", setsockopt(made, IPPROTO_IP, IP_OPTIONS, route, sizeof route));
    send_to(made, &to, size4);
    said("options6", setsockopt(made6, IPPROTO_IP, IP_OPTIONS, route, sizeof route));
    send_to(made6, &to, size4);
}

static void ip_retopts(void)  // the first stop is the destination
{
    Address to = v4(FORBIDDEN, PORT), allowed = v4(ALLOWED, PORT);
    char control[64] = {0};
    struct msghdr head = message(&to, size4);
    head.msg_control = control;
    struct cmsghdr *one = (void *)control;
    *one = (struct cmsghdr){CMSG_LEN(8), IPPROTO_IP, IP_RETOPTS};
    memcpy(CMSG_DATA(one), (unsigned char[]){IPOPT_NOP, IPOPT_LSRR, 7, 4, 10, 77, 0, 1}, 8);
    head.msg_controllen = CMSG_SPACE(8);
    said("sendmsg", sendmsg(udp(), &head, 0));
    head.msg_name = &allowed;
    memcpy(CMSG_DATA(one) + 4, (unsigned char[]){10, 77, 0, 2}, 4);
    said("sendmsg", sendmsg(udp(), &head, 0));
    int made = udp();
    connect(made, &allowed.any, size4);
    head.msg_name = 0;
    head.msg_namelen = 0;
    said("connected", sendmsg(made, &head, 0));
    char two[64] = {0};  // after another one, whose length is odd
    *(struct cmsghdr *)two = (struct cmsghdr){CMSG_LEN(4), IPPROTO_IP, IP_TTL};
    two[16] = 9;
    memcpy(two + CMSG_SPACE(4), control, CMSG_SPACE(8));
    head.msg_control = two;
    head.msg_controllen = CMSG_SPACE(4) + CMSG_SPACE(8);
    said("second", sendmsg(made, &head, 0));
}

static void routing_header(unsigned char *made, const char *over)  // type 2 (RFC 6275)
{
    memset(made, 0, 24);
    made[1] = 2, made[2] = 2, made[3] = 1;
    inet_pton(AF_INET6, over, made + 8);
}

static void rthdr(void)
{
    Address to = v6(ALLOWED6, PORT);
    unsigned char header[40] = {0, 4, 4, 1, 1};  // segments, of which the last is the first (RFC 8754)
    inet_pton(AF_INET6, ALLOWED6, header + 8);
    inet_pton(AF_INET6, FORBIDDEN6, header + 24);
    int made = udp6();
    said("rthdr", setsockopt(made, IPPROTO_IPV6, IPV6_RTHDR, header, 40));
    send_to(made, &to, size6);
    routing_header(header, FORBIDDEN6);
    made = udp6();
    said("older", setsockopt(made, IPPROTO_IPV6, 5, header, 24));
    send_to(made, &to, size6);
}

static void rthdr_control(void)
{
    Address to = v6(ALLOWED6, PORT);
    char control[64] = {0};
    struct msghdr head = message(&to, size6);
    struct cmsghdr *one = head.msg_control = control;
    head.msg_controllen = CMSG_SPACE(24);
    static const int kinds[] = {IPV6_RTHDR, 5};
    for (int kind = 0; kind < 2; kind++) {
        *one = (struct cmsghdr){CMSG_LEN(24), IPPROTO_IPV6, kinds[kind]};
        routing_header(CMSG_DATA(one), FORBIDDEN6);
        said("sendmsg", sendmsg(udp6(), &head, 0));
    }
}

static void flow_label(void)  // it may have a routing header
{
    struct { struct in6_flowlabel_req request; struct cmsghdr head; unsigned char header[24]; } label = {{{{{0}}}}};
    Address to = v6(ALLOWED6, PORT);
    int made = udp6(), one = 1;
    memcpy(&label.request.flr_dst, &to.v6.sin6_addr, 16);
    label.request.flr_label = htonl(0x77);
    label.request.flr_action = IPV6_FL_A_GET;
    label.request.flr_share = IPV6_FL_S_EXCL;
    label.request.flr_flags = IPV6_FL_F_CREATE;
    label.head = (struct cmsghdr){CMSG_LEN(24), IPPROTO_IPV6, IPV6_RTHDR};
    routing_header(label.header, FORBIDDEN6);
    said("label", setsockopt(made, IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, &label, sizeof label));
    said("send", setsockopt(made, IPPROTO_IPV6, IPV6_FLOWINFO_SEND, &one, sizeof one));
    to.v6.sin6_flowinfo = htonl(0x77);
    send_to(made, &to, size6);
}

// Other ways to make the calls

static void uring(void)
{
    struct io_uring_params params = {0};
    Address to = v4(FORBIDDEN, PORT);
    int ring = said("setup", syscall(SYS_io_uring_setup, 4, &params)), made = tcp();
    if (ring < 0) return;
    char *queue = mmap(0, params.sq_off.array + 4 * params.sq_entries + (1 << 16), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries = mmap(0, params.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    struct msghdr head = message(&to, size4);
    entries[0] = (struct io_uring_sqe){.opcode = IORING_OP_CONNECT, .fd = made, .addr = (unsigned long)&to, .off = size4};
    entries[1] = (struct io_uring_sqe){.opcode = IORING_OP_SENDMSG, .fd = udp(), .addr = (unsigned long)&head, .len = 1};
    for (int one = 0; one < 2; one++) ((unsigned *)(queue + params.sq_off.array))[one] = one;
    *(unsigned *)(queue + params.sq_off.tail) = 2;
    said("enter", syscall(SYS_io_uring_enter, ring, 2, 2, IORING_ENTER_GETEVENTS, 0, 0));
    tell(made);
}

#define AT(pointer) ((long)(pointer))

#ifdef __x86_64__
static long upper;  // what else the registers have

static long low(long number, long a, long b, long c, long d, long e, long f)  // a call of i386
{
    long result;
    register long r8 asm("r8") = f | upper;
    asm volatile("push %%rbp\n mov %8, %%rbp\n int $0x80\n pop %%rbp"
                 : "=a"(result) : "a"(number), "b"(a | upper), "c"(b | upper), "d"(c | upper), "S"(d | upper), "D"(e | upper), "r"(r8), "r"(r8) : "memory", "r9", "r10", "r11", "cc");
    return result < 0 && result > -4096 ? (errno = -result, -1) : result;
}

static unsigned *page(void)
{
    return mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
}

static void i386(void)
{
    unsigned *at = page();
    Address *to = (void *)(at + 64);
    char *text = (char *)(at + 128);
    strcpy(text, word);
    *to = v4(FORBIDDEN, PORT);
    int made = tcp();
    if (said("connect", low(362, made, AT(to), size4, 0, 0, 0)) == 0) tell(made);
    said("sendto", low(369, udp(), AT(text), strlen(text), 0, AT(to), size4));
    at[0] = AT(text), at[1] = strlen(text);  // iovec
    at[4] = AT(to), at[5] = size4, at[6] = AT(at), at[7] = 1, at[8] = at[9] = at[10] = 0;
    said("sendmsg", low(370, udp(), AT(at + 4), 0, 0, 0, 0));
    said("sendmmsg", low(345, udp(), AT(at + 4), 1, 0, 0, 0));
    int lite = said("udplite", low(359, AF_INET, SOCK_DGRAM, 136, 0, 0, 0));
    if (lite >= 0) said("lite", low(362, lite, AT(to), size4, 0, 0, 0));
    memcpy(at + 200, (unsigned char[]){IPOPT_NOP, IPOPT_LSRR, 7, 4, 10, 77, 0, 1}, 8);
    said("options", low(366, made, IPPROTO_IP, IP_OPTIONS, AT(at + 200), 8, 0));
    said("fastopen", low(369, tcp(), AT(text), strlen(text), MSG_FASTOPEN, AT(to), size4));
    said("uring", low(425, 4, AT(at + 300), 0, 0, 0, 0));
}

static void i386_upper(void) { upper = 0x5a5a5a5a00000000; i386(); }

static void socketcall(void)
{
    unsigned *at = page();
    Address *to = (void *)(at + 64);
    char *text = (char *)(at + 128);
    strcpy(text, word);
    *to = v4(FORBIDDEN, PORT);
    at[0] = tcp(), at[1] = AT(to), at[2] = size4;
    if (said("connect", low(102, 3, AT(at), 0, 0, 0, 0)) == 0) tell(at[0]);
    unsigned sendto_[] = {udp(), AT(text), strlen(text), 0, AT(to), size4};
    memcpy(at, sendto_, sizeof sendto_);
    said("sendto", low(102, 11, AT(at), 0, 0, 0, 0));
    at[30] = AT(text), at[31] = strlen(text), at[20] = AT(to), at[21] = size4, at[22] = AT(at + 30), at[23] = 1;
    at[0] = udp(), at[1] = AT(at + 20), at[2] = 0;
    said("sendmsg", low(102, 16, AT(at), 0, 0, 0, 0));
}

static volatile unsigned *flipped_words;

static void *flip_words(void *unused)  // the address of a sendto that seems to have none
{
    unsigned to = flipped_words[4];
    while (!over) {
        flipped_words[4] = 0;
        turns++;
        spin();
        flipped_words[4] = to;
        spin();
    }
    return 0;
}

static void socketcall_race(void)
{
    unsigned *at = page();
    Address *to = (void *)(at + 64), first = v4(ALLOWED, PORT);
    char *text = (char *)(at + 128);
    strcpy(text, word);
    *to = v4(FORBIDDEN, PORT);
    unsigned words[] = {udp(), AT(text), strlen(text), MSG_NOSIGNAL, AT(to), size4};
    connect(words[0], &first.any, size4);
    memcpy(at, words, sizeof words);
    flipped_words = at;
    pthread_t other = thread(flip_words);
    int sent = 0;
    for (int round = 0; round < ROUNDS; round++) sent += low(102, 11, AT(at), 0, 0, 0, 0) > 0;
    join(other);
    snprintf(line + strlen(line), 30, " sent=%d", sent);
}

static void socketcall_fast_open(void)
{
    unsigned *at = page();
    Address *to = (void *)(at + 64);
    char *text = (char *)(at + 128);
    strcpy(text, word);
    *to = v4(FORBIDDEN, PORT);
    unsigned words[] = {tcp(), AT(text), strlen(text), MSG_FASTOPEN | MSG_NOSIGNAL, AT(to), size4};
    memcpy(at, words, sizeof words);
    said("sendto", low(102, 11, AT(at), 0, 0, 0, 0));
    usleep(10000);  // it may be under way
    tell(at[0]);
    at[30] = AT(text), at[31] = strlen(text), at[20] = AT(to), at[21] = size4, at[22] = AT(at + 30), at[23] = 1;
    at[0] = tcp(), at[1] = AT(at + 20), at[2] = MSG_FASTOPEN;
    said("sendmsg", low(102, 16, AT(at), 0, 0, 0, 0));
}

static void become(int user);

static void socketcall_owner(void)  // who is told by /proc/net and asked by firewalls
{
    unsigned *at = page();
    struct stat found;
    become(12345);
    at[0] = AF_INET, at[1] = SOCK_DGRAM, at[2] = 0;
    int made = said("socket", low(102, 1, AT(at), 0, 0, 0, 0));
    fstat(made, &found);
    snprintf(line + strlen(line), 20, " %d", found.st_uid);
}

static void socketcall_network(void)  // in a network namespace of its own
{
    unsigned *at = page();
    said("unshare", unshare(CLONE_NEWNET));
    at[0] = AF_INET, at[1] = SOCK_DGRAM, at[2] = 0;
    said("socket", low(102, 1, AT(at), 0, 0, 0, 0));
}

static void socketcall_pointers(void)  // of iptables, arptables, ebtables and ip6tables: the kernel writes where a value says
{
    unsigned *at = page(), options[][2] = {{0, 64}, {0, 96}, {0, 128}, {0, 129}, {41, 64}};
    for (int each = 0; each < 5; each++) {
        at[0] = each < 4 ? tcp() : tcp6(), at[1] = options[each][0], at[2] = options[each][1], at[3] = AT(at + 128), at[4] = 512;
        said("replace", low(102, 14, AT(at), 0, 0, 0, 0));
    }
}

static void x32(void)  // killed or failed, each in its own process
{
    Address to = v4(FORBIDDEN, PORT);
    struct msghdr head = message(&to, size4);
    static const int numbers[] = {42, 44, 46, 518, 307, 538, 541, 41};
    for (int number = 0; number < 8; number++) {
        int made = number == 0 ? tcp() : udp();
        if (!fork()) {
            long second = number == 0 ? AT(&to) : number == 1 ? AT(word) : AT(&head);
            long third = number == 0 ? (long)size4 : number == 1 ? (long)strlen(word) : 0;
            if (syscall(numbers[number] | 0x40000000, made, second, third, 0, &to, size4) == 0) tell(made);
            _exit(0);
        }
        wait(0);
        close(made);
    }
}

#endif

static void aio(void)
{
    aio_context_t context = 0;
    Address to = v4(FORBIDDEN, PORT);
    int made = udp();
    if (said("connect", connect(made, &to.any, size4))) return;
    said("setup", syscall(SYS_io_setup, 4, &context));
    struct iocb one = {.aio_fildes = made, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = AT(word), .aio_nbytes = strlen(word)}, *list = &one;
    said("submit", syscall(SYS_io_submit, context, 1, &list));
}

// A socket that only looks

static const char *const LOOKED = "10.77.0.3";  // of which the policy has a line for TCP only, to another port

static int looking(void)
{
    Address to = v4(LOOKED, PORT);
    int made = udp();
    said("look", connect(made, &to.any, size4));
    return made;
}

static void looked(void)
{
    Address to = v4(LOOKED, PORT), none = {.any = {.sa_family = AF_UNSPEC}}, near = v4("127.0.0.1", PORT);
    int made = looking(), ends[2], off = 0;
    tell(made);
    said("write", write(made, word, strlen(word)));
    struct msghdr head = message(0, 0);
    struct mmsghdr heads = {head, 0};
    said("sendmsg", sendmsg(made, &head, MSG_NOSIGNAL));
    said("sendmmsg", sendmmsg(made, &heads, 1, MSG_NOSIGNAL));
    static const int flags[] = {MSG_DONTROUTE, MSG_CONFIRM, MSG_MORE, MSG_OOB, MSG_PROXY, MSG_EOR, MSG_ZEROCOPY, 0x8000000, 0x80000};
    for (unsigned flag = 0; flag < sizeof flags / sizeof *flags; flag++) said("flag", send(made, word, strlen(word), flags[flag] | MSG_NOSIGNAL));
    setsockopt(made, IPPROTO_UDP, UDP_CORK, &off, sizeof off);
    send_to(made, &to, size4);
    connect(made, &none.any, size4);
    send_to(made, &to, size4);
    said("again", connect(made, &to.any, size4));
    tell(made);
    made = looking();
    connect(made, &near.any, size4);
    tell(made);
    int file = open("word", O_RDWR | O_CREAT | O_TRUNC, 0600);
    write(file, word, strlen(word));
    lseek(file, 0, SEEK_SET);
    said("sendfile", sendfile(made, file, 0, strlen(word)));
    pipe(ends);
    write(ends[1], word, strlen(word));
    said("splice", splice(ends[0], 0, made, 0, strlen(word), 0));
    Address mapped = v6("::ffff:10.77.0.3", PORT);
    made = udp6();
    connect(made, &mapped.any, size6);
    tell(made);
    int inet = AF_INET;
    said("form", setsockopt(made, IPPROTO_IPV6, IPV6_ADDRFORM, &inet, sizeof inet));
    tell(made);
    int dup = fcntl(made, F_DUPFD, 0);
    tell(dup);
}

static void *sends(void *unused)
{
    while (!over) { send(raced, word, strlen(word), MSG_NOSIGNAL | MSG_DONTWAIT); turns++; }
    return 0;
}

static void look_race(void)  // between the connection and its muting
{
    Address to = v4(LOOKED, PORT);
    raced = udp();
    pthread_t other = thread(sends);
    for (int round = 0; round < ROUNDS; round++) {
        int made = udp();
        dup2(made, raced);
        close(made);
        connect(raced, &to.any, size4);
    }
    join(other);
}

// Races

static volatile Address flipped_now;
#define flipped (*(Address *)&flipped_now)
static volatile struct msghdr flipped_head;
static struct iovec flipped_part[2];
static Address good, bad;

static void *flip(void *unused)
{
    while (!over) {
        flipped_now.v4.sin_addr.s_addr = bad.v4.sin_addr.s_addr;
        turns++;
        spin();
        flipped_now.v4.sin_addr.s_addr = good.v4.sin_addr.s_addr;
        spin();
    }
    return 0;
}

static void *flip_head(void *unused)
{
    static Address family;
    family = bad;
    family.any.sa_family = AF_UNSPEC;
    while (!over) {
        flipped_head.msg_name = &bad;
        turns++;
        flipped_head.msg_namelen = turns % 3 ? size4 : turns % 40;
        spin();
        flipped_head.msg_name = &family;
        flipped_head.msg_iov = &flipped_part[1];
        flipped_head.msg_iovlen = turns % 64 ? 1 : turns % 2000;
        flipped_head.msg_name = &good;
        flipped_head.msg_iov = &flipped_part[0];
        flipped_head.msg_controllen = turns % 64;
        flipped_head.msg_controllen = 0;
    }
    return 0;
}

static void start_race(void) { good = flipped = v4(ALLOWED, PORT), bad = v4(FORBIDDEN, PORT); }

static void race_connect(void)
{
    start_race();
    pthread_t other = thread(flip);
    for (int round = 0; round < ROUNDS; round++) {
        int made = udp();
        if (connect(made, &flipped.any, size4) == 0) send(made, word, strlen(word), 0);
        close(made);
    }
    join(other);
}

static volatile int sending;

static void *keep_sending(void *made)
{
    for (int sent = 0; sending && sent < 5000;) sent += send(*(int *)made, word, strlen(word), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
    return 0;
}

static void race_peers(void)  // the address of one peer and the port of the other: 127.0.0.1:7000
{
    Address first = v4(ALLOWED, PORT), second = v4("127.0.0.1", 7001);
    int made = udp();
    pthread_t other;
    connect(made, &first.any, size4);
    sending = 1;
    pthread_create(&other, NULL, keep_sending, &made);
    for (int round = 0; round < ROUNDS; round++) {
        connect(made, &second.any, size4);
        connect(made, &first.any, size4);
    }
    sending = 0;
    pthread_join(other, NULL);
}

static void race_connect_tcp(void)
{
    start_race();
    pthread_t other = thread(flip);
    for (int round = 0; round < ROUNDS / 10; round++) {
        int made = tcp();
        struct linger at_once = {1, 0};
        setsockopt(made, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        if (connect(made, &flipped.any, size4) == 0) send(made, word, strlen(word), 0);
        close(made);
    }
    join(other);
}

static void race_sendto(void)
{
    start_race();
    int made = udp();
    pthread_t other = thread(flip);
    for (int round = 0; round < ROUNDS; round++) sendto(made, word, strlen(word), 0, &flipped.any, size4);
    join(other);
}

static void race_message(int many)
{
    static char control[64];
    start_race();
    *(struct msghdr *)&flipped_head = message(&good, size4);
    flipped_part[0] = part, flipped_part[1] = (struct iovec){word, strlen(word)};
    flipped_head.msg_control = control;
    flipped_head.msg_iov = flipped_part;
    int made = udp();
    pthread_t other = thread(flip_head);
    for (int round = 0; round < ROUNDS; round++) {
        if (many) sendmmsg(made, (void *)&flipped_head, 1, 0);
        else sendmsg(made, (void *)&flipped_head, 0);
    }
    join(other);
}

static void race_sendmsg(void) { race_message(0); }
static void race_sendmmsg(void) { race_message(1); }

static int allowed_socket, looked_socket, unix_socket;

static void *swap(void *unused)  // sockets of which the address means another thing
{
    while (!over) {
        dup2(allowed_socket, raced);
        turns++;
        dup2(looked_socket, raced);
        if (turns % 5 == 0) { close(raced); dup2(unix_socket, raced); }
    }
    return 0;
}

static void race_descriptor(void)
{
    start_race();
    Address to = bad;
    to.any.sa_family = AF_UNSPEC;
    allowed_socket = udp(), looked_socket = udp6(), unix_socket = socket(AF_UNIX, SOCK_DGRAM, 0);
    raced = dup(allowed_socket);
    pthread_t other = thread(swap);
    for (int round = 0; round < ROUNDS; round++) {
        sendto(raced, word, strlen(word), MSG_NOSIGNAL, &to.any, size4);
        connect(raced, &bad.any, size4);
        send(raced, word, strlen(word), MSG_NOSIGNAL);
        struct msghdr head = message(&to, size4);
        sendmsg(raced, &head, MSG_NOSIGNAL);
    }
    join(other);
}

static void *swap_unix(void *unused)
{
    while (!over) {
        renameat2(AT_FDCWD, "allowed/a", AT_FDCWD, "allowed/b", RENAME_EXCHANGE);
        turns++;
    }
    return 0;
}

static void race_symlink(void)
{
    Address to;
    symlink("stream", "allowed/a");
    symlink("../forbidden/stream", "allowed/b");
    socklen_t size = unix_at(&to, "allowed/a", -1);
    pthread_t other = thread(swap_unix);
    for (int round = 0; round < ROUNDS / 10; round++) {
        int made = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(made, &to.any, size) == 0) send(made, word, strlen(word), MSG_NOSIGNAL);
        close(made);
    }
    join(other);
    unlink("allowed/a");
    unlink("allowed/b");
}

static int flips(void *unused) { flip(0); return 0; }

static void shared(int flags)
{
    static char stack[1 << 16];
    start_race();
    over = 0;
    int made = udp();
    int other = clone(flips, stack + sizeof stack, flags | SIGCHLD, 0);
    for (int round = 0; round < ROUNDS / 3; round++) sendto(made, word, strlen(word), 0, &flipped.any, size4);
    over = 1;
    kill(other, SIGKILL);
    waitpid(other, 0, __WALL);
}

static void clone_memory(void) { shared(CLONE_VM); }
static void clone_all(void) { shared(CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND); }

static void by_fork(void)
{
    Address to = v4(FORBIDDEN, PORT);
    int made = udp();
    for (int kind = 0; kind < 2; kind++) {
        pid_t child = kind ? vfork() : fork();
        if (!child) {
            if (connect(made, &to.any, size4) == 0) send(made, word, strlen(word), 0);
            sendto(made, word, strlen(word), 0, &to.any, size4);
            _exit(0);
        }
        waitpid(child, 0, 0);
    }
    send(made, word, strlen(word), MSG_NOSIGNAL);
}

static void passed(void)
{
    int pair[2], made = udp();
    Address to = v4(FORBIDDEN, PORT);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    if (!fork()) {
        char control[CMSG_SPACE(4)] = {0};
        struct msghdr head = message(0, 0);
        head.msg_control = control;
        head.msg_controllen = sizeof control;
        recvmsg(pair[1], &head, 0);
        int got = *(int *)CMSG_DATA((struct cmsghdr *)control);
        connect_tell(got, &to, size4);
        sendto(got, word, strlen(word), 0, &to.any, size4);
        _exit(0);
    }
    char control[CMSG_SPACE(4)] = {0};
    struct msghdr head = message(0, 0);
    struct cmsghdr *one = head.msg_control = control;
    *one = (struct cmsghdr){CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS};
    *(int *)CMSG_DATA(one) = made;
    head.msg_controllen = sizeof control;
    said("pass", sendmsg(pair[0], &head, 0));
    wait(0);
}

static void *dies(void *unused)
{
    Address to = v4(FORBIDDEN, PORT);
    while (1) sendto(raced, word, strlen(word), 0, &to.any, size4);
}

static void dying(void)  // tasks that die while their calls wait; their numbers may be others'
{
    raced = udp();
    for (int round = 0; round < 100; round++) {
        pid_t child = fork();
        if (!child) {
            pthread_t other;
            pthread_create(&other, 0, dies, 0);
            dies(0);
        }
        usleep(round * 20);
        kill(child, SIGKILL);
        waitpid(child, 0, 0);
    }
}

static void execs(void)  // another thread executes while its call waits
{
    raced = udp();
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (!child) {
            pthread_t other;
            pthread_create(&other, 0, dies, 0);
            usleep(round * 100);
            execl("/bin/true", "true", NULL);
        }
        waitpid(child, 0, 0);
    }
}

static void stopped(void)
{
    raced = udp();
    pid_t child = fork();
    if (!child) dies(0);
    for (int round = 0; round < 100; round++) {
        kill(child, SIGSTOP);
        usleep(200);
        kill(child, SIGCONT);
        usleep(200);
    }
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
}

static void traced(void)  // another task changes its registers and its memory while it is stopped
{
    struct { long before; Address to; long after; } *both = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    both->to = v4(ALLOWED, PORT);
    raced = udp();
    pid_t child = fork();
    if (!child) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        for (int round = 0; round < 50; round++) sendto(raced, word, strlen(word), 0, &both->to.any, size4);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    for (int entry = 1;; entry = !entry) {
        both->to.v4.sin_addr = (entry ? v4(ALLOWED, 0) : v4(FORBIDDEN, 0)).v4.sin_addr;
        if (ptrace(PTRACE_SYSCALL, child, 0, 0) || waitpid(child, &status, 0) < 0 || WIFEXITED(status) || WIFSIGNALED(status)) break;
        both->to.v4.sin_addr = v4(FORBIDDEN, 0).v4.sin_addr;
    }
    said("trace", 0);
}

// Names, and sockets that were led to the resolver

static size_t question(unsigned char *made, const char *name, int type)
{
    memcpy(made, "\x77\x77\1\0\0\1\0\0\0\0\0\0", 12);
    size_t at = 12;
    while (*name) {
        size_t length = strcspn(name, ".");
        made[at++] = length;
        memcpy(made + at, name, length);
        at += length;
        name += length + (name[length] == '.');
    }
    made[at++] = 0;
    memcpy(made + at, (unsigned char[]){type >> 8, type, 0, 1}, 4);
    return at + 4;
}

static int asking(void)
{
    Address to = v4(NAMESERVER, 53);
    struct timeval second = {0, 300000};
    int made = udp();
    setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
    said("server", connect(made, &to.any, size4));
    return made;
}

static int asked(int made, const void *query, size_t size)  // the response code, -1 for none
{
    unsigned char answer[2048];
    if (send(made, query, size, MSG_NOSIGNAL) < 0) return -2;
    long count = recv(made, answer, sizeof answer, 0);
    return count < 12 ? -1 : answer[3] & 15;
}

static int ask(const char *name, int type)
{
    unsigned char query[600];
    int made = asking(), code = asked(made, query, question(query, name, type));
    close(made);
    return code;
}

static void led_elsewhere(void)
{
    Address to = v4(FORBIDDEN, PORT), direct = v4(NAMESERVER, PORT);
    int made = asking();
    send_to(made, &to, size4);
    send_msg(made, &to, size4);
    connect_tell(made, &to, size4);
    connect_tell(made, &direct, size4);
    made = tcp();
    Address server = v4(NAMESERVER, 53), none = {.any = {.sa_family = AF_UNSPEC}};
    said("tcp", connect(made, &server.any, size4));
    said("none", connect(made, &none.any, size4));
    connect_tell(made, &to, size4);
}

static void server_ports(void)
{
    Address to = v4(NAMESERVER, PORT);
    connect_tell(tcp(), &to, size4);
    send_to(udp(), &to, size4);
    to = v4(FORBIDDEN, 53);
    send_to(udp(), &to, size4);
}

static void led_port(void)  // the resolver's own, reached without being led there, and others near it
{
    Address found;
    socklen_t size = sizeof found;
    int made = asking();
    said("peer", syscall(SYS_getsockopt, made, SOL_SOCKET, SO_DOMAIN, &found, &size));
    for (int port = 1024; port < 65536; port++) {
        Address to = v4("127.0.0.1", port);
        if (port % 97 == 0 || port == PORT) sendto(made, word, strlen(word), MSG_DONTWAIT, &to.any, size4);
    }
    Address near = v4("127.0.0.1", PORT);
    connect_tell(tcp(), &near, size4);
}

static void forbidden_names(void)
{
    static const char *names[] = {"forbidden.example.net", "example.org", "xname.example.org", "name.example.org.evil.net",
                                  "wild.example.org", "x.name.example.org", "forbidden.example.net.name.example.or",
                                  "2.0.77.10.in-addr.arpa", "localhost", "n\x01me.example.org", ""};
    for (unsigned name = 0; name < sizeof names / sizeof *names; name++) {
        char code[32];
        snprintf(code, sizeof code, "code%d", ask(names[name], 1));
        said(code, 0);
    }
}

static void channel(void)  // what else of a question may tell something
{
    unsigned char query[600];
    int made = asking();
    size_t size = question(query, "NaMe.eXample.ORG", 1);
    query[3] = 0x77, query[2] = 0x07;  // flags
    asked(made, query, size);
    size = question(query, "name.example.org", 1);
    query[11] = 1;
    memcpy(query + size, "\0\0\x29\x10\0\0\0\0\0\0\x0a\xfd\xe9\0\6secret", 21);  // EDNS with an option of its own
    asked(made, query, size + 21);
    size = question(query, "name.example.org", 1);
    memcpy(query + size, "secret", 6);  // after the end
    asked(made, query, size + 6);
    size = question(query, "name.example.org", 1);
    query[5] = 2;
    size_t second = question(query + 300, "secret.example.net", 1);
    memcpy(query + size, query + 312, second - 12);
    asked(made, query, size + second - 12);
    size = question(query, "name.example.org", 1);
    query[size - 1] = 3;  // CHAOS
    asked(made, query, size);
    query[size - 1] = 1, query[2] = 0x28;  // UPDATE
    asked(made, query, size);
    for (int type = 0; type < 300; type++) if (type != 1) {
        size = question(query, "name.example.org", type);
        send(made, query, size, MSG_DONTWAIT);
    }
    said("types", 0);
}

static void wildcard(void)  // many names, and long ones, below one
{
    char name[300];
    unsigned char query[600];
    int made = asking();
    for (int number = 0; number < 700; number++) {
        snprintf(name, sizeof name, "secret%d.wild.example.org", number);
        asked(made, query, question(query, name, 1));
    }
    memset(name, 'x', 63);
    strcpy(name + 63, ".secret.wild.example.org");
    asked(made, query, question(query, name, 1));
    said("asked", 0);
}

static void malformed(void)
{
    unsigned char query[600], bytes[600];
    int made = asking();
    size_t size = question(query, "name.example.org", 1);
    for (size_t cut = 0; cut < size; cut++) send(made, query, cut, MSG_DONTWAIT);
    srand(1);
    for (int round = 0; round < 2000; round++) {
        memcpy(bytes, query, size);
        for (int change = 0; change < 3; change++) bytes[rand() % size] = rand() % 4 ? rand() : 0xC0 | rand();
        send(made, bytes, size, MSG_DONTWAIT);
    }
    Address to = v4(NAMESERVER, 53);
    for (int round = 0; round < 20; round++) {
        int stream = tcp();
        connect(stream, &to.any, size4);
        for (size_t byte = 0; byte < sizeof bytes; byte++) bytes[byte] = rand();
        send(stream, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(stream);
    }
    char code[32];
    close(made);
    snprintf(code, sizeof code, "afterwards%d", ask("name.example.org", 1));
    said(code, 0);
}

static void rebinding(void)
{
    static const char *hosts[] = {"127.0.0.1", "169.254.169.254", "0.0.0.0", FORBIDDEN};
    ask("rebind.example.org", 1);
    ask("rebind.example.org", 28);
    for (int host = 0; host < 4; host++) {
        Address to = v4(hosts[host], PORT);
        send_to(udp(), &to, size4);
        if (host != 1) connect_tell(tcp(), &to, size4);
    }
    static const char *hosts6[] = {"::1", "fe80::77", "::ffff:" FORBIDDEN, "::ffff:127.0.0.1"};
    for (int host = 0; host < 4; host++) {
        Address to = v6(hosts6[host], PORT);
        to.v6.sin6_scope_id = host == 1;
        send_to(udp6(), &to, size6);
        connect_tell(tcp6(), &to, size6);
    }
}

static void answers(void)  // with records of other names, to another question, with a loop
{
    static const char *names[] = {"extra.example.org", "other.example.org", "loop.example.org", "forbidden.example.net"};
    for (int name = 0; name < 4; name++) ask(names[name], 1);
    plain_udp();
    sendto_udp();
    plain_tcp();
}

static void named(void)  // not an attack: a name opens its address, and no other port of that
{
    Address to = v4("10.77.0.4", PORT), other = v4("10.77.0.4", 7001);
    connect_tell(tcp(), &to, size4);
    char code[32];
    snprintf(code, sizeof code, "code%d", ask("name.example.org", 1));
    said(code, 0);
    strcpy(word, "<named.ok2>");
    connect_tell(tcp(), &to, size4);
    connect_tell(tcp(), &other, size4);
}

static long append(const char *path, const char *text)  // the former size
{
    int file = open(path, O_WRONLY | O_APPEND);
    long size = lseek(file, 0, SEEK_END);
    said("write", write(file, text, strlen(text)));
    close(file);
    return size;
}

static void hosts_file(void)  // the names of addresses are read there
{
    Address to = v4(FORBIDDEN, PORT);
    long size = append("/etc/hosts", FORBIDDEN " name.example.org\n");
    connect_tell(tcp(), &to, size4);
    truncate("/etc/hosts", size);
}

static void name_server(void)  // one of its own
{
    Address to = v4(FORBIDDEN, 53);
    long size = append("/etc/resolv.conf", "nameserver " FORBIDDEN "\n");
    unsigned char query[100];
    int made = udp();
    said("connect", connect(made, &to.any, size4));
    said("send", send(made, query, question(query, "<name_server>.wild.example.org", 1), MSG_NOSIGNAL));
    usleep(100000);
    truncate("/etc/resolv.conf", size);
}

// Unix sockets

static void unix_tell(const char *path, int length)
{
    Address to;
    socklen_t size = unix_at(&to, path, length);
    int made = socket(AF_UNIX, SOCK_STREAM, 0);
    connect_tell(made, &to, size);
    close(made);
}

static void unix_path(void) { unix_tell("forbidden/stream", -1); }
static void unix_absolute(void) { char path[128]; snprintf(path, 108, "%s/forbidden/stream", getcwd((char[100]){0}, 100)); unix_tell(path, -1); }
static void unix_symlink(void) { unix_tell("allowed/link", -1); }
static void unix_dots(void) { unix_tell("allowed/../forbidden/./stream", -1); }
static void unix_root(void) { char path[128]; snprintf(path, 108, "/proc/self/root%s/forbidden/stream", getcwd((char[100]){0}, 100)); unix_tell(path, -1); }
static void unix_cwd(void) { unix_tell("/proc/self/cwd/forbidden/stream", -1); char path[64]; snprintf(path, 64, "/proc/%d/cwd/forbidden/stream", getpid()); unix_tell(path, -1); }

static void unix_descriptor(void)
{
    char path[64];
    int folder = open("forbidden", O_PATH), file = open("forbidden/stream", O_PATH);
    snprintf(path, 64, "/proc/self/fd/%d/stream", folder);
    unix_tell(path, -1);
    snprintf(path, 64, "/proc/self/fd/%d", file);
    unix_tell(path, -1);
    snprintf(path, 64, "/proc/%d/fd/%d", getpid(), file);
    unix_tell(path, -1);
    for (int number = 0; number < 40; number++) {  // the helper's, if it were
        snprintf(path, 64, "/proc/self/fd/%d", number);
        Address to;
        socklen_t size = unix_at(&to, path, -1);
        if (number != file) connect(socket(AF_UNIX, SOCK_STREAM, 0), &to.any, size);
    }
}

static void unix_hard_link(void)
{
    said("link", link("forbidden/stream", "allowed/hard"));
    unix_tell("allowed/hard", -1);
    unlink("allowed/hard");
}

static void mounted(void)
{
    char own[100];
    getcwd(own, 100);
    said("mount", mount("forbidden/stream", "allowed/stream", 0, MS_BIND, 0));
    unix_tell("allowed/stream", -1);
    char path[128];
    snprintf(path, 108, "%s/allowed/stream", own);
    unix_tell(path, -1);
    umount2("allowed/stream", MNT_DETACH);
    said("folder", mount("forbidden", "allowed", 0, MS_BIND, 0));
    unix_tell("allowed/stream", -1);
    chdir("allowed");
    unix_tell("stream", -1);
    chdir("..");
    umount2("allowed", MNT_DETACH);
    chdir(own);
}

static void unix_bind_mount(void) { mounted(); }

static void unix_mount_namespace(void)
{
    said("unshare", unshare(CLONE_NEWNS));
    mount("none", "/", 0, MS_REC | MS_PRIVATE, 0);
    mounted();
}

static void unix_user_namespace(void)
{
    char map[32], id[32];
    snprintf(map, 32, "%d", getuid());
    said("unshare", unshare(CLONE_NEWUSER | CLONE_NEWNS));
    int file = open("/proc/self/uid_map", O_WRONLY);
    snprintf(id, 32, "0 %s 1", map);
    write(file, id, strlen(id));
    mounted();
}

static void unix_hidden(void)  // by a sandbox in the program
{
    char path[128];
    snprintf(path, 108, "%s/allowed/stream", getcwd((char[100]){0}, 100));
    said("unshare", unshare(CLONE_NEWUSER | CLONE_NEWNS));
    unix_tell(path, -1);
    said("mount", mount("none", "allowed", "tmpfs", 0, 0));
    unix_tell(path, -1);
}

static void unix_chroot(void)
{
    char own[100];
    getcwd(own, 100);
    int back = open("/", O_PATH);
    mkdir("root", 0755);
    mkdir("root/allowed", 0755);
    char path[200] = "root", *slash = path + 4;  // the same path below, which leads to the forbidden socket
    snprintf(slash, 190, "%s/allowed", own);
    for (char *at = path + 5; *at; at++) if (*at == '/') { *at = 0; mkdir(path, 0755); *at = '/'; }
    mkdir(path, 0755);
    strcat(path, "/stream");
    rename("forbidden/stream", path);
    chroot("root");
    snprintf(path, 108, "%s/allowed/stream", own);
    unix_tell(path, -1);
    fchdir(back);
    chroot(".");
    chdir(own);
    snprintf(path, 200, "root%s/allowed/stream", own);
    rename(path, "forbidden/stream");
}

static void abstract_names(void)
{
    unix_tell("\0forbidden.stream", 17);
    unix_tell("\0allowed.stream\0x", 17);
    unix_tell("\0allowed.strea", 14);
    unix_tell("\0allowed.streamx", 16);
    unix_tell("\0", 1);
    char all[108] = "\0allowed.stream";
    unix_tell(all, 108);
}

static void unix_datagrams(void)
{
    Address to;
    socklen_t size = unix_at(&to, "forbidden/datagram", -1);
    int made = socket(AF_UNIX, SOCK_DGRAM, 0), pair[2];
    send_to(made, &to, size);
    send_msg(made, &to, size);
    connect_tell(made, &to, size);
    size = unix_at(&to, "\0forbidden.datagram", 19);
    send_to(socket(AF_UNIX, SOCK_DGRAM, 0), &to, size);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    send_to(pair[0], &to, size);
    connect_tell(pair[0], &to, size);
    size = unix_at(&to, "allowed/datagram", -1);
    connect(made, &to.any, size);
    size = unix_at(&to, "forbidden/datagram", -1);
    send_to(made, &to, size);
}

static void unix_lengths(void)
{
    Address to;
    char path[300];
    socklen_t size = unix_at(&to, "forbidden/stream", 16);  // without a NUL
    connect_tell(socket(AF_UNIX, SOCK_STREAM, 0), &to, size);
    unix_tell("forbidden/stream\0allowed/stream", 32);
    memset(path, '/', 108);
    memcpy(path, "forbidden", 9);
    memcpy(path + 102, "stream", 6);
    unix_tell(path, 108);  // as long as can be
    memset(&to, 'x', sizeof to);
    to.any.sa_family = AF_UNIX;
    for (int length = 0; length < 129; length++) connect(socket(AF_UNIX, SOCK_STREAM, 0), &to.any, length);
}

// Calls that are wrong

static void wrong_memory(void)
{
    int size = getpagesize();
    char *edge = mmap(0, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(edge + size, size);
    Address to = v4(FORBIDDEN, PORT);
    int made = udp();
    char *cut = edge + size - 8;
    memcpy(cut, &to, 8);
    said("cut", connect(made, (void *)cut, size4));
    said("null", connect(made, 0, size4));
    said("kernel", connect(made, (void *)0xffffffff81000000, size4));
    said("negative", connect(-1, &to.any, size4));
    said("file", connect(open("/dev/null", O_RDONLY), &to.any, size4));
    said("path", connect(open("/", O_PATH), &to.any, size4));
    said("content", sendto(made, (void *)8, 10, 0, &to.any, size4));
    said("huge", sendto(made, word, 1UL << 40, 0, &to.any, size4));
    said("head", sendmsg(made, (void *)cut, 0));
    said("heads", sendmmsg(made, (void *)cut, 1 << 30, 0));
    struct msghdr head = message(&to, size4);
    head.msg_iovlen = 1 << 20;
    said("parts", sendmsg(made, &head, 0));
    head = message(&to, size4);
    part.iov_len = -1;
    said("part", sendmsg(made, &head, 0));
    struct iovec *many = calloc(1024, sizeof *many);
    for (int one = 0; one < 1024; one++) many[one] = (struct iovec){calloc(1, 1 << 16), 1 << 16};
    head.msg_iov = many, head.msg_iovlen = 1024;
    said("long", sendmsg(made, &head, 0));
    head = message(&to, size4);
    head.msg_control = calloc(1, 1 << 20);
    for (long length = 1; length < 1 << 20; length = length * 2 + 1) {
        head.msg_controllen = length;
        sendmsg(made, &head, 0);
        *(size_t *)head.msg_control = length;
        sendmsg(made, &head, 0);
        *(size_t *)head.msg_control = length - 1;
        sendmsg(made, &head, 0);
    }
    head.msg_controllen = -1;
    said("control", sendmsg(made, &head, 0));
    head.msg_control = (void *)8;
    head.msg_controllen = 64;
    said("control at", sendmsg(made, &head, 0));
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    char control[CMSG_SPACE(4 * 300)] = {0};
    struct cmsghdr *one = (void *)control;
    *one = (struct cmsghdr){CMSG_LEN(4 * 300), SOL_SOCKET, SCM_RIGHTS};
    head = message(0, 0);
    head.msg_control = control, head.msg_controllen = sizeof control;
    said("rights", sendmsg(pair[0], &head, 0));
    *one = (struct cmsghdr){CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS};
    *(int *)CMSG_DATA(one) = 12345;
    head.msg_controllen = CMSG_SPACE(4);
    said("closed", sendmsg(pair[0], &head, 0));
    close(made);
    said("bad", sendto(made, word, 1, 0, &to.any, size4));
    sendto_udp();
}

// With more around them: test_hosts.py

static void inherited(void)  // a packet socket, number 9
{
    char bytes[256];
    size_t whole = packet_to(bytes);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = 1, .sll_halen = 6};
    struct msghdr head = message((Address *)&to, sizeof to);
    part = (struct iovec){bytes, whole};
    said("sendto", sendto(9, bytes, whole, 0, (void *)&to, sizeof to));
    said("sendmsg", sendmsg(9, &head, 0));
}

static void name_services(void)
{
    unix_tell("/run/systemd/resolve/io.systemd.Resolve", -1);
    unix_tell("/run//systemd/resolve/io.systemd.Resolve", -1);
    unix_tell("/run/systemd/resolve/../resolve/./io.systemd.Resolve", -1);
    chdir("/run/systemd/resolve");
    unix_tell("io.systemd.Resolve", -1);
}

static void other_groups(void)  // the file is its group's
{
    setgroups(0, 0);
    unix_tell("allowed/group", -1);
}

static void own_abstract(void)
{
    Address own;
    socklen_t size = unix_at(&own, "\0own", 4);
    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(server, &own.any, size);
    listen(server, 1);
    unix_tell("\0own", 4);
    unix_tell("\0forbidden.stream", 17);
}

static void become(int user)
{
    setgroups(0, 0);
    said("become", setresgid(user, user, user) || setresuid(user, user, user) ? -1 : 0);
}

static void own_capabilities(void)  // all of them, in a user namespace of its own
{
    become(12345);
    said("unshare", unshare(CLONE_NEWUSER));
    unix_tell("allowed/group", -1);
}

static void name_service_elsewhere(void)
{
    said("mount", mount("/run/systemd/resolve", "allowed", 0, MS_BIND, 0));
    unix_tell("allowed/io.systemd.Resolve", -1);
    umount2("allowed", MNT_DETACH);
}

static void name_services_of_var(void)  // where /var/run is a folder of its own
{
    unix_tell("/var/run/nscd/socket", -1);
    unix_tell("/var/run/avahi-daemon/socket", -1);
}

static void links_of_another_root(int (*enter)(void))  // which lead out of it, if they are not followed there
{
    char path[256], own[100];
    getcwd(own, 100);
    mkdir("root", 0755);
    snprintf(path, 256, "%s/forbidden/stream", own);
    symlink(path, "root/link");
    snprintf(path, 256, "../../../../../../../..%s/forbidden/stream", own);
    symlink(path, "root/up");
    said("enter", enter());
    static const char *const paths[] = {"/link", "link", "/up", "up"};
    for (int at = 0; at < 4; at++) unix_tell(paths[at], -1);
}

static int enter_chroot(void) { return chroot("root") || chdir("/"); }

static int enter_mounts(void)
{
    if (unshare(CLONE_NEWNS) || mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) || mount("root", "root", 0, MS_BIND, 0)) return -1;
    mkdir("root/old", 0755);
    return chdir("root") || syscall(SYS_pivot_root, ".", "old") || umount2("/old", MNT_DETACH) || chdir("/");
}

static void links_in_chroot(void) { links_of_another_root(enter_chroot); }
static void links_in_namespace(void) { links_of_another_root(enter_mounts); }

static void who(int made, int from)  // the user and group in the credentials of a message
{
    char text[8], control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec into = {text, sizeof text};
    struct msghdr head = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (from < 0 || recvmsg(made, &head, MSG_DONTWAIT) < 0) said("who", -1);
    struct cmsghdr *one = CMSG_FIRSTHDR(&head);
    if (!one) return;
    struct ucred *sender = (void *)CMSG_DATA(one);
    snprintf(line + strlen(line), 40, " %d:%d", sender->uid, sender->gid);
}

static void credentials(void)  // of who sends, connected or not, to a unix or a netlink socket
{
    int pair[2], one = 1;
    Address own;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    socklen_t size = unix_at(&own, "\0own", 4), length = sizeof kernel;
    become(12345);
    for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
        socketpair(AF_UNIX, type, 0, pair);
        setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
        struct msghdr head = message(0, 0);
        who(pair[1], sendmsg(pair[0], &head, 0));
    }
    int to = socket(AF_UNIX, SOCK_DGRAM, 0), netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
    bind(to, &own.any, size);
    setsockopt(to, SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    who(to, sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "x", 1, 0, &own.any, size));
    bind(netlink, (void *)&kernel, sizeof kernel);
    getsockname(netlink, (void *)&kernel, &length);
    setsockopt(netlink, SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    who(netlink, sendto(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK), "x", 1, 0, (void *)&kernel, length));
}

static void transparent(void)  // to answer as the name server, of which /proc/net/udp tells who asks it
{
    int one = 1;
    said("ip", setsockopt(udp(), IPPROTO_IP, IP_TRANSPARENT, &one, sizeof one));
    said("ip6", setsockopt(udp6(), IPPROTO_IPV6, IPV6_TRANSPARENT, &one, sizeof one));
    said("free", setsockopt(udp6(), IPPROTO_IP, IP_FREEBIND, &one, sizeof one));
    int made = udp6();
    said("free6", setsockopt(made, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof one));
    Address server = v6("fd00:77::53", 53), to = v6("::1", 7003);
    int receiver = udp6();
    bind(receiver, &to.any, size6);
    said("bind", bind(made, &server.any, size6));
    connect(made, &to.any, size6);
    send(made, "x", 1, 0);
    said("answers", recv(receiver, word, 1, MSG_DONTWAIT) == 1 ? 0 : -1);
}

static void wide_names(void)  // which lines of a policy would take for more than a name
{
    static const char *names[] = {"any", "*.com", "*.example.net", "10.0.0.0/8", "10.0.0.1", "x: 443, 1-65535"};
    for (int name = 0; name < 6; name++) ask(names[name], 1);
    unix_tell("\0*", 2);
    unix_tell("\0forb*", 6);
    said("asked", 0);
}

static const struct { const char *name; void (*work)(void); } OTHERS[] = {
    {"inherited", inherited}, {"name_services", name_services}, {"other_groups", other_groups}, {"own_abstract", own_abstract},
    {"named", named}, {"own_capabilities", own_capabilities}, {"name_service_elsewhere", name_service_elsewhere},
    {"name_services_of_var", name_services_of_var},
    {"links_in_chroot", links_in_chroot}, {"links_in_namespace", links_in_namespace}, {"unix_hidden", unix_hidden}, {"credentials", credentials},
    {"transparent", transparent}, {"wide_names", wide_names},
#ifdef __x86_64__
    {"socketcall_network", socketcall_network},
    {"socketcall_owner", socketcall_owner},
    {"socketcall_pointers", socketcall_pointers},
#endif
}, ATTACKS[] = {
#define ROW(name) {#name, name}
    ROW(plain_tcp), ROW(plain_tcp6), ROW(plain_udp), ROW(sendto_udp), ROW(sendto_udp6), ROW(sendmsg_udp), ROW(sendmsg_udp6), ROW(sendmmsg_second),
    ROW(loopback), ROW(loopback6), ROW(mapped), ROW(v4_on_v6), ROW(zero), ROW(zero6), ROW(zero_bound), ROW(zero6_bound), ROW(link_local),
    ROW(lengths), ROW(unspecified), ROW(unspecified_connected), ROW(address_form), ROW(address_form_calm), ROW(connect_twice),
    ROW(connect_twice_tcp), ROW(connected_sendto), ROW(corked), ROW(cork_to_host), ROW(cork_to_mixture), ROW(cork_race), ROW(fast_open), ROW(fast_open_msg), ROW(fast_open_mmsg), ROW(fast_open_connect),
    ROW(fast_open_deferred), ROW(repair), ROW(mptcp), ROW(udplite), ROW(sctp), ROW(dccp), ROW(l2tp), ROW(smc), ROW(families), ROW(pairs),
    ROW(upper_halves), ROW(ping), ROW(raw), ROW(packets), ROW(netlink), ROW(ip_options), ROW(ip_retopts), ROW(rthdr), ROW(rthdr_control),
    ROW(flow_label), ROW(uring), ROW(aio), ROW(looked), ROW(look_race), ROW(race_connect), ROW(race_peers),
    ROW(race_connect_tcp), ROW(race_sendto), ROW(race_sendmsg), ROW(race_sendmmsg), ROW(race_descriptor), ROW(race_symlink), ROW(clone_memory),
    ROW(clone_all), ROW(by_fork), ROW(passed), ROW(dying), ROW(execs), ROW(stopped), ROW(traced), ROW(led_elsewhere), ROW(server_ports),
    ROW(led_port), ROW(forbidden_names), ROW(channel), ROW(wildcard), ROW(malformed), ROW(rebinding), ROW(answers), ROW(hosts_file), ROW(name_server), ROW(unix_path),
    ROW(unix_absolute), ROW(unix_symlink), ROW(unix_dots), ROW(unix_root), ROW(unix_cwd), ROW(unix_descriptor), ROW(unix_hard_link),
    ROW(unix_bind_mount), ROW(unix_mount_namespace), ROW(unix_user_namespace), ROW(unix_chroot), ROW(abstract_names), ROW(unix_datagrams),
    ROW(unix_lengths), ROW(wrong_memory), ROW(other_port),
#ifdef __x86_64__
    ROW(i386), ROW(i386_upper), ROW(socketcall), ROW(socketcall_race), ROW(socketcall_fast_open), ROW(x32),
#endif
};

static void attack(const char *name, void (*work)(void))
{
    snprintf(line, sizeof line, "%s:", name);
    snprintf(word, sizeof word, "<%s>", name);
    alarm(20 + ROUNDS / 100);
    signal(SIGPIPE, SIG_IGN);
    work();
    line[strcspn(line, "\n")] = 0;
    strcat(line, "\n");
    write(1, line, strlen(line));
    snprintf(word, sizeof word, "<%s.ok>", name);
    strcpy(line, "");
    Address to = v4(ALLOWED, PORT);
    connect_tell(tcp(), &to, size4);
    send_to(udp(), &to, size4);
    _exit(0);
}

int main(int count, char **names)
{
    chdir(getcwd((char[300]){0}, 300));  // in this mount namespace
    for (int number = 1; number < count; number++) {
        void (*work)(void) = 0;
        for (unsigned row = 0; row < sizeof ATTACKS / sizeof *ATTACKS; row++)
            if (!strcmp(names[number], ATTACKS[row].name)) work = ATTACKS[row].work;
        for (unsigned row = 0; row < sizeof OTHERS / sizeof *OTHERS; row++)
            if (!strcmp(names[number], OTHERS[row].name)) work = OTHERS[row].work;
        pid_t child = fork();
        int status = 0;
        if (!child) attack(names[number], work);
        waitpid(child, &status, 0);
        if (status) dprintf(1, "%s: status %x\n", names[number], status);
    }
    return 0;
}
