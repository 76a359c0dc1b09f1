/* Functions that open, close and name files. Part of interpose.c. */

static int there(int folder, const char *path)
{
    struct stat facts;
    int error = errno;
    int found = syscall(SYS_newfstatat, folder, path, &facts, 0) == 0;
    errno = error;
    return found;
}

static void opened(int fd, int flags, int existed, FILE *stream)
{
    struct held held;
    if (fd < 0 || fd >= DESCRIPTORS || !enter(&held, 0)) return;
    note_open(fd, flags, existed, stream);
    leave(&held);
}

/* An open that the interpreter made for itself: its own capture tells of it. */
static void left_alone(int fd)
{
    if (ready && fd >= 0 && fd < DESCRIPTORS) table[fd] = IGNORED;
}

#define OPENED(name, parameters, folder, ...)                                                  \
    USES(name);                                                                                \
    int name parameters                                                                        \
    {                                                                                          \
        va_list more;                                                                          \
        va_start(more, flags);                                                                 \
        mode_t mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                                          \
        if (interpreter(CALLER)) {                                                             \
            int fd = REAL(name)(__VA_ARGS__, flags, mode);                                     \
            left_alone(fd);                                                                    \
            return fd;                                                                         \
        }                                                                                      \
        int existed = flags & O_EXCL ? 0 : flags & (O_CREAT | O_TRUNC) ? there(folder, path) : 1; \
        int fd = REAL(name)(__VA_ARGS__, flags, mode);                                         \
        opened(fd, flags, existed, NULL);                                                      \
        return fd;                                                                             \
    }

OPENED(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPENED(openat, (int folder, const char *path, int flags, ...), folder, folder, path)
ALSO(open, open64);
ALSO(openat, openat64);

#define CHECKED(name, parameters, folder, ...)                                              \
    int name parameters;                                                                    \
    USES(name);                                                                             \
    int name parameters                                                                     \
    {                                                                                       \
        int alone = interpreter(CALLER), existed = flags & O_TRUNC && !alone ? there(folder, path) : 1; \
        int fd = REAL(name)(__VA_ARGS__, flags);                                            \
        if (alone) left_alone(fd); else opened(fd, flags, existed, NULL);                   \
        return fd;                                                                          \
    }

CHECKED(__open_2, (const char *path, int flags), AT_FDCWD, path)
CHECKED(__openat_2, (int folder, const char *path, int flags), folder, folder, path)
ALSO(__open_2, __open64_2);
ALSO(__openat_2, __openat64_2);

USES(creat);
int creat(const char *path, mode_t mode)
{
    int alone = interpreter(CALLER), existed = alone ? 1 : there(AT_FDCWD, path);
    int fd = REAL(creat)(path, mode);
    if (alone) left_alone(fd); else opened(fd, O_WRONLY | O_CREAT | O_TRUNC, existed, NULL);
    return fd;
}
ALSO(creat, creat64);

#define TEMPORARY(name, parameters, ...)                                      \
    USES(name);                                                               \
    int name parameters                                                       \
    {                                                                         \
        int alone = interpreter(CALLER), fd = REAL(name)(__VA_ARGS__);        \
        if (alone) left_alone(fd); else opened(fd, O_RDWR | O_CREAT, 0, NULL); \
        return fd;                                                            \
    }

TEMPORARY(mkstemp, (char *template), template)
TEMPORARY(mkostemp, (char *template, int flags), template, flags)
TEMPORARY(mkstemps, (char *template, int tail), template, tail)
TEMPORARY(mkostemps, (char *template, int tail, int flags), template, tail, flags)
ALSO(mkstemp, mkstemp64);
ALSO(mkostemp, mkostemp64);
ALSO(mkstemps, mkstemps64);
ALSO(mkostemps, mkostemps64);

/* stdio */

static int flags_of(const char *mode)
{
    int first = mode[0] == 'r' ? 0 : mode[0] == 'w' ? O_CREAT | O_TRUNC : O_CREAT | O_APPEND;
    return first | (strchr(mode, '+') ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY);
}

USES(fopen);
FILE *fopen(const char *path, const char *mode)
{
    int alone = interpreter(CALLER), existed = alone || mode[0] == 'r' ? 1 : there(AT_FDCWD, path);
    FILE *stream = REAL(fopen)(path, mode);
    if (!stream) return NULL;
    if (alone) left_alone(fileno(stream)); else opened(fileno(stream), flags_of(mode), existed, stream);
    return stream;
}
ALSO(fopen, fopen64);

static void closed(int fd)
{
    struct held held;
    if (!ready || fd < 0 || fd >= DESCRIPTORS || table[fd] == NULL) return;
    if (table[fd] == IGNORED)
        table[fd] = NULL;
    else if (enter(&held, 0)) {
        note_close(fd);
        leave(&held);
    }
}

USES(freopen);
FILE *freopen(const char *path, const char *mode, FILE *stream)
{
    int existed = !path || mode[0] == 'r' ? 1 : there(AT_FDCWD, path);
    if (!ready || !path) return REAL(freopen)(path, mode, stream);
    if (seen(fileno(stream))) fflush(stream);
    closed(fileno(stream));
    FILE *found = REAL(freopen)(path, mode, stream);
    if (found) opened(fileno(found), flags_of(mode), existed, found);
    return found;
}
ALSO(freopen, freopen64);

USES(fdopen);
FILE *fdopen(int fd, const char *mode)
{
    FILE *stream = REAL(fdopen)(fd, mode);
    int error = errno;
    struct handle *handle = stream ? seen(fd) : NULL;
    if (handle && !handle->pipe)
        handle->stream = stream;
    else if (handle)
        opened(fd, O_RDONLY, 1, stream); /* what stdio does with a pipe is not seen: told by what it is open for */
    errno = error;
    return stream;
}

USES(popen);
FILE *popen(const char *command, const char *mode)
{
    FILE *stream = REAL(popen)(command, mode);
    if (stream) opened(fileno(stream), O_RDONLY, 1, stream);
    return stream;
}

USES(fclose);
int fclose(FILE *stream)
{
    int fd = ready && stream ? fileno(stream) : -1;
    if (fd < 0 || fd >= DESCRIPTORS || table[fd] == NULL) return REAL(fclose)(stream);
    if (table[fd] > IGNORED) {
        struct handle *handle = table[fd];
        if (handle->mode & OUT) fflush(stream);
    }
    closed(fd);
    return REAL(fclose)(stream);
}

USES(pclose);
int pclose(FILE *stream)
{
    if (ready && stream) closed(fileno(stream));
    return REAL(pclose)(stream);
}

/* descriptors */

USES(close);
int close(int fd)
{
    closed(fd);
    return REAL(close)(fd);
}

static void closed_from(unsigned first, unsigned last)
{
    struct held held;
    if (!ready || !enter(&held, 0)) return;
    for (unsigned fd = first; fd <= last && fd < DESCRIPTORS; fd++)
        if (table[fd] != NULL) note_close(fd);
    leave(&held);
}

int close_range(unsigned, unsigned, int);
USES(close_range);
int close_range(unsigned first, unsigned last, int flags)
{
    if (!(flags & 4)) closed_from(first, last); /* 4: CLOSE_RANGE_CLOEXEC */
    return REAL(close_range)(first, last, flags);
}

void closefrom(int);
USES(closefrom);
void closefrom(int first)
{
    closed_from(first < 0 ? 0 : first, ~0u);
    REAL(closefrom)(first);
}

static void twice(int old, int new)
{
    struct held held;
    if (!ready || new < 0 || new >= DESCRIPTORS || old < 0 || old >= DESCRIPTORS) return;
    if (table[old] == IGNORED && table[new] <= IGNORED) {
        table[new] = IGNORED;
        return;
    }
    if (!enter(&held, 0)) return;
    note_twice(old, new);
    leave(&held);
}

/* The old file under this number is closed by the call itself: told before, while it can still be asked for its size. */
static void replaced(int old, int new)
{
    if (ready && old != new && old >= 0 && old < DESCRIPTORS && syscall(SYS_fcntl, old, F_GETFD, 0) >= 0) closed(new);
}

USES(dup);
int dup(int old) { int new = REAL(dup)(old); twice(old, new); return new; }
USES(dup2);
int dup2(int old, int target)
{
    int error = errno;
    replaced(old, target);
    errno = error;
    int new = REAL(dup2)(old, target);
    twice(old, new);
    return new;
}
USES(dup3);
int dup3(int old, int target, int flags)
{
    int error = errno;
    replaced(old, target);
    errno = error;
    int new = REAL(dup3)(old, target, flags);
    twice(old, new);
    return new;
}

USES(fcntl);
int fcntl(int fd, int what, ...)
{
    va_list more;
    va_start(more, what);
    long with = va_arg(more, long);
    va_end(more);
    int found = REAL(fcntl)(fd, what, with);
    if (what == F_DUPFD || what == F_DUPFD_CLOEXEC) twice(fd, found);
    return found;
}
ALSO(fcntl, fcntl64);

/* names */

static int told(void *caller, int result, struct held *held)
{
    return result == 0 && !interpreter(caller) && enter(held, 0);
}

/* A file under this name was written by means that were not seen. keeps: what was there stays part of it. */
static void written(const char *path, int keeps)
{
    struct stat facts;
    struct handle one = {.mode = keeps ? IN | OUT : OUT, .size = -1}; /* its size from before is not known any more */
    if (syscall(SYS_newfstatat, AT_FDCWD, path, &facts, 0) < 0 || !S_ISREG(facts.st_mode)) return;
    one.dev = facts.st_dev, one.ino = facts.st_ino;
    tell_open(&one, -1, path, 0, !keeps, 0);
    tell_writing(&one);
    begin("close"), first_number("handle", one.number), fact_number("writes", 1);
    fact_number("size", facts.st_size), fact_number("changed", stamp(&facts)), end();
    if (!record.holding) flush();
}

static void tell_pair(const char *kind, const char *source, const char *target)
{
    begin(kind), first_text("source", source), fact_text("target", target), end();
}

static void removed(int folder, const char *name)
{
    static char path[4096];
    if (name_of(folder, name, path, sizeof path) && wanted(path)) begin("remove"), first_text("path", path), end();
}

static void renamed(int from, const char *old, int to, const char *new, int exchanged)
{
    static char source[4096], target[4096], between[4200];
    int first = name_of(from, old, source, sizeof source) && wanted(source);
    int second = name_of(to, new, target, sizeof target) && wanted(target);
    if (first && second && exchanged) {
        snprintf(between, sizeof between, "%s.exchanged-%d", source, record.pid);
        tell_pair("rename", source, between), tell_pair("rename", target, source), tell_pair("rename", between, target);
    } else if (first && second)
        tell_pair("rename", source, target);
    else if (second)
        written(target, 0);
    else if (first)
        begin("remove"), first_text("path", source), end();
}

static void linked(int from, const char *old, int to, const char *new)
{
    static char source[4096], target[4096];
    if (!name_of(to, new, target, sizeof target) || !wanted(target)) return;
    if (name_of(from, old, source, sizeof source) && wanted(source))
        tell_pair("link", source, target);
    else
        written(target, 0); /* of a file without a name, or of one that is not recorded */
}

#define NAMED(name, parameters, tell, ...)                 \
    USES(name);                                            \
    int name parameters                                    \
    {                                                      \
        struct held held;                                  \
        int result = REAL(name)(__VA_ARGS__);              \
        if (told(CALLER, result, &held)) tell, leave(&held); \
        return result;                                     \
    }

NAMED(rename, (const char *old, const char *new), renamed(AT_FDCWD, old, AT_FDCWD, new, 0), old, new)
NAMED(renameat, (int from, const char *old, int to, const char *new), renamed(from, old, to, new, 0), from, old, to, new)
NAMED(renameat2, (int from, const char *old, int to, const char *new, unsigned flags), renamed(from, old, to, new, flags & 2), from, old, to, new, flags)
NAMED(link, (const char *old, const char *new), linked(AT_FDCWD, old, AT_FDCWD, new), old, new)
NAMED(linkat, (int from, const char *old, int to, const char *new, int flags), linked(from, old, to, new), from, old, to, new, flags)
NAMED(unlink, (const char *name), removed(AT_FDCWD, name), name)
NAMED(unlinkat, (int folder, const char *name, int flags), removed(folder, name), folder, name, flags)
NAMED(remove, (const char *name), removed(AT_FDCWD, name), name)

static void made_folder(int folder, const char *name)
{
    static char path[4096];
    if (chosen.folders && name_of(folder, name, path, sizeof path) && wanted(path)) begin("mkdir"), first_text("path", path), end();
}

NAMED(mkdir, (const char *name, mode_t mode), made_folder(AT_FDCWD, name), name, mode)
NAMED(mkdirat, (int folder, const char *name, mode_t mode), made_folder(folder, name), folder, name, mode)

/* The file that a path leads to in the end. */
static int file_at(int folder, const char *name, char *path, size_t size, struct stat *facts)
{
    int fd = syscall(SYS_openat, folder, name, O_PATH | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    int good = syscall(SYS_fstat, fd, facts) == 0 && S_ISREG(facts->st_mode) && path_of(fd, path, size) && wanted(path);
    syscall(SYS_close, fd);
    return good;
}

static void shortened(const char *name)
{
    static char path[4096];
    struct stat facts;
    if (file_at(AT_FDCWD, name, path, sizeof path, &facts)) written(path, 1);
}

NAMED(truncate, (const char *name, off_t size), shortened(name), name, size)
ALSO(truncate, truncate64);

/* Another time of change by the program's own word: the bytes are as they were. */
static void touched(int folder, const char *name)
{
    static char path[4096];
    char link[40];
    struct stat facts;
    if (!name) snprintf(link, sizeof link, "/proc/self/fd/%d", folder), name = link;
    if (!file_at(folder, name, path, sizeof path, &facts)) return;
    begin("touched"), first_text("path", path), fact_number("size", facts.st_size), fact_number("changed", stamp(&facts)), end();
}

/* Only where the descriptor is one that is told of. */
static void touched_open(int fd) { if (fd >= 0 && fd < DESCRIPTORS && table[fd] > IGNORED) touched(fd, NULL); }

NAMED(utimensat, (int folder, const char *name, const struct timespec times[2], int flags),
      name ? touched(folder, name) : touched_open(folder), folder, name, times, flags)
NAMED(futimens, (int fd, const struct timespec times[2]), touched_open(fd), fd, times)
NAMED(futimes, (int fd, const struct timeval times[2]), touched_open(fd), fd, times)
NAMED(utimes, (const char *name, const struct timeval times[2]), touched(AT_FDCWD, name), name, times)
NAMED(utime, (const char *name, const struct utimbuf *times), touched(AT_FDCWD, name), name, times)
