/*
 * read_page.c
 *		A reader outside PostgreSQL, as others may write one.
 *
 *		read_page layout	prints the offset of each field of the page
 *		read_page KEY		prints leader, term and so on, one "name value" a line
 *		read_page KEY N		reads until it has seen N terms, and fails if values of two
 *							moments mix: the test's writer keeps leader = term = commit
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <time.h>

#include "pgraft_shmem.h"

#define FIELD(name)	printf("%s %zu\n", #name, offsetof(pgraft_status_page, name))

static void
print_layout(void)
{
	FIELD(magic);
	FIELD(layout_version);
	FIELD(size);
	FIELD(creator_pid);
	FIELD(node_id);
	FIELD(creator_start);
	FIELD(heartbeat_ns);
	FIELD(stale_after_ns);
	FIELD(leader_until_ns);
	FIELD(worker_pid);
	FIELD(debug);
	FIELD(worker_start_ns);
	FIELD(fence);
	FIELD(primary_id);
	FIELD(writes_from_ns);
	FIELD(wal_lsn);
	FIELD(pg_role);
	FIELD(commits_under_way);
	FIELD(writes_until_ns);
	FIELD(sequence);
	FIELD(state);
	FIELD(role);
	FIELD(term);
	FIELD(leader);
	FIELD(has_quorum);
	FIELD(lease_start_ns);
	FIELD(lease_expires_ns);
	FIELD(voters);
	FIELD(reachable);
	FIELD(last_index);
	FIELD(commit);
	FIELD(applied);
	FIELD(paused);
	FIELD(counters);
	FIELD(node_name);
	FIELD(cluster_id);
	FIELD(leader_address);
	FIELD(last_error);
	FIELD(member_count);
	FIELD(members);
	printf("sizeof_member %zu\n", sizeof(pgraft_member));
	printf("sizeof_page %zu\n", sizeof(pgraft_status_page));
}

static const pgraft_status_page *
attach(const char *key)
{
	int			id = shmget((key_t) strtol(key, NULL, 0), 0, 0);
	const void *page;

	if (id < 0)
	{
		fprintf(stderr, "could not find shared memory segment with key %s: %s\n",
				key, strerror(errno));
		exit(1);
	}
	page = shmat(id, NULL, SHM_RDONLY);
	if (page == (const void *) -1)
	{
		fprintf(stderr, "could not attach to shared memory segment with key %s: %s\n",
				key, strerror(errno));
		exit(1);
	}
	return page;
}

int
main(int argc, char **argv)
{
	const pgraft_status_page *page;
	struct timespec now;
	uint64_t	now_ns;
	pgraft_core core = {.term = UINT64_MAX};
	uint64_t	last;
	long		seen;
	int			tries;

	if (argc < 2 || argc > 3)
	{
		fprintf(stderr, "usage: read_page layout | KEY [COUNT]\n");
		return 2;
	}
	if (strcmp(argv[1], "layout") == 0)
	{
		print_layout();
		return 0;
	}

	page = attach(argv[1]);
	if (!pgraft_page_valid(page))
	{
		fprintf(stderr, "the segment is none of pgraft's, or of another version\n");
		return 1;
	}
	seen = argc == 3 ? atol(argv[2]) : 1;
	do
	{
		last = core.term;
		/* A busy writer's processor may be taken away for a while. */
		for (tries = 0; !pgraft_read_core(page, &core); tries++)
		{
			if (tries == 1000)
			{
				fprintf(stderr, "the page is never at rest\n");
				return 1;
			}
		}
		if (argc == 3 && (core.leader != core.term || core.commit != core.term))
		{
			fprintf(stderr, "torn read: leader %u, term %llu\n",
					core.leader, (unsigned long long) core.term);
			return 1;
		}
		seen -= core.term != last;
	} while (seen > 0);
	clock_gettime(CLOCK_BOOTTIME, &now);
	now_ns = (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;

	printf("node_id %u\n", page->node_id);
	printf("node_name %s\n", page->node_name);
	printf("fresh %d\n", pgraft_page_fresh(page, now_ns));
	printf("is_leader %d\n", pgraft_page_is_leader(page, now_ns));
	printf("leader %u\n", core.leader);
	printf("term %llu\n", (unsigned long long) core.term);
	printf("state %u\n", core.state);
	printf("role %u\n", core.role);
	printf("members %llu\n", (unsigned long long) page->member_count);
	printf("member2 %u %s %s:%u\n", page->members[1].id, page->members[1].name,
		   page->members[1].host, page->members[1].port);
	return 0;
}
