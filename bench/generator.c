/* A load generator in one process: what bench/generator.py does over HTTP/1.1, for some 60 % of its processor time.

   It shares the machine's cores with the server it measures, so what it uses itself it takes away from that server. Per
   request it makes one send, one recv, at most two waits, and in open loop arms its timer once. A timer descriptor and
   not a timeout of each wait, because a timeout is set up and taken down again by every wait an answer ends, and on
   virtual machines each of these is an exit: 55 us of CPU per request instead of 43.

   Command line, plan (to the nanosecond) and output are those of generator.py. Open loop: a request leaves at its
   instant or, if all connections are in use, as soon as one is free; its latency counts from the planned instant. Unlike
   generator.py it goes on when the server closes a connection: the request on it has failed, and the connection is made
   anew when it is needed next. */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "twister.h"

#define SECOND INT64_C(1000000000)
#define DRAIN_NS (5 * SECOND)    /* how long answers may take after the last request */
#define LIMIT_SHARE 0.9          /* of a core: beyond it, */
#define LIMIT_LATE_NS 1000000    /* or usually later than this, the figures are the generator's own */
#define MAX_CONNECTIONS 16384
#define MAX_SAMPLES ((size_t)1 << 27) /* 1 GiB of them */
#define MAX_BODY ((off_t)1 << 28)
#define BUFFER 65536 /* of each connection: an answer's head fits, or it is refused */
#define EVENTS 64

typedef struct {
    int fd; /* -1: to be connected when it is used next */
    bool busy, watches_writes, in_body, ok, closing;
    int64_t planned;
    size_t sent; /* bytes of the request */
    size_t held; /* bytes of an unfinished head */
    uint64_t body_left;
    char buffer[BUFFER];
} Connection;

typedef struct {
    int64_t *values;
    size_t count, room;
} Samples;

/* One process is one run. */
static struct addrinfo *server;
static char *server_name, *request;
static size_t request_bytes;
static Connection **idle; /* a stack, so that few connections stay warm */
static int connection_count, idle_count, epoll_fd;
static int64_t now, end;
static bool open_loop;
static Samples plan, late, latencies;
static size_t noticed, begun; /* of the plan: instants that have come, requests that have left */
static size_t done, refused, lost;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *text, ...) {
    va_list rest;
    va_start(rest, text);
    fputs("generator: ", stderr);
    vfprintf(stderr, text, rest);
    fputc('\n', stderr);
    exit(1);
}

static void *checked(void *memory) {
    if (!memory) die("out of memory");
    return memory;
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * SECOND + at.tv_nsec;
}

static void keep(Samples *samples, int64_t value) {
    if (samples->count == samples->room) {
        if (samples->room >= MAX_SAMPLES) die("more than %zu requests in one run", MAX_SAMPLES);
        samples->room = samples->room ? samples->room * 2 : 1 << 16;
        samples->values = checked(realloc(samples->values, samples->room * sizeof *samples->values));
    }
    samples->values[samples->count++] = value;
}

/* Connections. */

static void watch(int operation, int fd, uint32_t events, Connection *c) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void dial(Connection *c) {
    c->fd = socket(server->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("no socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(c->fd, server->ai_addr, server->ai_addrlen) && errno != EINPROGRESS)
        die("cannot connect to %s: %s", server_name, strerror(errno));
    watch(EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    c->watches_writes = c->in_body = c->closing = false;
    c->held = 0;
}

/* Before the run: so that a server that is not there is an error and not a figure. */
static void dial_and_wait(Connection *c) {
    dial(c);
    struct pollfd writable = {.fd = c->fd, .events = POLLOUT};
    int error = ETIMEDOUT;
    if (poll(&writable, 1, 10000) == 1) getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
    if (error) die("cannot connect to %s: %s", server_name, strerror(error));
}

static void hang_up(Connection *c) {
    close(c->fd); /* this takes it out of the epoll set, too */
    c->fd = -1;
}

/* The server closed the connection, or `error` says what else went wrong with it. */
static void broken(Connection *c, int error) {
    if (error && error != ECONNRESET && error != EPIPE) die("connection to %s: %s", server_name, strerror(error));
    hang_up(c);
    if (c->busy) {
        c->busy = false;
        lost++;
        idle[idle_count++] = c;
    }
}

static void push(Connection *c) {
    ssize_t sent = send(c->fd, request + c->sent, request_bytes - c->sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) { /* EAGAIN: the buffer is full, or the connection still being made */
        broken(c, errno);
        return;
    }
    c->sent += sent > 0 ? (size_t)sent : 0;
    bool more = c->sent < request_bytes;
    if (more != c->watches_writes) {
        watch(EPOLL_CTL_MOD, c->fd, more ? EPOLLIN | EPOLLOUT : EPOLLIN, c);
        c->watches_writes = more;
    }
}

static void begin(int64_t planned) {
    Connection *c = idle[--idle_count];
    if (c->fd < 0) dial(c);
    c->planned = planned;
    c->busy = true;
    c->sent = 0;
    push(c);
}

/* Everything that can leave by `now`. */
static void launch(void) {
    while (noticed < plan.count && plan.values[noticed] <= now) keep(&late, now - plan.values[noticed++]);
    while (begun < noticed && idle_count) begin(plan.values[begun++]);
    while (!open_loop && idle_count && now < end) {
        begin(now);
        now = clock_ns(CLOCK_MONOTONIC);
    }
}

/* Answers. */

/* The value of a header field, whose name ends in a colon; NULL without one. */
static const char *field(const char *head, const char *head_end, const char *name) {
    size_t length = strlen(name);
    while ((head = memchr(head, '\n', (size_t)(head_end - head)))) {
        head++;
        if ((size_t)(head_end - head) > length && !strncasecmp(head, name, length)) {
            head += length;
            while (*head == ' ' || *head == '\t') head++;
            return head;
        }
    }
    return NULL;
}

/* Reads the head if it is complete and says how long it is, else 0. */
static size_t read_head(Connection *c) {
    const char *last = memmem(c->buffer, c->held, "\r\n\r\n", 4);
    if (!last) {
        if (c->held == BUFFER) die("an answer's head is longer than %d bytes", BUFFER);
        return 0;
    }
    const char *head_end = last + 4;
    const char *length = field(c->buffer, head_end, "content-length:");
    if (!length || !isdigit((unsigned char)*length)) {
        int line = (int)((const char *)memchr(c->buffer, '\r', c->held) - c->buffer);
        die("an answer without content-length: %.*s", line < 80 ? line : 80, c->buffer);
    }
    c->body_left = strtoull(length, NULL, 10); /* the line's end ends it */
    const char *option = field(c->buffer, head_end, "connection:");
    c->closing = option && !strncasecmp(option, "close", 5);
    c->ok = !strncasecmp(c->buffer, "HTTP/1.1 200", 12);
    return (size_t)(head_end - c->buffer);
}

static void answered(Connection *c) {
    now = clock_ns(CLOCK_MONOTONIC);
    keep(&latencies, now - c->planned);
    done += open_loop || now <= end;
    refused += !c->ok;
    c->busy = false;
    /* An answer that came before the whole request leaves a connection that cannot be used again. */
    if (c->closing || c->sent < request_bytes) hang_up(c);
    idle[idle_count++] = c;
}

static void arrived(Connection *c) {
    ssize_t got = recv(c->fd, c->buffer + c->held, BUFFER - c->held, 0);
    if (got < 0 && errno == EAGAIN) return; /* the event was of the connection before this one */
    if (got <= 0) {
        broken(c, got ? errno : 0);
        return;
    }
    c->held += (size_t)got;
    size_t head = 0;
    if (c->busy && !c->in_body) {
        if (!(head = read_head(c))) return;
        c->in_body = true;
    }
    if (!c->busy || c->held - head > c->body_left) die("the server sent bytes that belong to no answer");
    c->body_left -= c->held - head;
    c->held = 0;
    if (c->body_left) return;
    c->in_body = false;
    answered(c);
}

static void wake_at(int timer, int64_t instant) {
    static int64_t armed;
    struct itimerspec at = {.it_value = {.tv_sec = instant / SECOND, .tv_nsec = instant % SECOND}};
    if (instant == armed) return;
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL)) die("timerfd_settime: %s", strerror(errno));
    armed = instant;
}

static void run(int timer) {
    struct epoll_event events[EVENTS];
    for (;;) {
        now = clock_ns(CLOCK_MONOTONIC);
        launch();
        if (open_loop ? done + lost == plan.count : now >= end && idle_count == connection_count) return;
        if (now > end + DRAIN_NS) return;
        /* A timer that went off stays readable until it is armed anew, which is always before the next wait: it is
           never read. In a closed loop answers keep the loop going, so that only the drain's end needs it. */
        wake_at(timer, noticed < plan.count ? plan.values[noticed] : end + DRAIN_NS + 1);
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) continue; /* the timer */
            if (c->fd >= 0 && c->watches_writes && events[i].events & EPOLLOUT) push(c);
            if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT) arrived(c);
            launch(); /* instants that came meanwhile do not wait for the rest of the answers */
        }
    }
}

/* Before and after. */

static double number(const char *text, const char *name, double least, double most) {
    char *rest;
    double value = strtod(text, &rest);
    if (rest == text || *rest || !(value >= least && value <= most))
        die("--%s %s: a number from %g to %g is needed", name, text, least, most);
    return value;
}

/* The instants of an open loop, from its beginning. */
static void draw_plan(double rate, double seconds, uint32_t seed) {
    seed_twister(seed);
    for (double at = 0; (at += exponential(rate)) < seconds;) keep(&plan, (int64_t)(at * 1e9));
}

static void prepare_request(const char *url, const char *body_file) {
    if (strncasecmp(url, "http://", 7)) die("--url %s: only http:// is spoken", url);
    const char *authority = url + 7;
    size_t length = strcspn(authority, "/?#");
    const char *path = authority + length;
    server_name = checked(strndup(authority, length));
    char *host = checked(strdup(server_name)), *port = strrchr(host, ':');
    if (port && !strchr(port, ']')) *port++ = '\0';
    else port = NULL;
    if (*host == '[') { /* an IPv6 address */
        host++;
        host[strcspn(host, "]")] = '\0';
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    int error = getaddrinfo(host, port ? port : "80", &hints, &server);
    if (error) die("--url %s: %s", url, gai_strerror(error));

    int file = open(body_file, O_RDONLY | O_CLOEXEC);
    struct stat found;
    if (file < 0 || fstat(file, &found)) die("--body %s: %s", body_file, strerror(errno));
    if (!S_ISREG(found.st_mode) || found.st_size > MAX_BODY) die("--body %s: no file, or too large", body_file);
    char *head;
    const char *format = "POST %s%.*s HTTP/1.1\r\nHost: %s\r\n"
                         "Content-Type: application/json\r\nContent-Length: %jd\r\n\r\n";
    int head_bytes = asprintf(&head, format, *path == '/' ? "" : "/", (int)strcspn(path, "#"), path, server_name,
                              (intmax_t)found.st_size);
    if (head_bytes < 0) die("out of memory");
    request_bytes = (size_t)head_bytes + (size_t)found.st_size;
    request = checked(realloc(head, request_bytes));
    for (size_t at = (size_t)head_bytes; at < request_bytes;) {
        ssize_t got = read(file, request + at, request_bytes - at);
        if (got <= 0) die("--body %s: %s", body_file, got ? strerror(errno) : "shorter than it was");
        at += (size_t)got;
    }
    close(file);
}

static int ascending(const void *a, const void *b) {
    int64_t first = *(const int64_t *)a, second = *(const int64_t *)b;
    return (first > second) - (first < second);
}

/* As bench.measure.quantile. */
static int64_t quantile(const Samples *ordered, double fraction) {
    if (!ordered->count) return 0;
    size_t rank = (size_t)(fraction * (double)ordered->count);
    return ordered->values[rank < ordered->count ? rank : ordered->count - 1];
}

static void print_summary(double took, double cpu) {
    if (latencies.count) qsort(latencies.values, latencies.count, sizeof *latencies.values, ascending);
    if (late.count) qsort(late.values, late.count, sizeof *late.values, ascending);
    size_t unanswered = open_loop ? plan.count - done : lost + (size_t)(connection_count - idle_count);
    bool limited = cpu / took > LIMIT_SHARE || quantile(&late, 0.5) > LIMIT_LATE_NS;
    printf("{\"requests\": %zu, \"seconds\": %.9f, \"failed\": %zu, \"cpu_share\": %.3f, \"limited\": %s", done, took,
           refused + unanswered, cpu / took, limited ? "true" : "false");
    printf(", \"late_p99_us\": %.1f", (double)quantile(&late, 0.99) / 1e3);
    static const char *const names[] = {"p50", "p90", "p99", "p999"};
    static const double fractions[] = {0.5, 0.9, 0.99, 0.999};
    for (size_t i = 0; i < 4; i++)
        printf(", \"%s_us\": %.1f", names[i], (double)quantile(&latencies, fractions[i]) / 1e3);
    if (puts("}") == EOF || fflush(stdout)) die("cannot write: %s", strerror(errno));
}

int main(int count, char **arguments) {
    static const struct option options[] = {
        {"url", required_argument, 0, 'u'},         {"body", required_argument, 0, 'b'},
        {"connections", required_argument, 0, 'c'}, {"seconds", required_argument, 0, 's'},
        {"rate", required_argument, 0, 'r'},        {"seed", required_argument, 0, 'd'},
        {0},
    };
    const char *url = NULL, *body = NULL;
    double seconds = 3, rate = 0, seed = 1;
    connection_count = 16;
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        if (option == 'u') url = optarg;
        else if (option == 'b') body = optarg;
        else if (option == 'c') connection_count = (int)number(optarg, "connections", 1, MAX_CONNECTIONS);
        else if (option == 's') seconds = number(optarg, "seconds", 0.001, 86400);
        else if (option == 'r') rate = number(optarg, "rate", 0, 1e7);
        else if (option == 'd') seed = number(optarg, "seed", 0, UINT32_MAX);
        else return 2;
    }
    if (!url || !body || optind < count)
        die("usage: generator --url URL --body FILE [--connections N] [--seconds S] [--rate R] [--seed N]");
    prepare_request(url, body);
    open_loop = rate > 0;
    if (open_loop) draw_plan(rate, seconds, (uint32_t)seed);
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1: %s", strerror(errno));
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (timer < 0) die("timerfd_create: %s", strerror(errno));
    watch(EPOLL_CTL_ADD, timer, EPOLLIN, NULL);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* else the kernel may be 50 us late */
    idle = checked(calloc((size_t)connection_count, sizeof(Connection *)));
    for (; idle_count < connection_count; idle_count++) {
        idle[idle_count] = checked(calloc(1, sizeof(Connection)));
        dial_and_wait(idle[idle_count]);
    }
    int64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID), began = clock_ns(CLOCK_MONOTONIC);
    end = began + (int64_t)(seconds * 1e9);
    for (size_t i = 0; i < plan.count; i++) plan.values[i] += began;
    run(timer);
    double took = open_loop ? (double)(clock_ns(CLOCK_MONOTONIC) - began) / 1e9 : seconds;
    print_summary(took, (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9);
    return 0;
}
