/* pdmu-board: the board's side of the serial protocol on a PC, with the model that is linked in. The same code as in firmware, on a line that
 * another program opens. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "golden.h"
#include "line.h"
#include "pdmu_board.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };
enum { TICK_HZ = 10000000, IDLE_MS = 5 };

typedef struct {
    enum line_kind line;
    uint16_t tcp_port;
    uint8_t source;
    int pace;
    const char *clip; /* null is the golden signal */
} options;

/* The machine around the board. */
typedef struct {
    line line;
    int16_t *clip;
    size_t clip_samples;
    uint64_t start_ns;
    uint64_t given; /* samples since the stream began */
    uint32_t begun_ms;
    int pace, restart;
} machine;

static const char usage_text[] =
    "usage: pdmu-board [--pty | --stdio | --tcp PORT] [--source serial|clip] [--clip FILE] [--pace]\n"
    "\n"
    "Be a board with this model: speak the protocol of PROTOCOL.md on a line that another program opens.\n"
    "\n"
    "  --pty           a pseudo-terminal, whose path is printed (the default)\n"
    "  --stdio         standard input and output, until the input ends\n"
    "  --tcp PORT      a socket on this machine, whose address is printed; 0 is any free port\n"
    "  --source NAME   where the first stream comes from: serial (the default) or clip\n"
    "  --clip FILE     the built-in clip, mono 16-bit little-endian PCM, played in a loop; by default the model's test signal\n"
    "  --pace          play the clip in real time instead of as fast as it goes\n"
    "\n"
    "example: pdmu-board --source clip --pace\n"
    "Exit status: 0 done, 1 failed, 2 usage.\n";

static int usage_error(const char *what, const char *value) {
    fprintf(stderr, "error: %s '%s'; see pdmu-board --help\n", what, value);
    return EXIT_USAGE;
}

static int parse_port(const char *text, uint16_t *port) {
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    *port = (uint16_t)value;
    return errno == 0 && end != text && *end == '\0' && value >= 0 && value <= 65535;
}

/* An option that takes a value. */
static int parse_value(const char *name, const char *value, options *o) {
    if (!value) return usage_error("a value is missing after", name);
    if (strcmp(name, "--clip") == 0) {
        o->clip = value;
    } else if (strcmp(name, "--tcp") == 0) {
        o->line = LINE_TCP;
        if (!parse_port(value, &o->tcp_port)) return usage_error("--tcp needs a port 0 ... 65535, not", value);
    } else if (strcmp(value, "clip") == 0) {
        o->source = PDMU_BOARD_CLIP;
    } else if (strcmp(value, "serial") == 0) {
        o->source = PDMU_BOARD_SERIAL;
    } else {
        return usage_error("--source is serial or clip, not", value);
    }
    return EXIT_DONE;
}

/* EXIT_DONE, EXIT_USAGE, or -1 when help was asked for. */
static int parse(int argc, char **argv, options *o) {
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) return -1;
        if (strcmp(arg, "--pty") == 0) {
            o->line = LINE_PTY;
        } else if (strcmp(arg, "--stdio") == 0) {
            o->line = LINE_STDIO;
        } else if (strcmp(arg, "--pace") == 0) {
            o->pace = 1;
        } else if (strcmp(arg, "--clip") == 0 || strcmp(arg, "--tcp") == 0 || strcmp(arg, "--source") == 0) {
            const int verdict = parse_value(arg, argv[++i], o);
            if (verdict != EXIT_DONE) return verdict;
        } else {
            return usage_error("unknown option", arg);
        }
    }
    return EXIT_DONE;
}

static int clip_error(const char *path, const char *what) {
    fprintf(stderr, "error: %s: %s\n", path, what);
    return EXIT_FAILED;
}

/* Read a whole file of samples into m->clip. */
static int load_clip(machine *m, const char *path) {
    FILE *in = fopen(path, "rb");
    if (!in) return clip_error(path, strerror(errno));
    size_t room = 0;
    int low, high = EOF;
    while ((low = getc(in)) != EOF && (high = getc(in)) != EOF) {
        if (m->clip_samples == room) {
            room = 2 * room + 4096;
            int16_t *grown = realloc(m->clip, room * sizeof *grown);
            if (!grown) break;
            m->clip = grown;
        }
        const int32_t v = low | high << 8;
        m->clip[m->clip_samples++] = (int16_t)(v < 32768 ? v : v - 65536);
    }
    const int failed = ferror(in), whole = feof(in) && low == EOF;
    fclose(in);
    if (failed) return clip_error(path, "cannot read");
    if (!whole) return clip_error(path, "too large for the memory, or its last sample is cut in half: is it raw 16-bit PCM?");
    return m->clip_samples ? EXIT_DONE : clip_error(path, "no samples");
}

static int golden_clip(machine *m) {
    m->clip_samples = PDMU_GOLDEN_SAMPLES;
    m->clip = malloc(m->clip_samples * sizeof *m->clip);
    if (!m->clip) return clip_error("the built-in clip", "no memory");
    pdmu_golden_pcm(m->clip);
    return EXIT_DONE;
}

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t milliseconds(void *context) { return (uint32_t)((monotonic_ns() - ((machine *)context)->start_ns) / 1000000u); }

static uint32_t ticks(void *context) {
    (void)context;
    return (uint32_t)(monotonic_ns() / (1000000000u / TICK_HZ));
}

static void write_line(void *context, const uint8_t *bytes, size_t n) { line_write(&((machine *)context)->line, bytes, n); }

static void reboot(void *context) { ((machine *)context)->restart = 1; }

static void begin_clip(void *context, uint8_t source) {
    machine *m = context;
    (void)source;
    m->given = 0;
    m->begun_ms = milliseconds(m);
}

static int32_t play(void *context, int16_t *pcm, int32_t n) {
    machine *m = context;
    const uint64_t heard = (uint64_t)(milliseconds(m) - m->begun_ms) * PDMU_SAMPLE_RATE_HZ / 1000u;
    int32_t i = 0;
    for (; i < n && (!m->pace || m->given < heard); i++) pcm[i] = m->clip[m->given++ % m->clip_samples];
    return i;
}

/* Until the line has an end: then 0, all requests being answered. */
static int run(machine *m, const pdmu_board_port *port) {
    static pdmu_board board;
    static const char banner[] = "pdmu-board " PDMU_BOARD_VERSION ", model " PDMU_MODEL_NAME " " PDMU_MODEL_VERSION "\n";
    uint8_t bytes[256];
    int got = 0;
    m->restart = 1;
    while (got >= 0) {
        if (m->restart) {
            m->restart = 0;
            m->start_ns = monotonic_ns();
            pdmu_board_init(&board, port);
            write_line(m, (const uint8_t *)banner, sizeof banner - 1);
        }
        const int32_t more = pdmu_board_poll(&board);
        got = line_read(&m->line, bytes, sizeof bytes, more ? 0 : IDLE_MS);
        for (int i = 0; i < got && !m->restart; i++) pdmu_board_byte(&board, bytes[i]);
    }
    return EXIT_DONE;
}

int main(int argc, char **argv) {
    options o = {LINE_PTY, 0, PDMU_BOARD_SERIAL, 0, NULL};
    static machine m;
    const int parsed = parse(argc, argv, &o);
    if (parsed == -1) {
        fputs(usage_text, stdout);
        return EXIT_DONE;
    }
    if (parsed != EXIT_DONE) return parsed;
    m.pace = o.pace;
    if ((o.clip ? load_clip(&m, o.clip) : golden_clip(&m)) != EXIT_DONE) return EXIT_FAILED;
    signal(SIGPIPE, SIG_IGN);
    if (line_open(&m.line, o.line, o.tcp_port) != 0) {
        fprintf(stderr, "error: cannot open the line: %s\n", strerror(errno));
        return EXIT_FAILED;
    }
    const pdmu_board_port port = {
        .context = &m,
        .board = "pdmu-board",
        .firmware = PDMU_BOARD_VERSION,
        .write = write_line,
        .milliseconds = milliseconds,
        .reboot = reboot,
        .ticks = ticks,
        .tick_hz = TICK_HZ,
        .has_clip = 1,
        .source = o.source,
        .select = begin_clip,
        .samples = play,
    };
    const int verdict = run(&m, &port);
    free(m.clip);
    return verdict;
}
