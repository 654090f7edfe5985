/* Load generator: HTTP/1.1 keep-alive, one thread, epoll, one request at a time on each connection.
 *
 *   load port=P connections=C seconds=S stream=0|1 chunks=N interval_us=I ttft_us=T stagger_us=G gap_us=H [header=LINE ...]
 *
 * Opens C connections and sends one plain request on each, so that accepts and upstream connections are behind us; prints
 * "ready" and waits for a line on stdin. Then every connection (the i-th after i * G) sends requests one after the other, or
 * one each H us when H is not 0; none starts after S seconds, those that run are finished. Prints one JSON object:
 *   requests (answered by 200) sheds (by 503 with Retry-After) errors chunks usage_events (events that the client did not ask
 *   for) wall_s, and p50 and p99 in ns of e2e, shed (e2e of the sheds), ttft (less the upstream's own T), delay (one way, from
 *   the stamp that the upstream puts into each content) and jitter (from a chunk's delay to that of the next of its stream).
 * An answer is an error when it has another status, its stream lacks a content event or [DONE], or its connection ends early;
 * one that says `Connection: close` is followed by a new connection. Each LINE is sent with every request.
 * Gives up after 10 s without any byte. Exit 0 also with errors: they are a figure. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, BUFFER = 131072, LINE = 4096 };
typedef enum { IDLE, HEAD, LENGTH, SIZE, DATA, AFTER_DATA, TRAILER } State;
typedef struct {
    int fd, failed, shed, closes, chunked, streamed, done;
    State state;
    uint64_t sent_ns, first_ns, due_ns; /* due_ns: when it sends again; 0 while it does not wait */
    int64_t delay_ns; /* of the chunk before */
    long chunks;
    size_t left, line_len, len;
    char line[LINE], buffer[BUFFER];
} Conn;
typedef struct { uint32_t *at; size_t len, cap; } Samples;

static long port, connections, chunks, interval_us, ttft_us, stagger_us, gap_us, streamed;
static double seconds;
static int poller, warm = 1;
static uint64_t start_ns, deadline_ns, now;
static long requests, sheds, content_events, errors, usage_events, active, started;
static Samples e2e, shed, ttft, delay, jitter;
static char headers[1024], plain[4096], measured[4096];
static size_t plain_len, measured_len;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void keep(Samples *s, int64_t ns) {
    if (s->len == s->cap) s->at = realloc(s->at, (s->cap = s->cap ? s->cap * 2 : 65536) * sizeof *s->at);
    s->at[s->len++] = ns < 0 ? 0 : ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *s) {
    if (!s->len) { printf(",\"%s\":null", name); return; }
    qsort(s->at, s->len, sizeof *s->at, by_value);
    printf(",\"%s\":{\"p50\":%u,\"p99\":%u}", name, s->at[s->len / 2], s->at[s->len * 99 / 100]);
}

static size_t compose(char *to, int stream) { /* about 1.1 KB on the wire, as an app with a short prompt sends it */
    static const char WORDS[] = "Please sum up the following report for a reader who was not in the meeting, in plain words. ";
    char body[2048], text[700];
    for (size_t i = 0; i < sizeof text; i++) text[i] = WORDS[i % (sizeof WORDS - 1)];
    int len = sprintf(body,
                      "{\"model\":\"bench-%ld-%ld-%ld\",\"messages\":[{\"role\":\"system\",\"content\":\"You are concise.\"},"
                      "{\"role\":\"user\",\"content\":\"%.*s\"}],\"temperature\":0.2,\"max_tokens\":512%s}",
                      chunks, interval_us, ttft_us, 640, text, stream ? ",\"stream\":true" : "");
    return (size_t)sprintf(to,
                           "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nAccept: application/json\r\n"
                           "Content-Type: application/json\r\nUser-Agent: bench/1\r\nx-stainless-retry-count: 0\r\n"
                           "Authorization: Bearer sk-bench-0123456789abcdef0123456789abcdef\r\n%sContent-Length: %d\r\n\r\n%s",
                           port, headers, len, body);
}

static void open_connection(Conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
}

static void send_request(Conn *c) {
    c->state = HEAD;
    c->failed = c->shed = c->closes = c->done = 0;
    c->chunks = 0;
    c->first_ns = 0;
    c->line_len = c->len = 0;
    c->sent_ns = now_ns();
    const char *data = warm ? plain : measured;
    size_t len = warm ? plain_len : measured_len;
    if (send(c->fd, data, len, MSG_NOSIGNAL) != (ssize_t)len) errors++; /* 1 KB always fits; the read side sees a closed peer */
}

static void next_request(Conn *c) {
    uint64_t due_ns = gap_us ? c->sent_ns + (uint64_t)gap_us * 1000 : now_ns();
    if (warm || due_ns >= deadline_ns) { c->state = IDLE; active--; return; }
    if (gap_us) { c->state = IDLE; c->due_ns = due_ns; return; }
    send_request(c);
}

static void answer_over(Conn *c) {
    if (c->shed) {
        sheds++;
        if (!warm) keep(&shed, (int64_t)(now - c->sent_ns));
    } else {
        if (c->streamed && (c->chunks != chunks || !c->done)) c->failed = 1;
        if (!warm && c->streamed != streamed) c->failed = 1;
        if (c->failed) errors++;
        else requests++;
        if (!warm && !c->failed) {
            keep(&e2e, (int64_t)(now - c->sent_ns));
            if (c->first_ns) keep(&ttft, (int64_t)(c->first_ns - c->sent_ns) - ttft_us * 1000);
        }
    }
    if (c->closes) {
        close(c->fd);
        open_connection(c);
    }
    next_request(c);
}

static void line_over(Conn *c) {
    if (c->line_len < 6 || memcmp(c->line, "data: ", 6)) return;
    char *at = memchr(c->line, '@', c->line_len);
    if (at) {
        uint64_t stamp = 0;
        for (int i = 1; i <= 19; i++) stamp = stamp * 10 + (uint64_t)(at[i] - '0');
        int64_t took = (int64_t)(now - stamp);
        if (!c->chunks++) c->first_ns = now;
        else keep(&jitter, llabs(took - c->delay_ns));
        c->delay_ns = took;
        content_events++;
        keep(&delay, took);
    } else if (c->line[6] == '[') c->done = 1;
    else if (memmem(c->line, c->line_len, "\"usage\":{", 9)) usage_events++;
}

static void take_data(Conn *c, const char *data, size_t len) {
    while (len) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        if (c->line_len + n > LINE) { c->failed = 1; c->line_len = n = 0; }
        memcpy(c->line + c->line_len, data, n);
        c->line_len += n;
        if (!end) return;
        line_over(c);
        c->line_len = 0;
        len -= n + 1;
        data = end + 1;
    }
}

static void take_head(Conn *c, const char *head, const char *end) {
    int retry_after = 0;
    c->left = 0;
    c->closes = c->chunked = c->streamed = 0;
    for (const char *line = head; (line = memchr(line, '\n', (size_t)(end - line))) != NULL;) {
        line++;
        if (!strncasecmp(line, "content-length:", 15)) c->left = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) c->chunked = 1;
        if (!strncasecmp(line, "content-type: text/event-stream", 31)) c->streamed = 1;
        if (!strncasecmp(line, "connection: close", 17)) c->closes = 1;
        if (!strncasecmp(line, "retry-after:", 12)) retry_after = 1;
    }
    c->shed = retry_after && !memcmp(head, "HTTP/1.1 503", 12);
    c->failed = memcmp(head, "HTTP/1.1 200", 12) != 0;
    c->state = c->chunked ? SIZE : LENGTH;
}

static void readable(Conn *c) {
    ssize_t got = recv(c->fd, c->buffer + c->len, BUFFER - c->len, 0);
    if (got < 0 && errno == EAGAIN) return;
    now = now_ns();
    if (got <= 0 || c->state == IDLE) {
        if (got <= 0) close(c->fd);
        errors++;
        if (c->state == IDLE && got > 0) return;
        if (errors > 1000) { fprintf(stderr, "too many broken connections\n"); exit(1); }
        if (c->state == IDLE) { open_connection(c); return; }
        open_connection(c);
        next_request(c);
        return;
    }
    c->len += (size_t)got;
    char *p = c->buffer, *end = c->buffer + c->len;
    while (c->state != IDLE) {
        size_t have = (size_t)(end - p);
        char *mark;
        if (c->state == HEAD) {
            if (!(mark = memmem(p, have, "\r\n\r\n", 4))) break;
            take_head(c, p, mark + 4);
            p = mark + 4;
        } else if (c->state == LENGTH) {
            size_t n = have < c->left ? have : c->left;
            p += n;
            if (c->left -= n) break;
            answer_over(c);
            c->len = 0;
            return; /* nothing can follow: one request at a time */
        } else if (c->state == SIZE) {
            if (!(mark = memchr(p, '\n', have))) break;
            c->left = strtoul(p, NULL, 16);
            p = mark + 1;
            c->state = c->left ? DATA : TRAILER;
        } else if (c->state == DATA) {
            size_t n = have < c->left ? have : c->left;
            take_data(c, p, n);
            p += n;
            if (c->left -= n) break;
            c->state = AFTER_DATA;
        } else if (c->state == AFTER_DATA) {
            if (have < 2) break;
            p += 2;
            c->state = SIZE;
        } else {
            if (!(mark = memchr(p, '\n', have))) break;
            int last = mark - p <= 1;
            p = mark + 1;
            if (!last) continue;
            answer_over(c);
            c->len = 0;
            return;
        }
    }
    memmove(c->buffer, p, c->len = (size_t)(end - p));
    if (c->len == BUFFER) { fprintf(stderr, "response head too large\n"); exit(1); }
}

static uint64_t send_due(Conn *all) { /* sends what is due; when the next is, 0 for none */
    uint64_t at = now_ns(), next = 0;
    for (long i = 0; gap_us && i < connections; i++) {
        Conn *c = &all[i];
        if (c->due_ns && c->due_ns <= at) {
            c->due_ns = 0;
            send_request(c);
        } else if (c->due_ns && (!next || c->due_ns < next)) next = c->due_ns;
    }
    return next;
}

static void run(Conn *all) {
    struct epoll_event events[EVENTS];
    active = connections;
    started = 0;
    start_ns = now_ns();
    deadline_ns = start_ns + (uint64_t)(seconds * 1e9);
    uint64_t heard_ns = start_ns;
    while (active) {
        uint64_t next_ns = send_due(all), before_ns = now_ns();
        uint64_t wait_ns = !next_ns ? 1000000000u : next_ns > before_ns ? next_ns - before_ns : 0;
        for (; started < connections; started++) {
            uint64_t at = now_ns(), due = start_ns + (warm ? 0 : (uint64_t)(started * stagger_us) * 1000);
            if (at < due) { wait_ns = due - at < wait_ns ? due - at : wait_ns; break; }
            send_request(&all[started]);
        }
        if (!active) break;
        struct timespec wait = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
        int n = epoll_pwait2(poller, events, EVENTS, &wait, NULL);
        for (int i = 0; i < n; i++) readable(events[i].data.ptr);
        if (n > 0) heard_ns = now_ns();
        else if (now_ns() - heard_ns > 10000000000u) { errors += active; break; }
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) { fprintf(stderr, "load: key=value expected, got %s\n", argv[i]); return 2; }
        *value++ = 0;
        if (!strcmp(argv[i], "header")) {
            size_t at = strlen(headers);
            if (at + strlen(value) + 3 > sizeof headers) { fprintf(stderr, "load: too many headers\n"); return 2; }
            sprintf(headers + at, "%s\r\n", value);
        } else if (!strcmp(argv[i], "port")) port = atol(value);
        else if (!strcmp(argv[i], "connections")) connections = atol(value);
        else if (!strcmp(argv[i], "seconds")) seconds = atof(value);
        else if (!strcmp(argv[i], "stream")) streamed = atol(value);
        else if (!strcmp(argv[i], "chunks")) chunks = atol(value);
        else if (!strcmp(argv[i], "interval_us")) interval_us = atol(value);
        else if (!strcmp(argv[i], "ttft_us")) ttft_us = atol(value);
        else if (!strcmp(argv[i], "gap_us")) gap_us = atol(value);
        else if (!strcmp(argv[i], "stagger_us")) stagger_us = atol(value);
        else { fprintf(stderr, "load: unknown key %s\n", argv[i]); return 2; }
    }
    plain_len = compose(plain, 0);
    measured_len = compose(measured, (int)streamed);
    poller = epoll_create1(0);
    Conn *all = calloc((size_t)connections, sizeof *all);
    for (long i = 0; i < connections; i++) open_connection(&all[i]);
    run(all);
    requests = sheds = 0;
    warm = 0;
    printf("ready\n");
    fflush(stdout);
    char go[8];
    if (!fgets(go, sizeof go, stdin)) return 1;
    run(all);
    printf("{\"requests\":%ld,\"sheds\":%ld,\"errors\":%ld,\"chunks\":%ld,\"usage_events\":%ld,\"wall_s\":%.6f", requests,
           sheds, errors, content_events, usage_events, (double)(now_ns() - start_ns) / 1e9);
    print_samples("e2e_ns", &e2e);
    print_samples("shed_ns", &shed);
    print_samples("ttft_ns", &ttft);
    print_samples("delay_ns", &delay);
    print_samples("jitter_ns", &jitter);
    printf("}\n");
    return 0;
}
