/* Preloaded into a part by the fault suite: a disk that fails under one folder, while a mark exists.
 *
 * Calls that write a file below FAILING_DISK_UNDER return EIO, as a broken device gives it. FAILING_DISK_MARK turns it
 * on by being there; each refused call is one byte in FAILING_DISK_TOLD. Sockets and files elsewhere are untouched. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static ssize_t (*next_write)(int, const void *, size_t);

static int below(int fd, const char *folder) {
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static void tell(void) {
    const char *told = getenv("FAILING_DISK_TOLD");
    int fd = told ? open(told, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    ssize_t ignored = next_write(fd, ".", 1);
    (void)ignored;
    close(fd);
}

static int fails(int fd) {
    const char *mark = getenv("FAILING_DISK_MARK"), *folder = getenv("FAILING_DISK_UNDER");
    int before = errno;
    if (!next_write)
        next_write = dlsym(RTLD_NEXT, "write");
    if (!mark || !folder || access(mark, F_OK) || !below(fd, folder)) {
        errno = before;
        return 0;
    }
    tell();
    errno = EIO;
    return 1;
}

#define REFUSE(result, name, parameters, arguments)                  \
    result name parameters {                                         \
        static result(*next) parameters;                             \
        if (!next)                                                   \
            next = (result(*) parameters)dlsym(RTLD_NEXT, #name);    \
        return fails(fd) ? -1 : next arguments;                      \
    }

REFUSE(ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
REFUSE(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
REFUSE(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
REFUSE(ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
REFUSE(ssize_t, pwritev, (int fd, const struct iovec *from, int count, off_t at), (fd, from, count, at))
REFUSE(int, fsync, (int fd), (fd))
REFUSE(int, fdatasync, (int fd), (fd))
