/* Waits in each of the ways in which programs wait: poll, select, epoll, sleeping, timers, signals. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t alarms;

static void on_alarm(int signal)
{
	(void)signal;
	alarms++;
}

int main(void)
{
	uint64_t count;
	int ends[2];
	struct timespec brief = {0, 2000000}, now;
	struct timeval quick = {0, 2000};

	if (pipe(ends) || write(ends[1], "x", 1) != 1)
		return 1;
	struct pollfd ready = {ends[0], POLLIN, 0};
	if (poll(&ready, 1, 1000) != 1 || ppoll(&ready, 1, &brief, NULL) != 1)
		return 2;
	fd_set set;
	FD_ZERO(&set);
	FD_SET(ends[0], &set);
	if (select(ends[0] + 1, &set, NULL, NULL, &quick) != 1 || pselect(ends[0] + 1, &set, NULL, NULL, &brief, NULL) != 1)
		return 3;
	int epoll = epoll_create1(EPOLL_CLOEXEC), other = epoll_create(4), event = eventfd(1, EFD_NONBLOCK);
	struct epoll_event interest = {EPOLLIN, {0}};
	if (epoll < 0 || other < 0 || event < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, event, &interest))
		return 4;
	if (epoll_wait(epoll, &interest, 1, 1000) != 1 || epoll_pwait(epoll, &interest, 1, 1000, NULL) != 1)
		return 5;
	if (read(event, &count, sizeof count) != sizeof count || count != 1)
		return 6;
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	struct itimerspec soon = {{0, 0}, brief};
	if (timerfd_settime(timer, 0, &soon, NULL) || read(timer, &count, sizeof count) != sizeof count)
		return 7;
	if (usleep(1000) || nanosleep(&brief, NULL) || clock_nanosleep(CLOCK_MONOTONIC, 0, &brief, NULL))
		return 8;
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_handler = on_alarm;
	sigset_t blocked, before;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	sigaddset(&blocked, SIGUSR1);
	if (sigaction(SIGALRM, &action, NULL) || sigprocmask(SIG_BLOCK, &blocked, &before))
		return 9;
	struct itimerval once = {{0, 0}, {0, 2000}};
	if (setitimer(ITIMER_REAL, &once, NULL))
		return 10;
	while (!alarms)
		sigsuspend(&before);
	int signals = signalfd(-1, &blocked, SFD_CLOEXEC);
	struct signalfd_siginfo info;
	if (raise(SIGUSR1) || read(signals, &info, sizeof info) != sizeof info || info.ssi_signo != SIGUSR1)
		return 11;
	kill(getpid(), SIGUSR1);
	if (sigtimedwait(&blocked, NULL, &brief) != SIGUSR1 || clock_gettime(CLOCK_REALTIME, &now) || now.tv_sec < time(NULL) - 5)
		return 12;
	printf("%d alarm, signal %u\n", (int)alarms, info.ssi_signo);
	return 0;
}
