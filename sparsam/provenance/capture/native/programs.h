/* Functions that start other programs, and the beginning and end of this one. Part of interpose.c. */

/* Why a program will not be seen; NULL where it will. */
static const char *unseen(const char *path, char *const environment[], int depth)
{
    unsigned char head[4096];
    struct stat facts;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return NULL;
    ssize_t size = syscall(SYS_pread64, fd, head, sizeof head - 1, 0);
    int good = syscall(SYS_fstat, fd, &facts) == 0;
    syscall(SYS_close, fd);
    if (!good || size < 4) return NULL;
    if (((facts.st_mode & S_ISUID) && facts.st_uid != getuid()) || ((facts.st_mode & S_ISGID) && facts.st_gid != getgid()))
        return "runs with another user's rights";
    if (head[0] == '#' && head[1] == '!' && depth < 3) {
        size_t at = 2, end;
        head[size] = 0;
        while (head[at] == ' ' || head[at] == '\t') at++;
        for (end = at; head[end] && !strchr(" \t\n", head[end]);) end++;
        head[end] = 0;
        return unseen((char *)head + at, environment, depth + 1);
    }
    if (memcmp(head, ELFMAG, 4) == 0) {
        Elf64_Ehdr *elf = (Elf64_Ehdr *)head;
        if (head[EI_CLASS] != ELFCLASS64) return "is of another word size";
        int dynamic = size < (ssize_t)sizeof *elf || elf->e_phoff + (uint64_t)elf->e_phnum * sizeof(Elf64_Phdr) > (uint64_t)size;
        for (int at = 0; !dynamic && at < elf->e_phnum; at++)
            dynamic = ((Elf64_Phdr *)(head + elf->e_phoff))[at].p_type == PT_INTERP;
        if (!dynamic) return "is linked statically";
    }
    int preloaded = 0, told = 0;
    for (int at = 0; environment && environment[at]; at++) {
        preloaded |= strncmp(environment[at], "LD_PRELOAD=", 11) == 0;
        told |= strncmp(environment[at], "SPARSAM_TRACK_NATIVE=", 21) == 0;
    }
    return preloaded && told ? NULL : "was started with an environment of its own";
}

/* What starts others is in the records before they are, however it ends. */
static void present(void)
{
    if (!record.image || record.written || record.holding) return;
    if (!record.begun) began();
    flush();
}

/* Before another program takes this one's place (or is started beside it). A child of vfork tells in its parent's name. */
static void starts(const char *path, char *const environment[], int replaces)
{
    struct held held;
    int error = errno;
    if (!ready || syscall(SYS_faccessat, AT_FDCWD, path, X_OK, 0) < 0 || !enter(&held, 1)) {
        errno = error;
        return;
    }
    int own = record.pid == getpid();
    children += !replaces || !own;
    if (!replaces || !own) present();
    const char *reason = unseen(path, environment, 0);
    if (reason) {
        char text[4300];
        snprintf(text, sizeof text, "%s %s: the files it touches are not seen", path, reason);
        begin("unseen"), first_text("what", text), end();
    }
    if (replaces && own) {
        close_all();
        if (record.image || record.begun) begin("end"), put_text("\"status\":null"), end();
        flush();
    }
    leave(&held);
    errno = error;
}

/* The path that a name without a slash stands for, as exec's own search finds it. */
static const char *found_in_path(const char *name, char *place, size_t size)
{
    const char *at = value_of("PATH");
    if (strchr(name, '/') || !at) return name;
    for (;;) {
        const char *end = strchrnul(at, ':');
        snprintf(place, size, "%.*s%s%s", (int)(end - at), at, end > at ? "/" : "", name);
        struct stat facts;
        if (syscall(SYS_newfstatat, AT_FDCWD, place, &facts, 0) == 0 && S_ISREG(facts.st_mode) && facts.st_mode & 0111) return place;
        if (!*end) return name;
        at = end + 1;
    }
}

USES(execve);
int execve(const char *path, char *const arguments[], char *const environment[])
{
    starts(path, environment, 1);
    return REAL(execve)(path, arguments, environment);
}
USES(execv);
int execv(const char *path, char *const arguments[])
{
    starts(path, environ, 1);
    return REAL(execv)(path, arguments);
}
USES(execvpe);
int execvpe(const char *name, char *const arguments[], char *const environment[])
{
    char place[4096];
    starts(found_in_path(name, place, sizeof place), environment, 1);
    return REAL(execvpe)(name, arguments, environment);
}
USES(execvp);
int execvp(const char *name, char *const arguments[])
{
    char place[4096];
    starts(found_in_path(name, place, sizeof place), environ, 1);
    return REAL(execvp)(name, arguments);
}
USES(fexecve);
int fexecve(int fd, char *const arguments[], char *const environment[])
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    starts(link, environment, 1);
    return REAL(fexecve)(fd, arguments, environment);
}

USES(fork);
pid_t fork(void)
{
    struct held held;
    children++;
    if (enter(&held, 0)) {
        present();
        leave(&held);
    }
    return REAL(fork)();
}

#define GATHERED(with)                                                     \
    va_list more;                                                          \
    int size = 1;                                                          \
    va_start(more, first);                                                 \
    while (va_arg(more, char *)) size++;                                   \
    va_end(more);                                                          \
    char *arguments[size + 1];                                             \
    va_start(more, first);                                                 \
    arguments[0] = (char *)first;                                          \
    for (int at = 1; at <= size; at++) arguments[at] = va_arg(more, char *); \
    with;                                                                  \
    va_end(more)

int execl(const char *path, const char *first, ...) { GATHERED((void)0); return execv(path, arguments); }
int execlp(const char *name, const char *first, ...) { GATHERED((void)0); return execvp(name, arguments); }
int execle(const char *path, const char *first, ...)
{
    GATHERED(char *const *environment = va_arg(more, char *const *));
    return execve(path, arguments, environment);
}

USES(posix_spawn);
int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *how,
                char *const arguments[], char *const environment[])
{
    starts(path, environment, 0);
    return REAL(posix_spawn)(pid, path, actions, how, arguments, environment);
}
USES(posix_spawnp);
int posix_spawnp(pid_t *pid, const char *name, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *how,
                 char *const arguments[], char *const environment[])
{
    char place[4096];
    starts(found_in_path(name, place, sizeof place), environment, 0);
    return REAL(posix_spawnp)(pid, name, actions, how, arguments, environment);
}

USES(_exit);
void _exit(int status)
{
    finish(status, 1);
    REAL(_exit)(status);
    __builtin_unreachable();
}
ALSO(_exit, _Exit);

/* what Python's capture says */

/* Python's capture tells by this variable which log its own records are in: these here belong to the same program. */
static void heard(const char *name, const char *value)
{
    struct held held;
    if (strcmp(name, "SPARSAM_TRACK_BY") != 0 || !enter(&held, 0)) return;
    if (!value || strlen(value) >= sizeof record.of) {
        close_all();
        flush();
        ready = 0;
    } else if (strcmp(value, record.of) != 0) {
        if (!record.written) new_writer();
        strcpy(record.of, value);
        record.image = record.holding = 0;
        if (record.written) record.begun = 0;
        if (!python)
            for (int fd = 0; fd <= highest; fd++)
                if (fd > 2 || (table[fd] > IGNORED && table[fd]->pipe)) table[fd] = IGNORED;
        epoch++;
        python = 1;
    }
    leave(&held);
}

/* What this thread opens and names is told of by whoever called. */
void sparsam_hush(int change) { hushed += change; }

int sparsam_claim(const char *path)
{
    struct held held;
    int made = 0;
    if (!enter(&held, 0)) return 0;
    if (claim_count < 256) claims[claim_count++] = hash_of(path), made = 1;
    leave(&held);
    return made;
}

void sparsam_release(const char *path)
{
    struct held held;
    if (!enter(&held, 0)) return;
    uint64_t hash = hash_of(path);
    for (int at = claim_count - 1; at >= 0; at--)
        if (claims[at] == hash) {
            claims[at] = claims[--claim_count];
            break;
        }
    leave(&held);
}

USES(setenv);
int setenv(const char *name, const char *value, int replace)
{
    int found = REAL(setenv)(name, value, replace);
    if (found == 0 && ready && replace && value) heard(name, value);
    return found;
}
USES(unsetenv);
int unsetenv(const char *name)
{
    int found = REAL(unsetenv)(name);
    if (found == 0 && ready) heard(name, NULL);
    return found;
}

/* the beginning and the end */

static int find_python(struct dl_phdr_info *library, size_t size, void *address)
{
    uintptr_t low = ~(uintptr_t)0, high = 0;
    for (int at = 0; at < library->dlpi_phnum; at++)
        if (library->dlpi_phdr[at].p_type == PT_LOAD) {
            uintptr_t from = library->dlpi_addr + library->dlpi_phdr[at].p_vaddr, to = from + library->dlpi_phdr[at].p_memsz;
            low = from < low ? from : low;
            high = to > high ? to : high;
        }
    if ((uintptr_t)address < low || (uintptr_t)address >= high) return 0;
    python_from = low, python_to = high;
    return 1;
}

/* Fields, one after the other: folder of the logs, folder of all records, run, user, its number, letters; then patterns. */
static int choose(const char *given)
{
    static char text[1 << 16];
    char *fields[6], *at = text;
    if (!given || strlen(given) >= sizeof text) return 0;
    strcpy(text, given);
    for (int field = 0; field < 6; field++) {
        fields[field] = at;
        at = strchr(at, SEPARATOR);
        if (!at && field < 5) return 0;
        if (at) *at++ = 0;
        if (!at) break;
    }
    chosen.folder = fields[0], chosen.root = fields[1], chosen.run = fields[2], chosen.user = fields[3], chosen.uid = fields[4];
    chosen.durations = !strchr(fields[5], 'd'), chosen.calls = !strchr(fields[5], 'c'), chosen.folders = !strchr(fields[5], 'y');
    chosen.files = !strchr(fields[5], 'f'), chosen.code = !!strchr(fields[5], 'p');
    while (at && *at && chosen.pattern_count < 256) {
        chosen.patterns[chosen.pattern_count++] = at;
        at = strchr(at, SEPARATOR);
        if (at) *at++ = 0;
    }
    return chosen.folder[0] == '/' && strlen(chosen.folder) < 3900;
}

__attribute__((constructor)) static void start(void)
{
    static char entry[400];
    if (!choose(value_of("SPARSAM_TRACK_NATIVE"))) return;
    const char *by = value_of("SPARSAM_TRACK_BY");
    live = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    record.bytes = mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    table = mmap(NULL, DESCRIPTORS * sizeof *table, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (live == MAP_FAILED || record.bytes == MAP_FAILED || table == MAP_FAILED || madvise(live, 4096, MADV_WIPEONFORK) < 0) return;
    make_crc_table();
    live->alive = 1;
    const char *cut = by ? strchr(by, '\x1e') : NULL; /* of an interpreter: what it was told, behind what it is */
    snprintf(record.parent, sizeof record.parent, "%.*s", cut ? (int)(cut - by) : 159, by ? by : "");
    new_writer();
    record.image = 1;
    void *address = dlsym(RTLD_DEFAULT, "Py_IncRef");
    if (address) dl_iterate_phdr(find_python, address);
    record.holding = python_to != 0;
    if (python_to)
        snprintf(entry, sizeof entry, "SPARSAM_TRACK_BY=%s\x1e%s", record.own, record.parent);
    else
        snprintf(entry, sizeof entry, "SPARSAM_TRACK_BY=%s", record.own);
    char **place = variable("SPARSAM_TRACK_BY");
    if (place) *place = entry;
    ready = 1;
    for (int fd = 0; fd <= 2; fd++) {
        struct handle *handle = adopt(fd);
        if (handle <= IGNORED || !handle->pipe) continue;
        tell_pipe(handle, fd == 0 ? IN : OUT);
        record.eager |= fd == 1 && !python_to; /* whoever writes to a pipe may be killed by its other end */
    }
    if (record.eager) flush();
}

__attribute__((destructor)) static void stop(void) { finish(0, 0); }
