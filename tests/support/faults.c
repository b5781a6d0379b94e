/* Makes one call of the operating system fail: the N-th that changes a file below one folder; or kills there, at a
   call that deletes or that talks to another machine too. Loaded before the C library's own functions (LD_PRELOAD);
   counts and fails only after faults_arm, in all processes that are forked from the one that was armed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static long nth, *calls;
static int number, lasting, armed;

/* error: its number, or -1 to kill the process that makes the call, or -2 to kill its whole group, or -3 to let
   every call come late by a random time, which lets other processes in. */
void faults_arm(const char *folder, long which, int error, int stays) {
    snprintf(below, sizeof below, "%s/", folder);
    calls = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    nth = which, number = error, lasting = stays, armed = calls != MAP_FAILED;
    srandom((unsigned)getpid());
}

long faults_calls(void) { return *calls; }

static int due(void) {
    long now = __atomic_add_fetch(calls, 1, __ATOMIC_SEQ_CST);
    if (number == -3) usleep((useconds_t)(random() % 3000));
    if (nth <= 0 || !(lasting ? now >= nth : now == nth)) return 0;
    if (number == -2) kill(0, SIGKILL);
    if (number < 0) raise(SIGKILL);
    errno = number;
    return 1;
}

/* Deletions and sockets count for kills alone: no full disk makes them fail. */
static void passing(void) { if (armed && number < 0) due(); }

static int inside(const char *path) {
    char here[PATH_MAX], whole[2 * PATH_MAX];
    if (!armed || !path) return 0;
    if (path[0] == '/' || !getcwd(here, sizeof here)) return strncmp(path, below, strlen(below)) == 0;
    snprintf(whole, sizeof whole, "%s/%s", here, path);
    return strncmp(whole, below, strlen(below)) == 0;
}

static int open_inside(int file) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strncmp(path, below, strlen(below)) == 0;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *from, size_t size) {
    REAL(write);
    return open_inside(file) && due() ? -1 : real(file, from, size);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev);
    return open_inside(file) && due() ? -1 : real(file, parts, count);
}

ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    REAL(pwrite);
    return open_inside(file) && due() ? -1 : real(file, from, size, at);
}

ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) {
    REAL(pwrite64);
    return open_inside(file) && due() ? -1 : real(file, from, size, at);
}

int fsync(int file) {
    REAL(fsync);
    return open_inside(file) && due() ? -1 : real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    return open_inside(file) && due() ? -1 : real(file);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return inside(to) && due() ? -1 : real(from, to);
}

int link(const char *from, const char *to) {
    REAL(link);
    return inside(to) && due() ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return inside(path) && due() ? -1 : real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    if (inside(path)) passing();
    return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    passing();
    return real(folder, path, flags);
}

int rmdir(const char *path) {
    REAL(rmdir);
    if (inside(path)) passing();
    return real(path);
}

int ftruncate64(int file, off64_t size) {
    REAL(ftruncate64);
    return open_inside(file) && due() ? -1 : real(file, size);
}

ssize_t send(int socket, const void *from, size_t size, int flags) {
    REAL(send);
    passing();
    return real(socket, from, size, flags);
}

ssize_t recv(int socket, void *to, size_t size, int flags) {
    REAL(recv);
    passing();
    return real(socket, to, size, flags);
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))
#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) {
    MODE(flags)
    REAL(open);
    return WRITES(flags) && inside(path) && due() ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    REAL(open64);
    return WRITES(flags) && inside(path) && due() ? -1 : real(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    REAL(openat);
    return WRITES(flags) && inside(path) && due() ? -1 : real(folder, path, flags, mode);
}
