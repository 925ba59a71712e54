/*
 * A disk that is full or fails when told to, for tests: a library for LD_PRELOAD.
 *
 *     PGRAFT_FAULT_FOLDER   what lies below it is concerned, and nothing else
 *     PGRAFT_FAULT_CONTROL  a file; while it exists, its first letter says what goes wrong:
 *                           f  the disk is full: half of what a write brings still fits, down to
 *                              one byte, which does not; what is there can be written over
 *                           s  fsync and fdatasync fail with EIO, and write nothing
 *                           w  every write fails with EIO
 *
 * The file is looked at in each call, so that a test needs no way into the process. Raw system
 * calls only: it may be called from any thread, and from signal handlers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *folder, *control;

__attribute__((constructor)) static void
remember(void)
{
	/* Copies: a server may move its environment to make room for process titles. */
	const char *value = getenv("PGRAFT_FAULT_FOLDER");

	folder = value ? strdup(value) : NULL;
	value = getenv("PGRAFT_FAULT_CONTROL");
	control = value ? strdup(value) : NULL;
}

/* What goes wrong with this file now: a letter, or 0. */
static char
fault_of(int fd)
{
	char		what = 0;
	char		link[32],
				path[PATH_MAX];
	long		file,
				length;
	size_t		prefix;

	if (!folder || !control)
		return 0;
	file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	length = syscall(SYS_read, (int) file, &what, (size_t) 1);
	syscall(SYS_close, (int) file);
	if (length != 1)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof(path) - 1);
	if (length < 0)
		return 0;
	path[length] = '\0';
	prefix = strlen(folder);
	if (strncmp(path, folder, prefix) != 0)
		return 0;
	return path[prefix] == '\0' || path[prefix] == '/' ? what : 0;
}

static int
fail(int error)
{
	errno = error;
	return -1;
}

ssize_t
write(int fd, const void *bytes, size_t count)
{
	int			saved = errno;
	char		fault = fault_of(fd);

	errno = saved;
	if (fault == 'w')
		return fail(EIO);
	if (fault == 'f')
	{
		if (count <= 1)
			return fail(ENOSPC);
		count /= 2;
	}
	return syscall(SYS_write, fd, bytes, count);
}

static ssize_t
write_at(int fd, const void *bytes, size_t count, off64_t offset)
{
	int			saved = errno;
	char		fault = fault_of(fd);

	errno = saved;
	if (fault == 'w')
		return fail(EIO);
	return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t
pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
	return write_at(fd, bytes, count, offset);
}

ssize_t
pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
	return write_at(fd, bytes, count, offset);
}

int
fsync(int fd)
{
	int			saved = errno;
	char		fault = fault_of(fd);

	errno = saved;
	return fault == 's' ? fail(EIO) : (int) syscall(SYS_fsync, fd);
}

int
fdatasync(int fd)
{
	int			saved = errno;
	char		fault = fault_of(fd);

	errno = saved;
	return fault == 's' ? fail(EIO) : (int) syscall(SYS_fdatasync, fd);
}
