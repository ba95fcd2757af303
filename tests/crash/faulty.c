/*
 * Fails reads, writes and syncs of a process, as a sick disk does.
 *
 * Loaded with LD_PRELOAD. The environment names a file of at least one `struct control`, MTS_FAULTS, which a test
 * writes while the process runs: the next `count` calls of one kind, on files whose path holds `path`, fail with
 * `error`; `injected` counts them. Only calls through the C library are seen, which is what Rust's standard library makes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum call { READ = 1, WRITE = 2, SYNC = 3 };

struct control {
    uint64_t count;    /* calls that are yet to fail; written last */
    uint64_t injected; /* calls that have failed */
    uint32_t call;
    int32_t error;
    char path[64];
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MTS_FAULTS");
    int fd = path ? open(path, O_RDWR) : -1;
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        fprintf(stderr, "faulty.c: MTS_FAULTS cannot be opened\n");
        _exit(2);
    }
    control = mapped;
}

static int fails(enum call call, int fd) {
    uint64_t count = __atomic_load_n(&control->count, __ATOMIC_ACQUIRE);
    if (count == 0 || control->call != call)
        return 0;
    char link[32], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len <= 0)
        return 0;
    path[len] = 0;
    if (!strstr(path, control->path))
        return 0;
    while (!__atomic_compare_exchange_n(&control->count, &count, count - 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        if (count == 0)
            return 0;
    __atomic_fetch_add(&control->injected, 1, __ATOMIC_ACQ_REL);
    errno = control->error;
    return 1;
}

#define REAL(name, type) \
    static type real; \
    if (!real) \
        real = (type)dlsym(RTLD_NEXT, name)

typedef ssize_t (*reader)(int, void *, size_t, off64_t);
typedef ssize_t (*writer)(int, const void *, size_t, off64_t);
typedef int (*syncer)(int);

ssize_t pread64(int fd, void *to, size_t count, off64_t at) {
    REAL("pread64", reader);
    return fails(READ, fd) ? -1 : real(fd, to, count, at);
}

ssize_t pread(int fd, void *to, size_t count, off_t at) {
    return pread64(fd, to, count, at);
}

ssize_t pwrite64(int fd, const void *from, size_t count, off64_t at) {
    REAL("pwrite64", writer);
    return fails(WRITE, fd) ? -1 : real(fd, from, count, at);
}

ssize_t pwrite(int fd, const void *from, size_t count, off_t at) {
    return pwrite64(fd, from, count, at);
}

int fdatasync(int fd) {
    REAL("fdatasync", syncer);
    return fails(SYNC, fd) ? -1 : real(fd);
}

int fsync(int fd) {
    REAL("fsync", syncer);
    return fails(SYNC, fd) ? -1 : real(fd);
}
