#define _XOPEN_SOURCE 700
#include "line.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { READER_PATIENCE_MS = 2000 };

static int set_nonblocking(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static int announce(const char *where, long port) {
    if (port < 0) {
        puts(where);
    } else {
        printf("socket://%s:%ld\n", where, port);
    }
    return fflush(stdout) == 0 ? 0 : -1;
}

static int open_pty(line *l) {
    struct termios raw;
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0 || tcgetattr(master, &raw) != 0) return -1;
    raw.c_iflag = raw.c_oflag = raw.c_lflag = 0; /* no echo: the board's words would come back to it */
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    const char *path = ptsname(master);
    if (tcsetattr(master, TCSANOW, &raw) != 0 || set_nonblocking(master) != 0 || !path) return -1;
    const int slave = open(path, O_RDWR | O_NOCTTY);
    if (slave < 0 || close(slave) != 0) return -1; /* once closed, the system tells whether somebody has it open */
    l->in = l->out = master;
    return announce(path, -1);
}

static int open_tcp(line *l, uint16_t port) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    const int on = 1;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    l->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (l->listener < 0 || setsockopt(l->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(l->listener, (struct sockaddr *)&address, size) != 0 || listen(l->listener, 1) != 0 ||
        getsockname(l->listener, (struct sockaddr *)&address, &size) != 0) {
        return -1;
    }
    return announce("127.0.0.1", ntohs(address.sin_port));
}

int line_open(line *l, enum line_kind kind, uint16_t tcp_port) {
    *l = (line){kind, -1, -1, -1};
    if (kind == LINE_PTY) return open_pty(l);
    if (kind == LINE_TCP) return open_tcp(l, tcp_port);
    l->in = STDIN_FILENO;
    l->out = STDOUT_FILENO;
    return 0;
}

static void hang_up(line *l) {
    if (l->in >= 0) close(l->in);
    l->in = l->out = -1;
}

/* The last to call has the line: who was there before may be gone without a word. */
static void answer_call(line *l) {
    const int on = 1, fd = accept(l->listener, NULL, NULL);
    if (fd < 0) return;
    hang_up(l);
    l->in = l->out = fd;
    if (set_nonblocking(fd) != 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) hang_up(l);
}

static void wait_ms(int ms) {
    const struct timespec time = {0, ms * 1000000L};
    nanosleep(&time, NULL);
}

int line_read(line *l, uint8_t *bytes, size_t n, int timeout_ms) {
    struct pollfd ends[2] = {{l->in, POLLIN, 0}, {l->listener, POLLIN, 0}}; /* poll passes over -1 */
    if (poll(ends, 2, timeout_ms) <= 0) return 0;
    if (ends[1].revents) answer_call(l);
    if (!ends[0].revents || ends[0].fd != l->in) return 0;
    const ssize_t got = read(l->in, bytes, n);
    if (got > 0) return (int)got;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (l->kind == LINE_STDIO) return -1;
    if (l->kind == LINE_TCP) {
        hang_up(l);
    } else {
        wait_ms(timeout_ms); /* nobody has the terminal open: poll returns at once */
    }
    return 0;
}

void line_write(line *l, const uint8_t *bytes, size_t n) {
    while (n) {
        struct pollfd end = {l->out, POLLOUT, 0};
        if (l->out < 0 || poll(&end, 1, READER_PATIENCE_MS) <= 0 || !(end.revents & POLLOUT) || (end.revents & (POLLHUP | POLLERR))) return;
        const ssize_t put = write(l->out, bytes, n);
        if (put < 0 && errno != EAGAIN && errno != EINTR) return;
        if (put < 0) continue;
        bytes += put;
        n -= (size_t)put;
    }
}
