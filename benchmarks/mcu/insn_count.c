/* A QEMU plugin that counts executed instructions by section of the program, exactly:
 *
 *     -plugin insn_count.so,out=FILE,at=ADDRESS:SECTION,at=...
 *
 * Reaching the instruction at ADDRESS (hexadecimal) begins SECTION (0 ... 7); section 0 is what nobody asked for. FILE receives a line
 * "section visits instructions largest" for each section but 0, when QEMU ends; a visit lasts until another section begins.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu_plugin_abi.h"

#define SECTIONS 8
#define MARKS 64

typedef struct {
    uint64_t visits, instructions, largest;
} tally;

typedef struct {
    uint64_t address;
    uintptr_t section;
} mark;

QEMU_PLUGIN_EXPORT int qemu_plugin_version = 1;

static tally tallies[SECTIONS];
static mark marks[MARKS];
static int n_marks;
static uint64_t executed, begun;
static uintptr_t current;
static char out_path[4096];

static void close_visit(void) {
    const uint64_t length = executed - begun;
    tally *t = &tallies[current];
    t->instructions += length;
    if (length > t->largest) t->largest = length;
    begun = executed;
}

static void enter(unsigned int vcpu, void *section) {
    (void)vcpu;
    if ((uintptr_t)section == current) return;
    close_visit();
    current = (uintptr_t)section;
    tallies[current].visits++;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        for (int k = 0; k < n_marks; k++) {
            if (qemu_plugin_insn_vaddr(insn) != marks[k].address) continue;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, enter, QEMU_PLUGIN_CB_NO_REGS, (void *)marks[k].section);
        }
        qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &executed, 1);
    }
}

static void finished(qemu_plugin_id_t id, void *unused) {
    (void)id;
    (void)unused;
    close_visit();
    FILE *out = fopen(out_path, "w");
    if (!out) {
        perror(out_path);
        return;
    }
    for (int s = 1; s < SECTIONS; s++) {
        const tally *t = &tallies[s];
        if (t->visits) fprintf(out, "%d %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", s, t->visits, t->instructions, t->largest);
    }
    fclose(out);
}

/* 0, or -1 for an argument that is not one of ours. */
static int take(const char *argument) {
    if (strncmp(argument, "out=", 4) == 0) {
        return snprintf(out_path, sizeof out_path, "%s", argument + 4) < (int)sizeof out_path ? 0 : -1;
    }
    char *end;
    if (strncmp(argument, "at=", 3) != 0 || n_marks == MARKS) return -1;
    marks[n_marks].address = strtoull(argument + 3, &end, 16);
    if (*end != ':') return -1;
    marks[n_marks].section = strtoul(end + 1, &end, 10);
    return *end == '\0' && marks[n_marks++].section < SECTIONS ? 0 : -1;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (take(argv[i]) == 0) continue;
        fprintf(stderr, "insn_count: bad argument '%s'\n", argv[i]);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return out_path[0] ? 0 : -1;
}
