/* pdmu-host: s16le PCM in, JSON lines out, with the model that is linked in. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "model_data.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef struct {
    const char *path; /* null is standard input */
    long every;       /* print each N-th step */
    long above;       /* print steps with a score of at least this, Q15 */
    int events;       /* print what the detector makes of the scores instead */
    int golden;
} options;

static const char usage_text[] =
    "usage: pdmu-host [--every N] [--above Q15] [FILE]\n"
    "       pdmu-host --events [FILE]\n"
    "       pdmu-host --golden\n"
    "\n"
    "Read mono 16-bit little-endian PCM from FILE or standard input and print one JSON line for each model step:\n"
    "  {\"t_s\": start of the step in seconds, \"step\": its number, \"scores\": {label: 0 ... 32767, ...}}\n"
    "\n"
    "  --every N    only each N-th step\n"
    "  --above Q15  only steps in which some score reaches Q15 (0 ... 32767)\n"
    "  --events     the detector's events instead, one line each, with the bundle's thresholds:\n"
    "               {\"label\": ..., \"t_start_s\": ..., \"dur_s\": ..., \"score\": 0 ... 1, \"outcome\": detected, cut, too_short or refractory}\n"
    "  --golden     replay the built-in test signal and compare with the scores the bundle promises\n"
    "\n"
    "example: arecord -q -t raw -f S16_LE -r 16000 -c 1 | pdmu-host --above 20000\n"
    "Exit status: 0 done, 1 failed, 2 usage.\n";

static int16_t scores[PDMU_N_LABELS];
static pdmu_stream_data stream;
static pdmu_detector_state detector;
static pdmu_event events[PDMU_N_LABELS];

static int usage_error(const char *what, const char *value) {
    fprintf(stderr, "error: %s '%s'; see pdmu-host --help\n", what, value);
    return EXIT_USAGE;
}

static int parse_number(const char *text, long low, long high, long *value) {
    char *end;
    errno = 0;
    *value = strtol(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *value >= low && *value <= high;
}

/* EXIT_DONE, EXIT_USAGE, or -1 when help was asked for. */
static int parse(int argc, char **argv, options *o) {
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) return -1;
        if (strcmp(arg, "--golden") == 0) {
            o->golden = 1;
        } else if (strcmp(arg, "--events") == 0) {
            o->events = 1;
        } else if (strcmp(arg, "--every") == 0 || strcmp(arg, "--above") == 0) {
            const int every = arg[2] == 'e';
            if (++i == argc) return usage_error("a number is missing after", arg);
            if (!parse_number(argv[i], every ? 1 : 0, every ? INT_MAX : 32767, every ? &o->every : &o->above)) {
                return usage_error(every ? "--every needs a number of at least 1, not" : "--above needs a number 0 ... 32767, not", argv[i]);
            }
        } else if (arg[0] == '-' && arg[1] != '\0') {
            return usage_error("unknown option", arg);
        } else if (o->path) {
            return usage_error("one FILE at a time, unexpected", arg);
        } else {
            o->path = arg;
        }
    }
    if (o->golden && o->path) return usage_error("--golden reads no FILE, unexpected", o->path);
    return EXIT_DONE;
}

static void print_json_string(const char *text) {
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\') {
            printf("\\%c", *c);
        } else if (*c < 32) {
            printf("\\u%04x", (unsigned)*c);
        } else {
            putchar(*c);
        }
    }
    putchar('"');
}

static void print_step(long long step, const options *o) {
    int16_t top = scores[0];
    for (int i = 1; i < PDMU_N_LABELS; i++) top = scores[i] > top ? scores[i] : top;
    if (step % o->every != 0 || top < o->above) return;
    printf("{\"t_s\": %.4f, \"step\": %lld, \"scores\": {", (double)step * PDMU_SAMPLES_PER_STEP / PDMU_SAMPLE_RATE_HZ, step);
    for (int i = 0; i < PDMU_N_LABELS; i++) {
        if (i) fputs(", ", stdout);
        print_json_string(pdmu_label(i));
        printf(": %d", scores[i]);
    }
    puts("}}");
}

static void print_events(int32_t count) {
    static const char *const outcomes[] = {"detected", "cut", "too_short", "refractory"};
    const double step_s = (double)PDMU_SAMPLES_PER_STEP / PDMU_SAMPLE_RATE_HZ;
    for (int32_t i = 0; i < count; i++) {
        const pdmu_event *e = &events[i];
        fputs("{\"label\": ", stdout);
        print_json_string(pdmu_label(e->label));
        printf(", \"t_start_s\": %.4f, \"dur_s\": %.4f, \"score\": %.4f, \"outcome\": \"%s\"}\n", (double)e->onset_step * step_s,
               (double)(e->end_step - e->onset_step) * step_s, e->peak_sum / (pdmu_detector_data.smooth_steps * 32768.0),
               outcomes[e->outcome]);
    }
}

static void take_step(long long step, const options *o) {
    if (o->events) {
        print_events(pdmu_detector_step(&pdmu_detector_data, &detector, scores, events));
    } else {
        print_step(step, o);
    }
}

static int run(FILE *in, const char *name, const options *o) {
    static unsigned char raw[2 * PDMU_SAMPLES_PER_STEP];
    static int16_t pcm[PDMU_SAMPLES_PER_STEP];
    long long step = 0;
    size_t got;
    pdmu_stream_init(&stream);
    pdmu_detector_init(&pdmu_detector_data, &detector);
    for (int first = 1; (got = fread(raw, 1, sizeof raw, in)) > 0; first = 0) {
        if (first && got >= 4 && memcmp(raw, "RIFF", 4) == 0) {
            fprintf(stderr, "error: %s: a WAV file, raw s16le PCM is needed; convert it: sox FILE.wav -t raw -e signed -b 16 -c 1 -r %d -\n",
                    name, PDMU_SAMPLE_RATE_HZ);
            return EXIT_FAILED;
        }
        for (size_t i = 0; i < got / 2; i++) {
            const int32_t v = raw[2 * i] | raw[2 * i + 1] << 8;
            pcm[i] = (int16_t)(v >= 32768 ? v - 65536 : v);
        }
        if (pdmu_stream_process(&stream, pcm, (int32_t)(got / 2), scores, 1) == 1) take_step(step++, o);
        if (got % 2) {
            fprintf(stderr, "error: %s: the last sample is cut in half: not 16-bit PCM, or a truncated file\n", name);
            return EXIT_FAILED;
        }
    }
    if (ferror(in)) {
        fprintf(stderr, "error: %s: cannot read: %s\n", name, strerror(errno));
        return EXIT_FAILED;
    }
    if (o->events) print_events(pdmu_detector_finish(&pdmu_detector_data, &detector, events));
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "error: cannot write the output: %s\n", strerror(errno));
        return EXIT_FAILED;
    }
    return EXIT_DONE;
}

static int golden(void) {
    static int16_t pcm[PDMU_GOLDEN_SAMPLES];
    int32_t steps = 0;
    pdmu_golden_pcm(pcm);
    pdmu_stream_init(&stream);
    for (int32_t at = 0; at < PDMU_GOLDEN_SAMPLES; at += PDMU_SAMPLES_PER_STEP) {
        const int32_t left = PDMU_GOLDEN_SAMPLES - at;
        if (pdmu_stream_process(&stream, pcm + at, left < PDMU_SAMPLES_PER_STEP ? left : PDMU_SAMPLES_PER_STEP, scores, 1) != 1) continue;
        if (steps >= PDMU_GOLDEN_STEPS || memcmp(scores, pdmu_golden_scores[steps], sizeof scores) != 0) {
            fprintf(stderr, "error: golden self-test: step %ld differs from what the bundle promises\n", (long)steps);
            return EXIT_FAILED;
        }
        steps++;
    }
    if (steps != PDMU_GOLDEN_STEPS) {
        fprintf(stderr, "error: golden self-test: %ld steps came, %d were expected\n", (long)steps, PDMU_GOLDEN_STEPS);
        return EXIT_FAILED;
    }
    printf("golden self-test: %ld steps equal, bundle %s\n", (long)steps, pdmu_bundle_sha256());
    return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
}

int main(int argc, char **argv) {
    options o = {NULL, 1, 0, 0, 0};
    const int parsed = parse(argc, argv, &o);
    if (parsed == -1) {
        fputs(usage_text, stdout);
        return EXIT_DONE;
    }
    if (parsed != EXIT_DONE) return parsed;
    if (o.golden) return golden();
    if (!o.path || strcmp(o.path, "-") == 0) {
        setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* someone may be waiting for the line */
        return run(stdin, "standard input", &o);
    }
    FILE *in = fopen(o.path, "rb");
    if (!in) {
        fprintf(stderr, "error: %s: cannot open: %s\n", o.path, strerror(errno));
        return EXIT_FAILED;
    }
    const int verdict = run(in, o.path, &o);
    fclose(in);
    return verdict;
}
