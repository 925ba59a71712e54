//! Tests of shared memory, with threads and with processes.

mod c_reader;
mod page;
mod ring;
mod slots;
mod sysv;

use super::*;
use crate::sys;
use crate::wire::PgRole;
use std::alloc::{Layout, alloc};
use std::sync::atomic::{AtomicBool, Ordering};

/// An area as Postgres would give it, full of rubbish, never freed.
fn shared(len: usize) -> &'static Shared {
    let layout = Layout::from_size_align(len, 128).unwrap();
    // SAFETY: the layout has a size. The bytes are written before they are read, `init` gets all of
    // them, and nobody frees them.
    unsafe {
        let area = alloc(layout);
        assert!(!area.is_null());
        area.write_bytes(0xa5, len);
        Shared::init(area, len)
    }
}

/// Tells the other threads of a test to end, also when this one fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A view in which everything says `n`, so that one value of another moment gives itself away.
fn view_of(n: u64) -> View {
    let member = |id: u32| MemberView {
        id,
        name: format!("name{n}"),
        address: format!("{n}.example.net"),
        port: n as u16,
        voter: n.is_multiple_of(2),
        reachable: [None, Some(false), Some(true)][n as usize % 3],
        last_contact_unix_us: n.is_multiple_of(2).then_some(n as i64),
        matched: (!n.is_multiple_of(2)).then_some(n),
        pg_address: format!("10.0.0.1:{n}"),
        pg_role: [None, Some(PgRole::Primary), Some(PgRole::Standby)][n as usize % 3],
        wal_lsn: n,
        counters: PeerCounters::from_array([n; 8]),
    };
    View {
        state: NodeState::Member,
        role: RoleCode::Follower,
        term: n,
        leader: n as u32,
        leader_address: format!("leader{n}:7400"),
        lease_start_ns: n,
        lease_expires_ns: n,
        has_quorum: n.is_multiple_of(2),
        paused: n.is_multiple_of(3),
        voters: n as u32,
        reachable: n as u32,
        last_index: n,
        commit: n,
        applied: n,
        last_error: format!("{n} ").repeat(10),
        node_id: 1,
        node_name: format!("node{n}"),
        cluster_id: format!("cluster{n}"),
        pg_role: None,
        wal_lsn: 0,
        members: (1..=1 + n as u32 % 4).map(member).collect(),
    }
}

/// The view read must be that of one moment, the one its term names.
fn assert_whole(view: &View) {
    assert_eq!(*view, View { node_id: view.node_id, ..view_of(view.term) }, "a torn read");
}

#[test]
fn the_area_holds_all_parts_and_the_rest_is_log_lines() {
    for len in [SHMEM_BYTES_MIN, SHMEM_BYTES_DEFAULT, SHMEM_BYTES_DEFAULT + 77] {
        let shared = shared(len);
        assert!(shared.page().is_valid());
        assert_eq!(shared.page().view(), Some(View::default()));
        assert_eq!(shared.slots().in_use(), 0);
        assert_eq!(shared.log().read(10, log::LevelFilter::Trace), []);
        let lines = shared.log().capacity();
        let used = size_of::<Fixed>() + lines * ENTRY_BYTES;
        assert!(used <= len && used + ENTRY_BYTES > len, "{used} of {len}");
    }
    assert_eq!(Shared::bytes_needed(1 << 20), 1 << 20);
    assert_eq!(Shared::bytes_needed(0), SHMEM_BYTES_MIN);
    assert_eq!(Shared::bytes_needed(usize::MAX), SHMEM_BYTES_MAX);
}

#[test]
fn a_process_that_did_not_inherit_the_view_can_attach() {
    let len = SHMEM_BYTES_MIN;
    let layout = Layout::from_size_align(len, 128).unwrap();
    // SAFETY: as in `shared`; zeroed, so that `attach` reads nothing uninitialized.
    unsafe {
        let area = alloc(layout);
        area.write_bytes(0, len);
        assert!(Shared::attach(area, len).is_none(), "a blank area is taken for a page");
        let first = Shared::init(area, len);
        let second = Shared::attach(area, len).unwrap();
        first.page().publish(&view_of(9));
        assert_whole(&second.page().view().unwrap());
        assert_eq!(first.log().capacity(), second.log().capacity());
    }
}

#[test]
#[should_panic(expected = "pgraft's shared memory has only 1000 bytes")]
fn too_small_an_area_is_a_callers_bug() {
    shared(1000);
}
