/* A provider that costs almost nothing: HTTP/1.1 keep-alive, one thread, epoll.
 *
 *   upstream PORT          listens on 127.0.0.1:PORT, prints "ready" and serves until it is killed
 *
 * POST /v1/chat/completions: the model name is the script, bench-CHUNKS-INTERVAL_US-TTFT_US.
 *   not streamed   one JSON answer of about 300 bytes with usage, after TTFT_US
 *   streamed       head and role event at once; the first content event after TTFT_US, the others INTERVAL_US apart, each of
 *                  about 300 bytes, its own HTTP chunk and its own write (interval 0: all in one write); then the finish
 *                  reason, usage when include_usage was asked for, [DONE] and the last chunk in one write
 * Every content starts with @ and 19 digits: CLOCK_MONOTONIC in ns when the event was made, so that a reader on the same
 * machine knows the one-way time of each event.
 * GET /state: {"open": exchanges under way, "left": [CLOCK_MONOTONIC in ns at which each that was under way was left, since the
 * last such request]}. Any other request gets an empty 200, which makes a second instance a cheap OTLP/HTTP sink.
 * Trusts its clients: requests carry Content-Length, one at a time. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, EVENTS = 256, LEFT = 4096 };

typedef struct {
    int fd, writing, heap_at; /* heap_at: 1-based place in the timer heap, 0 for none */
    char *in, *out;
    size_t in_len, in_cap, out_at, out_len, out_cap;
    long chunks, chunks_left, interval_ns;
    uint64_t due_ns;
    int usage, streamed;
} Conn;

static Conn *heap[MAX_FD + 1];
static int heap_len, poller, left_len;
static uint64_t left_ns[LEFT];
static char content_event[512], *content_stamp;
static size_t content_len;

static const char ROLE[] =
    "data: {\"id\":\"chatcmpl-bench0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
    "\"model\":\"bench\",\"system_fingerprint\":\"fp_bench\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
    "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char FINISH[] =
    "data: {\"id\":\"chatcmpl-bench0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
    "\"model\":\"bench\",\"system_fingerprint\":\"fp_bench\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
    "\"finish_reason\":\"stop\"}]}\n\n";
static const char JSON[] =
    "{\"id\":\"chatcmpl-bench0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello there, how may I help?\"},"
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":200,\"completion_tokens\":9,"
    "\"total_tokens\":209}}";
static const char DONE[] = "data: [DONE]\n\n";

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* -- timers: a binary heap by due_ns ------------------------------------------------------------------------------- */
static void put(int at, Conn *c) { heap[at] = c; c->heap_at = at; }

static void sift(int at) {
    Conn *c = heap[at];
    for (; at > 1 && heap[at / 2]->due_ns > c->due_ns; at /= 2) put(at, heap[at / 2]);
    for (int child; (child = 2 * at) <= heap_len; at = child) {
        if (child < heap_len && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
        if (heap[child]->due_ns >= c->due_ns) break;
        put(at, heap[child]);
    }
    put(at, c);
}

static void schedule(Conn *c, uint64_t due_ns) {
    c->due_ns = due_ns;
    if (!c->heap_at) { put(++heap_len, c); }
    sift(c->heap_at);
}

static void unschedule(Conn *c) {
    int at = c->heap_at;
    if (!at) return;
    c->heap_at = 0;
    Conn *last = heap[heap_len--];
    if (last != c) { put(at, last); sift(at); }
}

/* -- output -------------------------------------------------------------------------------------------------------- */
static void add(Conn *c, const char *data, size_t len) {
    if (c->out_len + len > c->out_cap) {
        c->out_cap = (c->out_len + len) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

static void add_chunk(Conn *c, const char *data, size_t len) {
    char size[16];
    add(c, size, (size_t)sprintf(size, "%zx\r\n", len));
    add(c, data, len);
    add(c, "\r\n", 2);
}

static void add_content(Conn *c) {
    char digits[24];
    sprintf(digits, "%019llu", (unsigned long long)now_ns());
    memcpy(content_stamp, digits, 19);
    add_chunk(c, content_event, content_len);
}

static void leave(Conn *c) {
    if (c->heap_at && left_len < LEFT) left_ns[left_len++] = now_ns();
    unschedule(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static int flush(Conn *c) { /* 0 when the connection is gone */
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) { leave(c); return 0; }
        c->out_at += (size_t)n;
    }
    int more = c->out_at < c->out_len;
    if (!more) c->out_at = c->out_len = 0;
    if (more != c->writing) {
        struct epoll_event e = {.events = EPOLLIN | (more ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
        c->writing = more;
    }
    return 1;
}

static void add_end(Conn *c, long chunks) {
    add_chunk(c, FINISH, sizeof FINISH - 1);
    if (c->usage) {
        char usage[512];
        int len = sprintf(usage,
                          "data: {\"id\":\"chatcmpl-bench0123456789abcdef\",\"object\":\"chat.completion.chunk\","
                          "\"created\":1700000000,\"model\":\"bench\",\"system_fingerprint\":\"fp_bench\",\"choices\":[],"
                          "\"usage\":{\"prompt_tokens\":200,\"completion_tokens\":%ld,\"total_tokens\":%ld}}\n\n",
                          chunks, chunks + 200);
        add_chunk(c, usage, (size_t)len);
    }
    add_chunk(c, DONE, sizeof DONE - 1);
    add(c, "0\r\n\r\n", 5);
}

static void add_document(Conn *c, const char *json, size_t len) {
    char head[256];
    add(c, head, (size_t)sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_bench\r\n"
                                       "Content-Length: %zu\r\n\r\n", len));
    add(c, json, len);
}

static void add_state(Conn *c) {
    static char json[64 + LEFT * 21];
    int len = sprintf(json, "{\"open\":%d,\"left\":[", heap_len);
    for (int i = 0; i < left_len; i++) len += sprintf(json + len, "%s%llu", i ? "," : "", (unsigned long long)left_ns[i]);
    len += sprintf(json + len, "]}");
    left_len = 0;
    add_document(c, json, (size_t)len);
}

/* -- requests ------------------------------------------------------------------------------------------------------ */
static int has(const char *body, size_t len, const char *a, const char *b) {
    return memmem(body, len, a, strlen(a)) || memmem(body, len, b, strlen(b));
}

static void answer(Conn *c, const char *body, size_t len) {
    static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
                               "x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n";
    long chunks = 0, interval_us = 0, ttft_us = 0;
    const char *script = memmem(body, len, "\"bench-", 7);
    if (script) sscanf(script + 7, "%ld-%ld-%ld", &chunks, &interval_us, &ttft_us);
    c->streamed = has(body, len, "\"stream\":true", "\"stream\": true");
    if (!c->streamed) {
        if (ttft_us) schedule(c, now_ns() + (uint64_t)ttft_us * 1000);
        else add_document(c, JSON, sizeof JSON - 1);
        return;
    }
    c->usage = has(body, len, "\"include_usage\":true", "\"include_usage\": true");
    add(c, HEAD, sizeof HEAD - 1);
    add_chunk(c, ROLE, sizeof ROLE - 1);
    if (interval_us == 0 && ttft_us == 0) {
        for (long i = 0; i < chunks; i++) add_content(c);
        add_end(c, chunks);
        return;
    }
    c->chunks = c->chunks_left = chunks;
    c->interval_ns = interval_us * 1000;
    schedule(c, now_ns() + (uint64_t)ttft_us * 1000);
}

static int take_requests(Conn *c) { /* answers what is complete; one at a time; 0 when the connection is gone */
    while (c->in_len && !c->heap_at) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) break;
        size_t head = (size_t)(end + 4 - c->in), length = 0;
        for (char *line = c->in; (line = memchr(line, '\n', (size_t)(end - line))) != NULL;) {
            if (!strncasecmp(++line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
        }
        if (c->in_len < head + length) break;
        if (memmem(c->in, head, "/chat/completions", 17)) answer(c, c->in + head, length);
        else if (!memcmp(c->in, "GET /state ", 11)) add_state(c);
        else {
            static const char EMPTY[] = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
            add(c, EMPTY, sizeof EMPTY - 1);
        }
        memmove(c->in, c->in + head + length, c->in_len -= head + length);
        if (!flush(c)) return 0;
    }
    return 1;
}

static void readable(Conn *c) {
    if (c->in_cap - c->in_len < 16384) c->in = realloc(c->in, c->in_cap = c->in_cap * 2 + 32768);
    ssize_t n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { leave(c); return; }
    c->in_len += (size_t)n;
    take_requests(c);
}

static void due(Conn *c) {
    if (!c->streamed) {
        unschedule(c);
        add_document(c, JSON, sizeof JSON - 1);
        if (flush(c)) take_requests(c);
        return;
    }
    add_content(c);
    if (!flush(c)) return;
    if (--c->chunks_left > 0) { schedule(c, c->due_ns + (uint64_t)c->interval_ns); return; }
    unschedule(c);
    add_end(c, c->chunks);
    if (flush(c)) take_requests(c);
}

int main(int argc, char **argv) {
    if (argc != 2) { fprintf(stderr, "usage: upstream PORT\n"); return 2; }
    char padding[80];
    memset(padding, 'x', sizeof padding);
    content_len = (size_t)sprintf(
        content_event,
        "data: {\"id\":\"chatcmpl-bench0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"bench\",\"system_fingerprint\":\"fp_bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
        "\"@%019d %.*s\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", 0, 40, padding);
    content_stamp = strchr(content_event, '@') + 1;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1000);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) { perror("bind"); return 1; }
    poller = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct timespec wait = {0}, *timeout = NULL;
        if (heap_len) {
            uint64_t now = now_ns(), at_ns = heap[1]->due_ns;
            if (at_ns > now) { wait.tv_sec = (time_t)((at_ns - now) / 1000000000u); wait.tv_nsec = (long)((at_ns - now) % 1000000000u); }
            timeout = &wait;
        }
        int n = epoll_pwait2(poller, events, EVENTS, timeout, NULL);
        if (n < 0 && errno != EINTR) { perror("epoll"); return 1; }
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (c) {
                if ((events[i].events & EPOLLOUT) && !flush(c)) continue;
                if (events[i].events & ~(unsigned)EPOLLOUT) readable(c);
                continue;
            }
            for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                e = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
            }
        }
        for (uint64_t now = now_ns(); heap_len && heap[1]->due_ns <= now;) due(heap[1]);
    }
}
