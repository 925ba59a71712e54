/*
 * A panic in a thread of pgraft's when a test wants one: a library for LD_PRELOAD.
 *
 *     PGRAFT_PANIC_CONTROL  a file; while it exists, it holds what the name of a thread begins with.
 *                           The first such thread that asks what time it is removes the file and
 *                           gets an error, which Rust's standard library answers with a panic.
 *
 * Raw system calls only, as in disk_fault.c. CLOCK_BOOTTIME, which pgraft asks for itself, is left
 * alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *control;

__attribute__((constructor)) static void
remember(void)
{
	/* A copy: a server may move its environment to make room for process titles. */
	const char *value = getenv("PGRAFT_PANIC_CONTROL");

	control = value ? strdup(value) : NULL;
}

/* Whether this thread is the one, and the first to find out. */
static int
is_meant(void)
{
	char		name[16] = "",
				wanted[16];
	long		file,
				length;

	if (!control || prctl(PR_GET_NAME, name) != 0 || strncmp(name, "pgraft ", 7) != 0)
		return 0;
	file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	length = syscall(SYS_read, (int) file, wanted, sizeof(wanted) - 1);
	syscall(SYS_close, (int) file);
	if (length <= 0 || strncmp(name, wanted, (size_t) length) != 0)
		return 0;
	return syscall(SYS_unlinkat, AT_FDCWD, control, 0) == 0;
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int			saved = errno;

	if (clock != CLOCK_BOOTTIME && is_meant())
	{
		errno = EINVAL;
		return -1;
	}
	errno = saved;
	return (int) syscall(SYS_clock_gettime, clock, now);
}
