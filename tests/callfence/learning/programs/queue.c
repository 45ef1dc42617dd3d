// Sends itself a message by a POSIX message queue.
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    char name[32], message[8192];
    snprintf(name, sizeof name, "/queue-%d", getpid());
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT, 0600, 0);
    if (queue < 0) return perror("mq_open"), 1;
    int failed = mq_send(queue, "x", 1, 0) || mq_receive(queue, message, sizeof message, 0) != 1;
    return mq_unlink(name) || failed;
}
