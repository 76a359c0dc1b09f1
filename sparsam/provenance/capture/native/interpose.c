/* Functions of the C library on files, seen in any program that is started with this in LD_PRELOAD.
 *
 * Each does what the library's own does, and tells the log (record.h) what happened to files and pipes. What a descriptor stands
 * for is kept in a table; what is read and written through stdio, whose inner calls cannot be seen, is told from the file's
 * offset, size and time when it is closed. In a Python program that tracks itself, opens that come from the interpreter are
 * left to it: they are known by the address that called.
 */
#include "record.h"

#include <dlfcn.h>
#include <link.h>
#include <spawn.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <utime.h>

#define DESCRIPTORS 65536
#define IN 1
#define OUT 2
#define FIRST_NUMBER (1ULL << 40) /* handles of Python's own capture are below */

struct handle {
    uint64_t number; /* 0: nothing more is told of it */
    unsigned epoch, refs, children;
    int mode, wrote, pipe, told, last; /* last: a descriptor that leads to it */
    dev_t dev;
    ino_t ino;
    int64_t size, changed, offset; /* when it was opened */
    uint64_t calls[3], bytes[3];   /* by IN and OUT */
    int64_t spent[3];
    FILE *stream;
    struct handle *next;
};

#define IGNORED ((struct handle *)1)
static struct handle **table, *spare;
static uint64_t numbers = FIRST_NUMBER;
static unsigned epoch = 1, children;
static int highest, python;
static uintptr_t python_from, python_to;
static uint64_t claims[256];
static int claim_count;
static __thread int hushed __attribute__((tls_model("initial-exec")));

#define REAL(name) real_##name()
#define USES(name)                                                        \
    static __typeof__(&name) REAL(name)                                   \
    {                                                                     \
        static __typeof__(&name) found;                                   \
        if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name);   \
        return found;                                                     \
    }                                                                     \
    extern __typeof__(name) name
#ifdef __GLIBC__
#define ALSO(name, other) extern __typeof__(name) other __attribute__((alias(#name)))
#else
#define ALSO(name, other) extern __typeof__(name) name /* the same name, by a macro */
#endif
#define CALLER __builtin_return_address(0)

static int interpreter(void *caller)
{
    return !ready || hushed || (python && (uintptr_t)caller >= python_from && (uintptr_t)caller < python_to);
}

static int64_t stamp(const struct stat *facts) { return facts->st_mtim.tv_sec * 1000000000LL + facts->st_mtim.tv_nsec; }

static struct handle *new_handle(void)
{
    if (!spare) {
        size_t size = 1 << 18;
        struct handle *many = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (many == MAP_FAILED) return NULL;
        for (size_t at = 0; at < size / sizeof *many; at++) many[at].next = spare, spare = &many[at];
    }
    struct handle *made = spare;
    spare = made->next;
    memset(made, 0, sizeof *made);
    made->refs = 1;
    made->children = children;
    return made;
}

static void put_at(int fd, struct handle *handle)
{
    table[fd] = handle;
    if (handle != NULL && handle != IGNORED) {
        handle->last = fd;
        if (fd > highest) highest = fd;
    }
}

/* what is told; all between enter() and leave() */

static void tell_open(struct handle *handle, int fd, const char *path, int created, int emptied, int inherited)
{
    handle->number = ++numbers;
    handle->epoch = epoch;
    handle->wrote = created || emptied;
    begin("open");
    first_number("handle", handle->number);
    fact_text("path", path);
    fact_text("mode", handle->mode == IN ? "r" : handle->mode == OUT ? "w" : "rw");
    if (created) fact_true("created");
    if (emptied) fact_true("emptied");
    if (inherited) fact_true("inherited");
    key("inode"), put("[", 1), put_number(handle->dev), put(",", 1), put_number(handle->ino), put("]", 1);
    if (!created && !emptied && handle->size >= 0) fact_number("size", handle->size), fact_number("changed", handle->changed);
    fact_text("through", "C");
    end();
}

/* A handle that this process has not told of: it was inherited. */
static void own(struct handle *handle, int fd)
{
    static char path[4096];
    struct stat facts;
    if (handle->epoch == epoch) return;
    handle->epoch = epoch;
    handle->number = handle->wrote = 0;
    memset(handle->calls, 0, sizeof handle->calls), memset(handle->bytes, 0, sizeof handle->bytes);
    memset(handle->spent, 0, sizeof handle->spent);
    if (syscall(SYS_fstat, fd, &facts) == 0) handle->size = facts.st_size, handle->changed = stamp(&facts);
    if (path_of(fd, path, sizeof path) && wanted(path)) tell_open(handle, fd, path, 0, 0, 1);
}

static void tell_pipe(struct handle *handle, int way)
{
    if (handle->epoch != epoch) handle->epoch = epoch, handle->told = 0;
    if (handle->told & way) return;
    handle->told |= way;
    begin("pipe");
    put_text("\"pipe\":["), put_number(handle->dev), put(",", 1), put_number(handle->ino), put("]", 1);
    fact_text("way", way == IN ? "in" : "out");
    end();
}

static void tell_writing(struct handle *handle)
{
    if (handle->wrote || !handle->number) return;
    handle->wrote = 1;
    begin("writing"), first_number("handle", handle->number), end();
}

/* What an unknown descriptor stands for: it was there when the program began, or came unseen. */
static struct handle *adopt(int fd)
{
    struct stat facts;
    static char path[4096];
    struct handle *made = IGNORED;
    int flags = syscall(SYS_fcntl, fd, F_GETFL, 0);
    if (flags < 0 || syscall(SYS_fstat, fd, &facts) < 0) return NULL; /* it is not open: the call will say so */
    int fifo = S_ISFIFO(facts.st_mode), file = S_ISREG(facts.st_mode) && !(flags & O_PATH) && !(python && fd > 2);
    if (fifo || (file && path_of(fd, path, sizeof path) && wanted(path))) made = new_handle();
    if (made != NULL && made != IGNORED) {
        made->mode = (flags & O_ACCMODE) == O_RDWR ? IN | OUT : (flags & O_ACCMODE) == O_WRONLY ? OUT : IN;
        made->dev = facts.st_dev, made->ino = facts.st_ino, made->pipe = fifo, made->epoch = 0;
        made->size = facts.st_size, made->changed = stamp(&facts);
        made->offset = fifo ? 0 : syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    put_at(fd, made);
    return made;
}

/* A pipe that stdio may read or write unseen: by what it is open for. */
static void tell_ends(int fd)
{
    struct handle *handle = adopt(fd);
    if (handle <= IGNORED || !handle->pipe) return;
    if (handle->mode & OUT) tell_pipe(handle, OUT);
    if (handle->mode & IN) tell_pipe(handle, IN);
}

static void note_close(int fd);

static void note_open(int fd, int flags, int existed, FILE *stream)
{
    struct stat facts;
    static char path[4096];
    if (fd < 0 || fd >= DESCRIPTORS) return;
    if (table[fd] > IGNORED) note_close(fd); /* it was closed unseen */
    table[fd] = IGNORED;
    if (flags & O_PATH || syscall(SYS_fstat, fd, &facts) < 0) return;
    if (S_ISFIFO(facts.st_mode)) {
        tell_ends(fd);
        return;
    }
    if (!S_ISREG(facts.st_mode) || !path_of(fd, path, sizeof path)) return;
    if (claim_count) {
        uint64_t hash = hash_of(path);
        for (int at = 0; at < claim_count; at++)
            if (claims[at] == hash) return; /* whoever called tells of it */
    }
    if (!wanted(path)) return;
    struct handle *made = new_handle();
    if (!made) return;
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    made->mode = (flags & O_ACCMODE) == O_RDWR ? IN | OUT : writes ? OUT : IN;
    made->dev = facts.st_dev, made->ino = facts.st_ino, made->size = facts.st_size, made->changed = stamp(&facts);
    made->offset = flags & O_APPEND ? facts.st_size : 0;
    made->stream = stream;
    put_at(fd, made);
    tell_open(made, fd, path, (flags & O_CREAT) && !existed, (flags & O_TRUNC) && writes && existed, 0);
}

/* What went through stdio, by the file's offset; and whether a file was written that nobody was seen to write. */
static void guess(struct handle *handle, int fd, const struct stat *facts)
{
    int64_t moved = syscall(SYS_lseek, fd, 0, SEEK_CUR) - handle->offset;
    int changed = facts->st_size != handle->size || stamp(facts) != handle->changed;
    int stdio = handle->stream != NULL && handle->mode == (IN | OUT) && moved > 0;
    int out = (handle->mode & OUT) && !handle->wrote && (changed || stdio || (handle->mode == OUT && moved > 0));
    if (handle->epoch != epoch && (out || (handle->mode & IN && moved > 0))) own(handle, fd);
    if (handle->epoch != epoch || !handle->number) return;
    if (out) tell_writing(handle);
    if (moved <= 0 || (!handle->stream && handle->children != children)) return; /* a program started since may have moved it */
    int way = handle->mode == IN ? IN : handle->mode == OUT ? OUT : 0;
    if (way && !handle->bytes[way]) handle->calls[way] += !handle->calls[way], handle->bytes[way] = moved;
}

static void tell_close(struct handle *handle, int fd)
{
    struct stat facts;
    if (handle->pipe) return;
    int good = syscall(SYS_fstat, fd, &facts) == 0 && facts.st_ino == handle->ino && facts.st_dev == handle->dev;
    if (good) guess(handle, fd, &facts);
    if (handle->epoch != epoch || !handle->number) return;
    begin("close");
    first_number("handle", handle->number);
    for (int way = IN; way <= OUT; way++) {
        if (!handle->calls[way]) continue;
        fact_number(way == IN ? "reads" : "writes", chosen.calls ? handle->calls[way] : 1);
        if (!chosen.calls) continue;
        fact_number(way == IN ? "bytes_read" : "bytes_write", handle->bytes[way]);
        if (handle->spent[way]) fact_seconds(way == IN ? "seconds_read" : "seconds_write", handle->spent[way]);
    }
    if (handle->wrote && good) fact_number("size", facts.st_size), fact_number("changed", stamp(&facts));
    handle->number = 0;
    end();
    if (good) handle->size = facts.st_size, handle->changed = stamp(&facts);
}

/* Standard input may have been read by stdio alone: told before anything is said to be made from it. */
static void tell_input(void)
{
    struct handle *handle = table[0];
    if (handle > IGNORED && !handle->pipe && handle->epoch != epoch && (handle->mode & IN)) {
        int64_t moved = syscall(SYS_lseek, 0, 0, SEEK_CUR) - handle->offset;
        if (moved > 0) own(handle, 0);
    }
}

static void note_close(int fd)
{
    struct handle *handle = table[fd];
    table[fd] = NULL;
    if (handle <= IGNORED) return;
    if (--handle->refs) {
        for (int at = 0; at <= highest && handle->last == fd; at++)
            if (table[at] == handle) handle->last = at;
        return;
    }
    if (handle->mode & OUT && !handle->pipe) tell_input();
    tell_close(handle, fd);
    if (handle->wrote && !handle->pipe && !record.holding) flush();
    handle->next = spare;
    spare = handle;
}

static void note_twice(int old, int new)
{
    if (old == new || new < 0 || new >= DESCRIPTORS || old < 0 || old >= DESCRIPTORS) return;
    if (table[new] > IGNORED) note_close(new);
    struct handle *handle = table[old];
    if (handle == NULL) handle = adopt(old);
    put_at(new, handle);
    if (handle > IGNORED) handle->refs++;
}

/* Everything that is open, as if it were closed: reads first. */
static void close_all(void)
{
    tell_input();
    for (int writes = 0; writes <= 1; writes++)
        for (int fd = 0; fd <= highest; fd++) {
            struct handle *handle = table[fd];
            if (handle <= IGNORED || handle->last != fd || handle->pipe) continue;
            if (handle->stream && ftrylockfile(handle->stream) == 0) {
                fflush_unlocked(handle->stream);
                funlockfile(handle->stream);
            }
            if (!!(handle->mode & OUT) == writes) tell_close(handle, fd);
        }
    epoch++;
}

static void finish(int status, int known)
{
    struct held held;
    if (!enter(&held, 0)) return;
    if (stdout && table[1] > IGNORED && ftrylockfile(stdout) == 0) fflush_unlocked(stdout), funlockfile(stdout);
    close_all();
    if (record.image || record.begun) {
        begin("end");
        put_text("\"status\":");
        if (known) put_number(status); else put_text("null");
        end();
        record.image = 0;
    }
    record.holding = 0;
    flush();
    leave(&held);
}

static void after_fork(void)
{
    memcpy(record.parent, record.own, sizeof record.parent);
    record.forked = record.eager = 1;
    record.image = record.of[0] = 0;
    record.holding = python; /* until the interpreter says who it is now */
    epoch++;
    new_writer();
}

/* what goes through a descriptor */

static inline struct handle *seen(int fd)
{
    if (!ready || fd < 0 || fd >= DESCRIPTORS || table[fd] == IGNORED) return NULL;
    if (table[fd] == NULL) {
        struct held held;
        if (!enter(&held, 0)) return NULL;
        if (table[fd] == NULL) adopt(fd);
        leave(&held);
    }
    return table[fd] > IGNORED ? table[fd] : NULL;
}

static void count(struct handle *handle, int fd, int way, int64_t size, int64_t spent)
{
    int fresh = !live->alive || handle->epoch != epoch;
    if (handle->pipe ? fresh || !(handle->told & way) : fresh || (way == OUT && !handle->wrote)) {
        struct held held;
        if (!enter(&held, 0)) return;
        if (handle->pipe)
            tell_pipe(handle, way);
        else {
            own(handle, fd);
            if (way == OUT) tell_writing(handle);
        }
        leave(&held);
    }
    if (size < 0) return;
    __atomic_fetch_add(&handle->calls[way], 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&handle->bytes[way], size, __ATOMIC_RELAXED);
    __atomic_fetch_add(&handle->spent[way], spent, __ATOMIC_RELAXED);
}

#define COUNTED(type, name, way, parameters, ...)                                        \
    USES(name);                                                                          \
    type name parameters                                                                 \
    {                                                                                    \
        struct handle *handle = seen(fd);                                                \
        if (!handle) return REAL(name)(__VA_ARGS__);                                     \
        if (way == OUT) count(handle, fd, OUT, -1, 0); /* told before the file changes */ \
        int64_t started = chosen.durations ? now(CLOCK_MONOTONIC) : 0;                   \
        type found = REAL(name)(__VA_ARGS__);                                            \
        int error = errno;                                                               \
        if (found >= 0) count(handle, fd, way, found, chosen.durations ? now(CLOCK_MONOTONIC) - started : 0); \
        errno = error;                                                                   \
        return found;                                                                    \
    }

ssize_t preadv2(int, const struct iovec *, int, off_t, int); /* not in every library's headers */
ssize_t pwritev2(int, const struct iovec *, int, off_t, int);
int renameat2(int, const char *, int, const char *, unsigned);
COUNTED(ssize_t, read, IN, (int fd, void *to, size_t size), fd, to, size)
COUNTED(ssize_t, pread, IN, (int fd, void *to, size_t size, off_t at), fd, to, size, at)
COUNTED(ssize_t, readv, IN, (int fd, const struct iovec *to, int parts), fd, to, parts)
COUNTED(ssize_t, preadv, IN, (int fd, const struct iovec *to, int parts, off_t at), fd, to, parts, at)
COUNTED(ssize_t, preadv2, IN, (int fd, const struct iovec *to, int parts, off_t at, int flags), fd, to, parts, at, flags)
COUNTED(ssize_t, write, OUT, (int fd, const void *from, size_t size), fd, from, size)
COUNTED(ssize_t, pwrite, OUT, (int fd, const void *from, size_t size, off_t at), fd, from, size, at)
COUNTED(ssize_t, writev, OUT, (int fd, const struct iovec *from, int parts), fd, from, parts)
COUNTED(ssize_t, pwritev, OUT, (int fd, const struct iovec *from, int parts, off_t at), fd, from, parts, at)
COUNTED(ssize_t, pwritev2, OUT, (int fd, const struct iovec *from, int parts, off_t at, int flags), fd, from, parts, at, flags)
ssize_t __read_chk(int, void *, size_t, size_t);
ssize_t __pread_chk(int, void *, size_t, off_t, size_t);
COUNTED(ssize_t, __read_chk, IN, (int fd, void *to, size_t size, size_t room), fd, to, size, room)
COUNTED(ssize_t, __pread_chk, IN, (int fd, void *to, size_t size, off_t at, size_t room), fd, to, size, at, room)
ALSO(pread, pread64);
ALSO(pwrite, pwrite64);
ALSO(preadv, preadv64);
ALSO(pwritev, pwritev64);
ALSO(preadv2, preadv64v2);
ALSO(pwritev2, pwritev64v2);
ALSO(__pread_chk, __pread64_chk);

/* Calls that move bytes from one descriptor to another. */
static void moved(int in, int out, ssize_t size)
{
    int error = errno;
    struct handle *from = seen(in), *to = seen(out);
    if (size > 0 && from) count(from, in, IN, size, 0);
    if (size > 0 && to) count(to, out, OUT, size, 0);
    errno = error;
}

#define MOVED(type, name, parameters, in, out, ...)   \
    USES(name);                                       \
    type name parameters                              \
    {                                                 \
        type found = REAL(name)(__VA_ARGS__);         \
        moved(in, out, found);                        \
        return found;                                 \
    }

MOVED(ssize_t, sendfile, (int out, int in, off_t *at, size_t size), in, out, out, in, at, size)
MOVED(ssize_t, copy_file_range, (int in, off_t *at, int out, off_t *to, size_t size, unsigned flags), in, out, in, at, out, to, size, flags)
MOVED(ssize_t, splice, (int in, off_t *at, int out, off_t *to, size_t size, unsigned flags), in, out, in, at, out, to, size, flags)
MOVED(ssize_t, tee, (int in, int out, size_t size, unsigned flags), in, out, in, out, size, flags)
ALSO(sendfile, sendfile64);

USES(mmap);
void *mmap(void *where, size_t size, int protection, int flags, int fd, off_t at)
{
    void *found = REAL(mmap)(where, size, protection, flags, fd, at);
    if (fd < 0 || found == MAP_FAILED) return found;
    int error = errno;
    struct handle *handle = seen(fd);
    if (handle && !handle->pipe) {
        count(handle, fd, IN, size, 0);
        if ((flags & MAP_SHARED) && (protection & PROT_WRITE) && (handle->mode & OUT)) count(handle, fd, OUT, size, 0);
    }
    errno = error;
    return found;
}
ALSO(mmap, mmap64);

/* Calls that change a file through its descriptor, without bytes. */
static void changed(int fd, int result)
{
    int error = errno;
    struct handle *handle = result == 0 ? seen(fd) : NULL;
    if (handle && !handle->pipe) count(handle, fd, OUT, 0, 0);
    errno = error;
}

#define CHANGED(name, parameters, ...) USES(name); int name parameters { int found = REAL(name)(__VA_ARGS__); changed(fd, found); return found; }
CHANGED(ftruncate, (int fd, off_t size), fd, size)
CHANGED(fallocate, (int fd, int mode, off_t at, off_t size), fd, mode, at, size)
CHANGED(posix_fallocate, (int fd, off_t at, off_t size), fd, at, size)
ALSO(ftruncate, ftruncate64);
ALSO(fallocate, fallocate64);
ALSO(posix_fallocate, posix_fallocate64);

static int synced(int fd, int result, int64_t started)
{
    struct held held;
    struct handle *handle = result == 0 ? seen(fd) : NULL;
    if (handle && !handle->pipe && enter(&held, 0)) {
        own(handle, fd);
        if (handle->number) {
            begin("fsync"), first_number("handle", handle->number);
            key("seconds"), put_seconds(now(CLOCK_MONOTONIC) - started), end();
        }
        leave(&held);
    }
    return result;
}

USES(fsync);
int fsync(int fd) { int64_t started = now(CLOCK_MONOTONIC); return synced(fd, REAL(fsync)(fd), started); }
USES(fdatasync);
int fdatasync(int fd) { int64_t started = now(CLOCK_MONOTONIC); return synced(fd, REAL(fdatasync)(fd), started); }

#include "names.h"
#include "programs.h"
