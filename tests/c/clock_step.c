/*
 * The wall clock of one server is set forward or back, for tests: a library for LD_PRELOAD.
 *
 *     PGRAFT_CLOCK_CONTROL  a file; while it exists, it holds by how many seconds this server's
 *                           clock differs from the machine's
 *
 * CLOCK_MONOTONIC and CLOCK_BOOTTIME are as they are: nobody can set those. Raw system calls only,
 * as in disk_fault.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *control;

__attribute__((constructor)) static void
remember(void)
{
	/* A copy: a server may move its environment to make room for process titles. */
	const char *value = getenv("PGRAFT_CLOCK_CONTROL");

	control = value ? strdup(value) : NULL;
}

static time_t
step(void)
{
	int			saved = errno;
	char		text[16] = "";
	long		file,
				length;

	if (!control)
		return 0;
	file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
	if (file < 0)
	{
		errno = saved;
		return 0;
	}
	length = syscall(SYS_read, (int) file, text, sizeof(text) - 1);
	syscall(SYS_close, (int) file);
	errno = saved;
	return length > 0 ? (time_t) atol(text) : 0;
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int			result = (int) syscall(SYS_clock_gettime, clock, now);

	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += step();
	return result;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec exact;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &exact) != 0)
		return -1;
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *now)
{
	struct timespec exact;

	clock_gettime(CLOCK_REALTIME, &exact);
	if (now)
		*now = exact.tv_sec;
	return exact.tv_sec;
}
