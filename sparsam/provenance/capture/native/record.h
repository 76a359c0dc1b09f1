/* The log of a process, written from C: the format stands in sparsam/provenance/log.py.
 *
 * Everything here runs between enter() and leave(): signals blocked, one thread at a time, no allocation, and system calls made
 * directly, so that nothing of it is seen by itself; large buffers are static, for stacks may be small. A program may close
 * whatever it likes: before each write the log's descriptor is looked at.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define LOG_BYTES (1 << 19)
#define FLUSH_BYTES (1 << 16)
#define SEPARATOR '\x1f'
#define LONGEST_ARGUMENTS (1 << 14)

extern char **environ;

/* Wiped in the child by every fork, not by vfork: how a forked child is told from one that borrows its parent's memory. */
static struct live { volatile int alive, lock; } *live;

static struct {
    const char *folder, *root, *run, *user, *uid;
    int durations, calls, folders, files, code;
    const char *patterns[256]; /* '+' or '-', then a pattern of fnmatch */
    int pattern_count;
} chosen;

static struct {
    char *bytes;        /* records that wait */
    size_t used, start; /* start: of the record being made */
    int overrun;
    uint64_t number, counted, lost, said_lost;
    int64_t last, flushed; /* nanoseconds */
    int begun, written, eager, image, holding;
    char host[65], file[4096], own[160], parent[160], of[160];
    int forked, pid;
    int64_t began;
    int fd;
    dev_t dev;
    ino_t ino;
} record;

static volatile int ready;

/* Where a variable stands in the environment; not by getenv and putenv, for which shells have functions of their own. */
static char **variable(const char *name)
{
    size_t size = strlen(name);
    for (char **at = environ; at && *at; at++)
        if (strncmp(*at, name, size) == 0 && (*at)[size] == '=') return at;
    return NULL;
}

static const char *value_of(const char *name)
{
    char **found = variable(name);
    return found ? *found + strlen(name) + 1 : NULL;
}

static int64_t now(clockid_t which)
{
    struct timespec at;
    clock_gettime(which, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static uint32_t crc_table[256];

static void make_crc_table(void)
{
    for (uint32_t at = 0; at < 256; at++) {
        uint32_t value = at;
        for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xEDB88320u ^ value >> 1 : value >> 1;
        crc_table[at] = value;
    }
}

static uint32_t crc32_of(const unsigned char *bytes, size_t size)
{
    uint32_t value = ~0u;
    while (size--) value = crc_table[(value ^ *bytes++) & 255] ^ value >> 8;
    return ~value;
}

/* text into the record */

static void put(const char *text, size_t size)
{
    if (record.used + size > LOG_BYTES - 1024) {
        record.overrun = 1;
        return;
    }
    memcpy(record.bytes + record.used, text, size);
    record.used += size;
}

static void put_text(const char *text) { put(text, strlen(text)); }

static void put_number(int64_t value)
{
    char digits[24];
    int at = sizeof digits;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do digits[--at] = '0' + left % 10; while (left /= 10);
    if (value < 0) digits[--at] = '-';
    put(digits + at, sizeof digits - at);
}

static void put_seconds(int64_t nanoseconds)
{
    put_number(nanoseconds / 1000000000);
    char digits[11] = ".";
    int64_t left = nanoseconds % 1000000000;
    for (int at = 9; at > 0; at--, left /= 10) digits[at] = '0' + left % 10;
    put(digits, 10);
}

/* How many bytes of well-formed UTF-8 begin here; 0 where there is none. */
static int utf8_at(const unsigned char *at, size_t left)
{
    int size = at[0] < 0x80 ? 1 : at[0] >= 0xC2 && at[0] <= 0xDF ? 2 : (at[0] & 0xF0) == 0xE0 ? 3 : at[0] >= 0xF0 && at[0] <= 0xF4 ? 4 : 0;
    if (size == 0 || (size_t)size > left) return 0;
    for (int i = 1; i < size; i++)
        if ((at[i] & 0xC0) != 0x80) return 0;
    if (at[0] == 0xE0 && at[1] < 0xA0) return 0;
    if (at[0] == 0xED && at[1] > 0x9F) return 0; /* a surrogate */
    if (at[0] == 0xF0 && at[1] < 0x90) return 0;
    if (at[0] == 0xF4 && at[1] > 0x8F) return 0;
    return size;
}

/* As writer._text: bytes that are no UTF-8 become backslash escapes. */
static void put_string(const char *text, size_t size)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *at = (const unsigned char *)text, *end = at + size;
    put("\"", 1);
    while (at < end) {
        int good = utf8_at(at, end - at);
        if (good == 0) {
            char escape[5] = {'\\', '\\', 'x', hex[*at >> 4], hex[*at & 15]};
            put(escape, 5);
            at++;
        } else if (good == 1 && (*at < 0x20 || *at == '"' || *at == '\\' || *at == 0x7F)) {
            char escape[6] = {'\\', 'u', '0', '0', hex[*at >> 4], hex[*at & 15]};
            put(escape, 6);
            at++;
        } else {
            put((const char *)at, good);
            at += good;
        }
    }
    put("\"", 1);
}

static void key(const char *name)
{
    put(",\"", 2);
    put_text(name);
    put("\":", 2);
}

static void fact_text(const char *name, const char *value) { key(name), put_string(value, strlen(value)); }
static void fact_number(const char *name, int64_t value) { key(name), put_number(value); }
static void fact_true(const char *name) { key(name), put_text("true"); }
static void fact_seconds(const char *name, int64_t value) { if (chosen.durations) key(name), put_seconds(value); }

/* "host|pid|started" as [host, pid, started] */
static void fact_writer(const char *name, const char *value)
{
    const char *pid = strchr(value, SEPARATOR), *started = pid ? strchr(pid + 1, SEPARATOR) : NULL;
    if (!started) return;
    key(name);
    put("[", 1), put_string(value, pid - value), put(",", 1), put(pid + 1, started - pid - 1), put(",", 1);
    put_text(started + 1), put("]", 1);
}

/* records */

static void flush(void);
static void began(void);

static void open_record(const char *kind)
{
    int64_t at = now(CLOCK_REALTIME);
    record.last = at > record.last ? at : record.last;
    record.start = record.used;
    record.overrun = 0;
    record.used += 16;
    put("[", 1), put_number(record.last), put(",\"", 2), put_text(kind), put("\",{", 3);
}

static void begin(const char *kind)
{
    if (!record.begun) began();
    open_record(kind);
}

/* The facts after the first one: they all begin with a comma. */
static void first_number(const char *name, int64_t value) { put("\"", 1), put_text(name), put("\":", 2), put_number(value); }
static void first_text(const char *name, const char *value)
{
    put("\"", 1), put_text(name), put("\":", 2), put_string(value, strlen(value));
}

static void finish_record(void)
{
    put("}]", 2);
    uint32_t size = record.used - record.start - 16;
    uint64_t number = record.number;
    char *head = record.bytes + record.start;
    if (record.overrun) {
        record.used = record.start;
        record.number++;
        record.lost++;
        return;
    }
    memcpy(head, &size, 4);
    memcpy(head + 8, &number, 8);
    uint32_t sum = crc32_of((unsigned char *)head + 8, size + 8);
    memcpy(head + 4, &sum, 4);
    record.number++;
    record.counted++;
}

static void end(void)
{
    finish_record();
    if (record.holding) {
        if (record.used > LOG_BYTES / 2) record.holding = 0;
        return;
    }
    if (record.eager || record.used >= FLUSH_BYTES || record.last - record.flushed >= 1000000000LL) flush();
}

/* The log's descriptor, under a number that programs do not expect to be free; opened once more where it is another file's now. */
static int log_fd(struct stat *facts)
{
    if (record.fd > 0 && syscall(SYS_fstat, record.fd, facts) == 0 && facts->st_dev == record.dev && facts->st_ino == record.ino)
        return record.fd;
    int fd = syscall(SYS_openat, AT_FDCWD, record.file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return -1;
    int high = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 512);
    if (high >= 0) syscall(SYS_close, fd), fd = high;
    if (syscall(SYS_fstat, fd, facts) < 0) return -1;
    record.fd = fd, record.dev = facts->st_dev, record.ino = facts->st_ino;
    return fd;
}

static int write_out(void)
{
    struct stat facts;
    struct rlimit limit;
    int fd = log_fd(&facts), good = fd >= 0;
    if (good && syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        good = facts.st_size + record.used <= limit.rlim_cur; /* beyond it the program would be sent a signal */
    for (size_t done = 0; good && done < record.used;) {
        ssize_t size = syscall(SYS_write, fd, record.bytes + done, record.used - done);
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) {
            good = 0;
            syscall(SYS_ftruncate, fd, facts.st_size); /* no half of a record stays */
        } else
            done += size;
    }
    return good;
}

static void flush(void)
{
    record.flushed = now(CLOCK_REALTIME);
    if (!record.counted && record.lost <= record.said_lost) return;
    if (record.lost > record.said_lost) {
        record.said_lost = record.lost;
        open_record("lost");
        first_number("records", record.lost);
        finish_record();
    }
    if (write_out())
        record.written = 1;
    else
        record.lost += record.counted;
    record.used = record.counted = 0;
    if (!record.written) put_text("sparsam log 1\n");
}

static void new_writer(void)
{
    struct stat facts;
    struct utsname names;
    if (record.fd > 0 && syscall(SYS_fstat, record.fd, &facts) == 0 && facts.st_dev == record.dev && facts.st_ino == record.ino)
        syscall(SYS_close, record.fd); /* the parent's */
    record.fd = 0;
    char clean[64] = "host";
    uname(&names);
    record.pid = getpid();
    record.began = now(CLOCK_REALTIME);
    snprintf(record.host, sizeof record.host, "%s", names.nodename);
    for (int at = 0; record.host[at] && at < 60; at++) {
        char one = record.host[at];
        int plain = (one >= 'a' && one <= 'z') || (one >= 'A' && one <= 'Z') || (one >= '0' && one <= '9') || one == '-' || one == '.';
        clean[at] = plain ? one : '_';
        clean[at + 1] = 0;
    }
    snprintf(record.file, sizeof record.file, "%s/%s-%d-%lld.log", chosen.folder, clean, record.pid, (long long)record.began);
    snprintf(record.own, sizeof record.own, "%s%c%d%c%lld", record.host, SEPARATOR, record.pid, SEPARATOR, (long long)record.began);
    record.used = record.counted = record.number = record.lost = record.said_lost = 0;
    record.begun = record.written = 0;
    record.last = record.flushed = record.began;
    put_text("sparsam log 1\n");
}

static void fact_link(const char *name, const char *link)
{
    static char place[4096];
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, place, sizeof place);
    if (size > 0) key(name), put_string(place, size);
}

static void fact_arguments(void)
{
    static char text[LONGEST_ARGUMENTS];
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0);
    ssize_t size = fd < 0 ? 0 : syscall(SYS_read, fd, text, sizeof text);
    if (fd >= 0) syscall(SYS_close, fd);
    key("argv");
    put("[", 1);
    for (ssize_t at = 0; at < size;) {
        size_t length = strnlen(text + at, size - at);
        if (at) put(",", 1);
        put_string(text + at, length);
        at += length + 1;
    }
    put("]", 1);
}

/* The first record. In a Python program that tracks itself it says whose records these are. */
static void began(void)
{
    static const char *ranks[] = {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", NULL};
    record.begun = 1;
    open_record("process");
    first_text("run", chosen.run);
    if (record.of[0])
        fact_writer("of", record.of);
    else {
        char id[24];
        snprintf(id, sizeof id, "%d", (int)getuid());
        fact_arguments();
        fact_link("cwd", "/proc/self/cwd");
        fact_link("executable", "/proc/self/exe");
        fact_text("user", strcmp(id, chosen.uid) == 0 ? chosen.user : id);
        fact_text("host", record.host);
        for (int at = 0; ranks[at]; at++) {
            const char *rank = value_of(ranks[at]);
            if (rank) {
                fact_text("rank", rank);
                break;
            }
        }
        if (record.parent[0]) fact_writer("parent", record.parent);
        if (record.forked) fact_true("forked");
    }
    fact_true("native");
    finish_record();
}

/* which paths */

static uint64_t hash_of(const char *text)
{
    uint64_t value = 1469598103934665603ULL;
    while (*text) value = (value ^ (unsigned char)*text++) * 1099511628211ULL;
    return value;
}

static int matches(const char *path)
{
    static const char *installed[] = {
        "*.pyc", "*/__pycache__/*", "*/site-packages/*", "*/dist-packages/*", "/usr/lib/*", "/usr/lib32/*", "/usr/lib64/*", "/lib/*",
        "/lib64/*", "/usr/libexec/*", "/usr/include/*", "/usr/share/locale/*", "/usr/share/zoneinfo/*", "/usr/share/terminfo/*", "/etc/*",
        "*.so", "*.so.*", NULL};
    size_t size = strlen(chosen.root);
    int some = 0, found = 0;
    if (!chosen.files || path[0] != '/' || (strncmp(path, chosen.root, size) == 0 && path[size] == '/')) return 0;
    for (int at = 0; at < chosen.pattern_count; at++) {
        const char *one = chosen.patterns[at];
        if (one[0] == '-' && fnmatch(one + 1, path, FNM_NOESCAPE) == 0) return 0;
        if (one[0] == '+') some = 1, found |= fnmatch(one + 1, path, FNM_NOESCAPE) == 0;
    }
    for (int at = 0; !chosen.code && installed[at]; at++)
        if (fnmatch(installed[at], path, FNM_NOESCAPE) == 0) return 0;
    return !some || found;
}

/* The same, looked up once for a path that comes again. */
static int wanted(const char *path)
{
    static struct { uint64_t hash; int found; } known[1024];
    uint64_t hash = hash_of(path);
    if (known[hash & 1023].hash != hash) known[hash & 1023].found = matches(path), known[hash & 1023].hash = hash;
    return known[hash & 1023].found;
}

/* Where a descriptor leads, without links; 0 for what has no name (any more). */
static int path_of(int fd, char *path, size_t size)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t found = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    if (found <= 0 || path[0] != '/') return 0;
    path[found] = 0;
    return found < 10 || strcmp(path + found - 10, " (deleted)") != 0;
}

/* A name as such: its folder without links, its last part as it is. */
static int name_of(int folder, const char *name, char *path, size_t size)
{
    static char head[4096];
    size_t length = strlen(name);
    while (length > 1 && name[length - 1] == '/') length--;
    size_t cut = length;
    while (cut > 0 && name[cut - 1] != '/') cut--;
    if (length == 0 || cut >= sizeof head || length - cut > 255) return 0;
    memcpy(head, name, cut);
    head[cut] = 0;
    int fd = syscall(SYS_openat, folder, cut ? head : ".", O_PATH | O_CLOEXEC | O_DIRECTORY, 0);
    if (fd < 0) return 0;
    int good = path_of(fd, path, size - 257);
    syscall(SYS_close, fd);
    if (!good) return 0;
    size_t used = strlen(path);
    if (used > 1) path[used++] = '/';
    memcpy(path + used, name + cut, length - cut);
    path[used + length - cut] = 0;
    return 1;
}

/* one thread at a time */

static void after_fork(void);

struct held { uint64_t signals; int error; };

static int enter(struct held *held, int borrowed)
{
    uint64_t all = ~0ULL;
    held->error = errno;
    if (!ready) return 0;
    if (live->alive && !borrowed && record.pid != getpid()) return 0; /* after vfork: the memory is the parent's */
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &held->signals, 8);
    while (__sync_lock_test_and_set(&live->lock, 1)) sched_yield();
    if (!live->alive) {
        live->alive = 1;
        after_fork();
    }
    return 1;
}

static void leave(struct held *held)
{
    __sync_lock_release(&live->lock);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &held->signals, NULL, 8);
    errno = held->error;
}
