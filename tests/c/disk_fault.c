/*
 * A disk that is full or fails when told to, for tests: a library for LD_PRELOAD.
 *
 *     PGRAFT_FAULT_FOLDER   what lies below it is concerned
 *     PGRAFT_FAULT_WAL      or what lies below this, if the letter is a capital
 *     PGRAFT_FAULT_CONTROL  a file; while it exists, its first letter says what goes wrong:
 *                           f  the disk is full: half of what a write brings still fits, down to
 *                              one byte, which does not; what is there can be written over
 *                           s  fsync and fdatasync fail with EIO, and write nothing
 *                           w  every write fails with EIO
 *                           h  every write waits until the file is gone
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *folder, *wal, *control;

__attribute__((constructor)) static void
remember(void)
{
	/* Copies: a server may move its environment to make room for process titles. */
	const char *value = getenv("PGRAFT_FAULT_FOLDER");

	folder = value ? strdup(value) : NULL;
	value = getenv("PGRAFT_FAULT_WAL");
	wal = value ? strdup(value) : NULL;
	value = getenv("PGRAFT_FAULT_CONTROL");
	control = value ? strdup(value) : NULL;
}

/* What goes wrong with this file now: a small letter, or 0. */
static char
fault_of(int fd)
{
	char		what = 0;
	char		link[32],
				path[PATH_MAX];
	const char *concerned = folder;
	long		file,
				length;
	size_t		prefix;

	if (!control)
		return 0;
	file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	length = syscall(SYS_read, (int) file, &what, (size_t) 1);
	syscall(SYS_close, (int) file);
	if (length != 1)
		return 0;
	if (what >= 'A' && what <= 'Z')
	{
		what += 'a' - 'A';
		concerned = wal;
	}
	if (!concerned)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof(path) - 1);
	if (length < 0)
		return 0;
	path[length] = '\0';
	prefix = strlen(concerned);
	if (strncmp(path, concerned, prefix) != 0)
		return 0;
	return path[prefix] == '\0' || path[prefix] == '/' ? what : 0;
}

static int
fail(int error)
{
	errno = error;
	return -1;
}

/* The same for a write, once it may go on. */
static char
fault_of_write(int fd)
{
	const struct timespec pause = {.tv_nsec = 5000000};
	char		fault;

	while ((fault = fault_of(fd)) == 'h')
		syscall(SYS_nanosleep, &pause, NULL);
	return fault;
}

/* Whether the file would become longer. */
static int
grows(int fd, size_t count, off64_t offset)
{
	struct stat now;

	return fstat(fd, &now) != 0 || (off64_t) now.st_size < offset + (off64_t) count;
}

ssize_t
write(int fd, const void *bytes, size_t count)
{
	int			saved = errno;
	char		fault = fault_of_write(fd);

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
	char		fault = fault_of_write(fd);

	errno = saved;
	if (fault == 'w')
		return fail(EIO);
	if (fault == 'f' && grows(fd, count, offset))
		return fail(ENOSPC);
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

/* One part after the other, as far as there is room. */
static ssize_t
write_parts_at(int fd, const struct iovec *parts, int count, off64_t offset)
{
	ssize_t		all = 0;
	int			saved = errno;
	char		fault = fault_of_write(fd);

	errno = saved;
	if (!fault)
		return syscall(SYS_pwritev, fd, parts, (long) count, (long) offset, 0L);
	for (int i = 0; i < count; i++)
	{
		ssize_t		written = write_at(fd, parts[i].iov_base, parts[i].iov_len, offset + all);

		if (written < 0)
			return all > 0 ? all : written;
		all += written;
		if ((size_t) written < parts[i].iov_len)
			break;
	}
	return all;
}

ssize_t
pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
	return write_parts_at(fd, parts, count, offset);
}

ssize_t
pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
	return write_parts_at(fd, parts, count, offset);
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
