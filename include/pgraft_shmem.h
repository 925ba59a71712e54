/*
 * pgraft_shmem.h
 *		The page on which a pgraft node says how it is doing, for programs that are
 *		not PostgreSQL: attach to the SysV shared memory segment whose key is
 *		postgresql_shmem_key in pgraft.conf, read-only.
 *
 *		int			id = shmget(key, 0, 0);
 *		const pgraft_status_page *page = shmat(id, NULL, SHM_RDONLY);
 *
 *		if (pgraft_page_valid(page) && pgraft_page_fresh(page, now_ns) &&
 *			pgraft_read_core(page, &core))
 *			... core.leader, core.term ...
 *
 * now_ns is CLOCK_BOOTTIME in nanoseconds. The worker makes a new segment each
 * time it starts: attach again when the page is no longer fresh. Readers need to
 * be in the server's group (mode 0640), and in its IPC and PID namespaces.
 *
 * The Rust side is src/shmem/page.rs; tests compare every offset. Needs C11
 * with nanosleep() and the __atomic builtins of gcc or clang; 64-bit only.
 */
#ifndef PGRAFT_SHMEM_H
#define PGRAFT_SHMEM_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define PGRAFT_MAGIC			"PGRAFT\0"	/* eight bytes with C's own zero */
#define PGRAFT_LAYOUT_VERSION	1
#define PGRAFT_MEMBERS_MAX		32
#define PGRAFT_COUNTERS_MAX		64

/* pgraft_core.state */
enum
{
	PGRAFT_STOPPED = 0,
	PGRAFT_FORMING = 1,
	PGRAFT_JOINING = 2,
	PGRAFT_MEMBER = 3,
	PGRAFT_REMOVED = 4,
	PGRAFT_ERROR = 5
};

/* pgraft_core.role */
enum
{
	PGRAFT_NO_ROLE = 0,
	PGRAFT_FOLLOWER = 1,
	PGRAFT_CANDIDATE = 2,
	PGRAFT_LEADER = 3,
	PGRAFT_LEARNER = 4
};

/* One member of the cluster; guarded by the page's sequence. */
typedef struct pgraft_member
{
	uint32_t	id;
	uint32_t	port;			/* Raft port */
	uint32_t	voter;			/* 0 or 1 */
	uint32_t	reachable;		/* 0 unknown, 1 no, 2 yes */
	uint32_t	pg_role;		/* 0 unknown, 1 primary, 2 standby */
	uint32_t	known;			/* bit 0: last_contact_unix_us, bit 1: matched */
	uint64_t	last_contact_unix_us;
	uint64_t	matched;		/* log index */
	uint64_t	wal_lsn;
	uint64_t	counters[8];
	char		name[64];		/* texts end in a zero byte */
	char		host[256];
	char		pg_address[264];
} pgraft_member;

typedef struct pgraft_status_page
{
	/* Single values: each is valid by itself. */
	char		magic[8];
	uint32_t	layout_version;
	uint32_t	size;			/* of the page */
	int32_t		creator_pid;	/* the worker that made the segment */
	uint32_t	node_id;		/* 0 unknown */
	uint64_t	creator_start;	/* its start time, field 22 of /proc/PID/stat */
	uint64_t	heartbeat_ns;	/* when it last said that it runs; 0 never */
	uint64_t	stale_after_ns; /* how old that may be */
	uint64_t	leader_until_ns;	/* end of this node's lease; 0: none */
	int32_t		worker_pid;		/* 0: not running */
	uint32_t	debug;
	uint64_t	worker_start_ns;
	uint32_t	fence;			/* 0 none, 1 closed, 2 paused, 3 open */
	uint32_t	primary_id;		/* node id; 0: no primary is named */
	uint64_t	writes_from_ns; /* an open fence lets commits pass from here */
	uint64_t	wal_lsn;
	uint32_t	pg_role;
	uint32_t	commits_under_way;	/* in PostgreSQL's own page only */
	uint64_t	writes_until_ns;	/* to here, this not included */
	uint64_t	reserved[2];

	/*
	 * From here on, counters excepted, values belong together. They may be
	 * used if sequence was even before they were read and the same after.
	 */
	uint64_t	sequence;
	uint32_t	state;
	uint32_t	role;
	uint64_t	term;
	uint32_t	leader;			/* node id, 0 none */
	uint32_t	has_quorum;
	uint64_t	lease_start_ns;
	uint64_t	lease_expires_ns;
	uint32_t	voters;
	uint32_t	reachable;
	uint64_t	last_index;
	uint64_t	commit;
	uint64_t	applied;
	uint32_t	paused;			/* automatic failover, cluster-wide: 0 or 1 */
	uint32_t	reserved_half;
	uint64_t	reserved_core[4];
	uint64_t	counters[PGRAFT_COUNTERS_MAX];	/* each by itself */
	char		node_name[64];
	char		cluster_id[72];
	char		leader_address[264];
	char		last_error[512];
	uint64_t	member_count;
	pgraft_member members[PGRAFT_MEMBERS_MAX];
} __attribute__((aligned(64))) pgraft_status_page;

_Static_assert(offsetof(pgraft_status_page, sequence) == 128, "pgraft layout");
_Static_assert(offsetof(pgraft_status_page, counters) == 248, "pgraft layout");
_Static_assert(offsetof(pgraft_status_page, members) == 1680, "pgraft layout");
_Static_assert(sizeof(pgraft_member) == 696, "pgraft layout");
_Static_assert(sizeof(pgraft_status_page) == 24000, "pgraft layout");

/* The numbers that change most often, all of one moment. */
typedef struct pgraft_core
{
	uint32_t	state;
	uint32_t	role;
	uint64_t	term;
	uint32_t	leader;
	uint32_t	has_quorum;
	uint64_t	lease_start_ns;
	uint64_t	lease_expires_ns;
	uint32_t	voters;
	uint32_t	reachable;
	uint64_t	last_index;
	uint64_t	commit;
	uint64_t	applied;
	uint32_t	paused;
} pgraft_core;

#define PGRAFT_LOAD(field)	__atomic_load_n(&(field), __ATOMIC_RELAXED)

/* Whether this is a page that this header describes. */
static inline int
pgraft_page_valid(const pgraft_status_page *page)
{
	static const char magic[8] = PGRAFT_MAGIC;

	for (int i = 0; i < 8; i++)
	{
		if (__atomic_load_n(&page->magic[i], __ATOMIC_ACQUIRE) != magic[i])
			return 0;
	}
	return PGRAFT_LOAD(page->layout_version) == PGRAFT_LAYOUT_VERSION &&
		PGRAFT_LOAD(page->size) == sizeof(pgraft_status_page);
}

/* Whether the node gave a sign of life recently enough to be believed. */
static inline int
pgraft_page_fresh(const pgraft_status_page *page, uint64_t now_ns)
{
	uint64_t	beat = __atomic_load_n(&page->heartbeat_ns, __ATOMIC_ACQUIRE);

	if (PGRAFT_LOAD(page->worker_pid) == 0 || beat == 0)
		return 0;
	return beat >= now_ns || now_ns - beat <= PGRAFT_LOAD(page->stale_after_ns);
}

/* Whether this node is the leader and its lease holds. */
static inline int
pgraft_page_is_leader(const pgraft_status_page *page, uint64_t now_ns)
{
	return now_ns < __atomic_load_n(&page->leader_until_ns, __ATOMIC_ACQUIRE) &&
		pgraft_page_fresh(page, now_ns);
}

/*
 * Reads the numbers, usually at once; 0 if for some milliseconds a writer was in
 * the middle of it: try again later, and if that lasts, the worker has died there.
 */
static inline int
pgraft_read_core(const pgraft_status_page *page, pgraft_core *core)
{
	for (int attempt = 0; attempt < 1100; attempt++)
	{
		struct timespec nap = {0, 50000};
		uint64_t	before = __atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE);

		/* A writer takes a microsecond, unless others have its processor. */
		if (attempt > 1000)
			nanosleep(&nap, NULL);
		if (before & 1)
			continue;
		core->state = PGRAFT_LOAD(page->state);
		core->role = PGRAFT_LOAD(page->role);
		core->term = PGRAFT_LOAD(page->term);
		core->leader = PGRAFT_LOAD(page->leader);
		core->has_quorum = PGRAFT_LOAD(page->has_quorum);
		core->lease_start_ns = PGRAFT_LOAD(page->lease_start_ns);
		core->lease_expires_ns = PGRAFT_LOAD(page->lease_expires_ns);
		core->voters = PGRAFT_LOAD(page->voters);
		core->reachable = PGRAFT_LOAD(page->reachable);
		core->last_index = PGRAFT_LOAD(page->last_index);
		core->commit = PGRAFT_LOAD(page->commit);
		core->applied = PGRAFT_LOAD(page->applied);
		core->paused = PGRAFT_LOAD(page->paused);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (PGRAFT_LOAD(page->sequence) == before)
			return 1;
	}
	return 0;
}

#endif							/* PGRAFT_SHMEM_H */
