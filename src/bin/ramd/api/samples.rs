//! Moments for unit tests.

use std::sync::Arc;

use super::moment::Moment;
use crate::overview::{FenceState, Member, Overview, Page, PgFacts, PgState, Postgres, Streaming};

const NOW_NS: u64 = 1_000_000_000_000;
const NOW_UNIX_MS: u64 = 1_764_251_000_000;

/// Node 1 of three, which takes writes.
pub fn primary() -> Moment {
    let facts = PgFacts {
        timeline: 3,
        version: 180_001,
        lsn: 0x500_1000,
        standbys: vec![Streaming {
            name: "pgraft_2".into(),
            state: "streaming".into(),
            sync_state: "async".into(),
            replay_lsn: 0x500_0000,
        }],
        started_unix_ms: NOW_UNIX_MS - 60_000,
        ..PgFacts::default()
    };
    let page = Page {
        fence: FenceState::Open,
        writes_from_ns: NOW_NS - 10_000_000_000,
        writes_until_ns: NOW_NS + 700_000_000,
        lease_until_ns: NOW_NS + 700_000_000,
        role: Some("leader"),
        ..page()
    };
    moment(1, facts, page)
}

/// Node 2, which streams from it, 4 KiB behind.
pub fn standby() -> Moment {
    let facts = PgFacts {
        in_recovery: true,
        timeline: 3,
        version: 180_001,
        lsn: 0x500_0000,
        received_lsn: 0x500_0000,
        streaming: true,
        lag_bytes: Some(4096),
        lag_seconds: Some(0.1),
        ..PgFacts::default()
    };
    let page = Page { fence: FenceState::Closed, role: Some("follower"), ..page() };
    moment(2, facts, page)
}

fn moment(node_id: u32, facts: PgFacts, page: Page) -> Moment {
    let postgres = Postgres {
        state: PgState::Answering,
        pid: Some(77),
        facts: Some(facts),
        ..Postgres::default()
    };
    let overview = Overview {
        taken_unix_ms: NOW_UNIX_MS - 100,
        taken_ns: NOW_NS - 100_000_000,
        node_id,
        node_name: format!("node{node_id}"),
        cluster_id: "ram_cluster".into(),
        page: Some(page.clone()),
        postgres,
        ..Overview::default()
    };
    let (overview, page) = (Arc::new(overview), Ok(page));
    Moment { overview, page, now_ns: NOW_NS, unix_ms: NOW_UNIX_MS }
}

fn page() -> Page {
    Page {
        state: "member",
        term: 4,
        leader_id: 1,
        has_quorum: true,
        voters: 3,
        reachable: 3,
        primary_id: 1,
        members: (1..=3).map(member).collect(),
        ..Page::default()
    }
}

fn member(id: u32) -> Member {
    Member {
        id,
        name: format!("node{id}"),
        raft_address: format!("127.0.0.1:{}", 7400 + id),
        pg_address: format!("127.0.0.1:{}", 5500 + id),
        voter: true,
        reachable: Some(true),
        pg_role: Some(if id == 1 { "primary" } else { "standby" }),
        wal_lsn: if id == 1 { 0x500_1000 } else { 0x500_0000 },
        last_contact_unix_us: Some((NOW_UNIX_MS as i64 - 50) * 1000),
        round_trip_us: 150,
    }
}

/// Changes what is on the board.
pub fn set(moment: &mut Moment, change: impl FnOnce(&mut Overview)) {
    change(Arc::make_mut(&mut moment.overview));
}

/// Changes what the server said.
pub fn facts_of(moment: &mut Moment, change: impl FnOnce(&mut PgFacts)) {
    set(moment, |overview| change(overview.postgres.facts.as_mut().expect("facts")));
}

/// The page, to change it.
pub fn page_of(moment: &mut Moment) -> &mut Page {
    moment.page.as_mut().expect("a page")
}
