/* Copies a file, or standard input, to standard output in upper case. */
#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static volatile sig_atomic_t stopped;

static void stop(int number) {
    stopped = number;
}

int main(int argc, char **argv) {
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    if (argc != 2) {
        fprintf(stderr, "usage: static FILE|-\n");
        return 2;
    }
    FILE *source = strcmp(argv[1], "-") ? fopen(argv[1], "r") : stdin;
    if (!source) {
        perror(argv[1]);
        return 1;
    }
    for (int c; !stopped && (c = getc(source)) != EOF;) putchar(toupper(c));
    if (fflush(stdout)) {
        perror("standard output");
        return 1;
    }
    return stopped ? 3 : 0;
}
