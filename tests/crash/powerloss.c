/*
 * Records what a process changes below one directory, so that a test can take back what was never synced: that is what
 * a power cut does. Killing a process is not enough for that, as the kernel keeps what the process wrote.
 *
 * Loaded with LD_PRELOAD. Before each change, a record of what was there goes to a log; after each sync, a record of
 * what it made durable. `powerloss.rs` reads the log when the process is dead. The environment says:
 *
 *   MTS_POWERLOSS_DIR    absolute path of the directory, without symbolic links
 *   MTS_POWERLOSS_LOG    the log, outside of that directory; appended to
 *   MTS_POWERLOSS_GRAVE  a directory on the same file system where removed files stay
 *   MTS_POWERLOSS_STOP   a file of 8 bytes, a number that each change or sync counts down, unless it is zero: instead of
 *                        the one that makes it zero, the process dies by SIGKILL
 *
 * A record is a `struct record`, then `path_len` bytes of path, then `data_len` bytes of old content. The model:
 *
 *   - A change of a file is durable once an fsync or fdatasync of that file, begun after it, has succeeded.
 *   - Making, removing or renaming a name is a change of the directory that holds it.
 *
 * A change is recorded and made under one lock, so that a sync, which takes it as it begins, covers whole changes. Old
 * content is read through a descriptor of the shim's own: the program's may be write-only or bypass the page cache.
 *
 * Only calls through the C library are seen. rustix makes its fallocate without it: the size that a new segment gets by
 * it is not taken back if the segment's name stays. What cannot be recorded ends the process with a message.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, SIZE = 2, CREATE = 3, REMOVE = 4, RENAME = 5, SYNC = 6 };
struct record {
    uint32_t magic, kind;
    uint64_t inode;  /* of the file, or of the directory that holds the name */
    uint64_t offset; /* WRITE: where; REMOVE: name in the grave; SYNC: records below this log position are durable */
    uint64_t length; /* WRITE: how many bytes change; SIZE: the new size; RENAME: length of the old name in `path` */
    uint64_t size;   /* WRITE, SIZE: the old size */
    uint32_t path_len, data_len;
};
#define MAGIC 0x4c54534du
#define FDS 8192

static struct open_file { uint64_t inode; int reader; } files[FDS]; /* inode 0: not below the directory */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *dir, *grave;
static size_t dir_len;
static int log_fd = -1;
static uint64_t log_at, graves, *countdown;

static void die(const char *what) {
    dprintf(2, "powerloss.c: %s (%s)\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("MTS_POWERLOSS_LOG"), *stop = getenv("MTS_POWERLOSS_STOP");
    dir = getenv("MTS_POWERLOSS_DIR"), grave = getenv("MTS_POWERLOSS_GRAVE");
    if (!dir || !log || !grave || !stop) die("MTS_POWERLOSS_DIR, _LOG, _GRAVE and _STOP must be set");
    dir_len = strlen(dir);
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) die("the log cannot be opened");
    log_at = lseek(log_fd, 0, SEEK_END);
    int stop_fd = syscall(SYS_openat, AT_FDCWD, stop, O_RDWR | O_CLOEXEC);
    countdown = mmap(NULL, sizeof *countdown, PROT_READ | PROT_WRITE, MAP_SHARED, stop_fd, 0);
    if (countdown == MAP_FAILED) die("the countdown cannot be mapped");
    graves = (uint64_t)getpid() << 32; /* unique across the processes of one log */
}
static int is_below(const char *path) {
    return dir && !strncmp(path, dir, dir_len) && (path[dir_len] == '/' || !path[dir_len]);
}
/* Called once for each change and sync, before it happens. */
static void step(void) { if (*countdown && !--*countdown) kill(getpid(), SIGKILL); }
static void append(struct record record, const char *path, const char *data) {
    record.magic = MAGIC;
    struct iovec parts[] = {{&record, sizeof record}, {(void *)path, record.path_len}, {(void *)data, record.data_len}};
    ssize_t len = sizeof record + record.path_len + (ssize_t)record.data_len;
    if (syscall(SYS_writev, log_fd, parts, 3) != len) die("the log cannot be written");
    log_at += len;
}
/* Appends a record with the old content from `offset` on, without the zeros at its end. */
static void append_content(struct record record, int reader, uint64_t offset, uint64_t len) {
    char *bytes = malloc(len + 1);
    uint64_t got = 0;
    ssize_t n = bytes ? 1 : -1;
    while (n > 0 && got < len) {
        n = syscall(SYS_pread64, reader, bytes + got, len - got, offset + got);
        got += n;
    }
    if (n < 0) die("old content cannot be read");
    while (got && !bytes[got - 1]) got--;
    record.data_len = got;
    append(record, NULL, bytes);
    free(bytes);
}

static struct stat stat_of(int fd) {
    struct stat stat;
    if (fstat(fd, &stat)) die("fstat");
    return stat;
}
static uint64_t size_of(int fd) { return stat_of(fd).st_size; }
/* The file behind a descriptor, with the lock held; NULL if it is none of ours. */
static struct open_file *take(int fd) {
    if (fd < 0 || fd >= FDS || !files[fd].inode) return NULL;
    pthread_mutex_lock(&lock);
    return &files[fd];
}
static void leave(struct open_file *file) { if (file) pthread_mutex_unlock(&lock); }

static void will_write(struct open_file *file, int fd, uint64_t len, uint64_t offset) {
    step();
    struct record record = {.kind = WRITE, .inode = file->inode, .offset = offset, .length = len, .size = size_of(fd)};
    append_content(record, file->reader, offset, len);
}
static void will_resize(struct open_file *file, uint64_t old_size, uint64_t size) {
    step();
    struct record record = {.kind = SIZE, .inode = file->inode, .length = size, .size = old_size};
    append_content(record, file->reader, size, old_size > size ? old_size - size : 0);
}
static uint64_t inode_of_parent(const char *path) {
    char parent[4096];
    struct stat stat;
    const char *slash = strrchr(path, '/');
    snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
    if (lstat(parent, &stat)) die("the directory of a name cannot be examined");
    return stat.st_ino;
}
static int exists(const char *path) { return !syscall(SYS_faccessat, AT_FDCWD, path, F_OK); }
static void will_create(const char *path) {
    step();
    append((struct record){.kind = CREATE, .inode = inode_of_parent(path), .path_len = strlen(path)}, path, NULL);
}
static void will_remove(const char *path) {
    char kept[4096];
    step();
    snprintf(kept, sizeof kept, "%s/%llu", grave, (unsigned long long)++graves);
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, kept, 0)) die("a removed file cannot be kept");
    struct record record = {.kind = REMOVE, .inode = inode_of_parent(path), .offset = graves, .path_len = strlen(path)};
    append(record, path, NULL);
}
static int open_any(int at, const char *path, int flags, mode_t mode) {
    if (!is_below(path)) return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    if ((flags & O_CREAT) && !exists(path)) will_create(path);
    else if (flags & O_TRUNC) die("a file is emptied by opening it");
    int fd = syscall(SYS_openat, at, path, flags, mode), error = errno;
    if (fd >= FDS) die("too many descriptors");
    if (fd >= 0) {
        int is_written = (flags & O_ACCMODE) != O_RDONLY;
        files[fd].reader = is_written ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
        files[fd].inode = stat_of(fd).st_ino;
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE ({ va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); mode; })
int open(const char *path, int flags, ...) { return open_any(AT_FDCWD, path, flags, flags & O_CREAT ? MODE : 0); }
int open64(const char *path, int flags, ...) { return open_any(AT_FDCWD, path, flags, flags & O_CREAT ? MODE : 0); }
int openat(int at, const char *path, int flags, ...) { return open_any(at, path, flags, flags & O_CREAT ? MODE : 0); }
int openat64(int at, const char *path, int flags, ...) { return open_any(at, path, flags, flags & O_CREAT ? MODE : 0); }
int creat(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int close(int fd) {
    struct open_file *file = take(fd);
    if (file) {
        if (file->reader >= 0) syscall(SYS_close, file->reader);
        file->inode = 0;
    }
    leave(file);
    return syscall(SYS_close, fd);
}
static uint64_t position_of(int fd) {
    return fcntl(fd, F_GETFL) & O_APPEND ? size_of(fd) : (uint64_t)lseek(fd, 0, SEEK_CUR);
}
static uint64_t sum_of(const struct iovec *parts, int count) {
    uint64_t len = 0;
    for (int i = 0; i < count; i++) len += parts[i].iov_len;
    return len;
}
/* Makes a change of `fd`: records it first if the file is ours. */
#define CHANGE(fd, record, call) ({ struct open_file *file = take(fd); if (file) { record; } \
        __auto_type result = (call); leave(file); result; })

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    return CHANGE(fd, will_write(file, fd, len, at), syscall(SYS_pwrite64, fd, bytes, len, at));
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return pwrite64(fd, bytes, len, at); }
ssize_t write(int fd, const void *bytes, size_t len) {
    return CHANGE(fd, will_write(file, fd, len, position_of(fd)), syscall(SYS_write, fd, bytes, len));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    uint64_t len = sum_of(parts, count);
    return CHANGE(fd, will_write(file, fd, len, position_of(fd)), syscall(SYS_writev, fd, parts, count));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    return CHANGE(fd, will_write(file, fd, sum_of(parts, count), at), syscall(SYS_pwritev, fd, parts, count, at, 0));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }
int ftruncate64(int fd, off64_t size) {
    return CHANGE(fd, will_resize(file, size_of(fd), size), syscall(SYS_ftruncate, fd, size));
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
static int sync_any(int fd, long call) {
    struct open_file *file = take(fd);
    if (!file) return syscall(call, fd);
    step();
    struct record record = {.kind = SYNC, .inode = file->inode, .offset = log_at};
    leave(file);
    int result = syscall(call, fd);
    pthread_mutex_lock(&lock);
    if (!result) append(record, NULL, NULL);
    pthread_mutex_unlock(&lock);
    return result;
}
int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }
/* Changes a name: records it first, if it is one of ours. */
#define NAME(path, record, call) ({ int ours = is_below(path); if (ours) { pthread_mutex_lock(&lock); record; } \
        int result = (call); if (ours) pthread_mutex_unlock(&lock); result; })
int mkdir(const char *path, mode_t mode) {
    return NAME(path, if (!exists(path)) will_create(path), syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}
int unlink(const char *path) {
    return NAME(path, if (exists(path)) will_remove(path), syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}
static void will_rename(const char *from, const char *to) {
    char both[8192];
    if (!is_below(to) || inode_of_parent(from) != inode_of_parent(to)) die("a rename to another directory");
    if (exists(to)) die("a rename over an existing file");
    step();
    int len = snprintf(both, sizeof both, "%s%s", from, to);
    struct record record = {.kind = RENAME, .inode = inode_of_parent(to), .length = strlen(from), .path_len = len};
    append(record, both, NULL);
}
int rename(const char *from, const char *to) {
    return NAME(from, if (exists(from)) will_rename(from, to), syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
