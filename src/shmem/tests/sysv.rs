//! The SysV segment, with real processes: the test program starts itself again as the other server.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names the key at which the child publishes; without it the child's test does nothing.
const CHILD_KEY: &str = "PGRAFT_TEST_SYSV_KEY";

/// A key that no other test, and no other run of them, has; never 0.
pub fn key(n: i32) -> i32 {
    0x5000_0000 | (sys::own_pid() & 0x00ff_ffff) << 4 | n
}

/// Not a test of its own: the other server, which publishes as fast as it can until it is killed.
#[test]
fn child_publishes_until_killed() {
    let Ok(key) = std::env::var(CHILD_KEY) else { return };
    let published = SysvPage::publish_at(key.parse().unwrap()).unwrap();
    let page = published.page();
    page.open(sys::own_pid(), 1_000_000_000);
    page.publish(&view_of(0));
    println!("published");
    // It ends by itself should its parent be gone.
    let end = Instant::now() + Duration::from_secs(30);
    for n in 0.. {
        page.beat(sys::now_boottime_ns());
        page.publish(&view_of(n % 60_000));
        if n % 1000 == 0 && Instant::now() > end {
            break;
        }
    }
}

struct Server(Child, i32);

impl Server {
    fn start(key: i32) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shmem::tests::sysv::child_publishes_until_killed", "--nocapture"])
            .env(CHILD_KEY, key.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("published")));
        assert!(ready, "the child did not publish");
        Server(child, key)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed already, or the test has failed: either way there is nothing to say.
        let _ = self.0.kill();
        let _ = self.0.wait();
        // What it left behind goes too, if the test did not get as far as that.
        drop(SysvPage::publish_at(self.1));
    }
}

#[test]
fn another_process_reads_whole_views_and_a_killed_servers_segment_is_taken_over() {
    let key = key(1);
    let mut server = Server::start(key);
    let reader = attach_readonly(key).unwrap();
    let (mut read, mut terms) = (0, std::collections::BTreeSet::new());
    let start = Instant::now();
    // Until enough was seen, however busy the machine: the child must get its turns too.
    while read < 1000 || terms.len() < 20 {
        if let Some(view) = reader.page().view() {
            assert_whole(&view);
            terms.insert(view.term);
            read += 1;
        }
        let said = format!("{read} reads of {} moments", terms.len());
        assert!(start.elapsed() < Duration::from_secs(20), "only {said}");
    }
    assert!(reader.page().heartbeat_age_ns(sys::now_boottime_ns()).is_some());
    assert!(reader.creator_lives());

    // As long as it lives, the key is its.
    let error = SysvPage::publish_at(key).unwrap_err();
    let pid = server.pid();
    assert!(matches!(error, SysvError::InUse { pid: holder, .. } if holder == pid), "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "shared memory key {key} is in use by the pgraft worker of another server (process \
             {pid})"
        )
    );

    server.kill();
    assert!(!reader.creator_lives());
    let published = SysvPage::publish_at(key).unwrap();
    assert_eq!(published.page().creator().0, sys::own_pid());
    assert_eq!(published.page().view(), Some(View::default()), "a new segment, not the old one");
    published.page().publish(&view_of(5));
    assert_whole(&attach_readonly(key).unwrap().page().view().unwrap());
    // The old mapping is still readable, and no longer fresh once its heartbeat is old enough.
    assert!(reader.page().term() < 60_000);
    assert!(!reader.page().is_fresh(sys::now_boottime_ns() + 2_000_000_000));
}

#[test]
fn the_segment_is_the_groups_to_read_and_goes_with_its_owner() {
    let key = key(2);
    assert!(matches!(attach_readonly(key), Err(SysvError::Missing { .. })));
    let published = SysvPage::publish_at(key).unwrap();
    let stat = sys::segment_stat(sys::segment_find(key).unwrap()).unwrap();
    assert_eq!((stat.mode, stat.creator_pid), (0o640, sys::own_pid()));
    assert_eq!(stat.bytes, size_of::<StatusPage>());
    let reader = attach_readonly(key).unwrap();
    published.page().open(1, 1);
    published.page().beat(sys::now_boottime_ns());
    drop(published);
    assert!(matches!(attach_readonly(key), Err(SysvError::Missing { .. })));
    assert!(!reader.page().is_fresh(0), "readers that stay attached are told");
    drop(SysvPage::publish_at(key).unwrap());
}

#[test]
fn what_is_not_pgrafts_is_left_alone() {
    let key = key(3);
    for bytes in [8, size_of::<StatusPage>()] {
        let segment = sys::segment_create(key, bytes, 0o600).unwrap();
        let mapping = sys::Mapping::attach(segment, false).unwrap();
        // SAFETY: the mapping has at least eight bytes and nobody else knows it.
        unsafe { mapping.start().cast::<[u8; 8]>().write(*b"NOTOURS!") };
        let error = SysvPage::publish_at(key).unwrap_err();
        assert!(matches!(error, SysvError::Foreign { pid: Some(_), .. }), "{error}");
        assert!(error.hint().contains("ipcrm"));
        assert!(matches!(attach_readonly(key), Err(SysvError::Foreign { .. })));
        assert!(sys::segment_stat(segment).is_ok(), "removed");
        sys::segment_remove(segment).unwrap();
    }
    // A blank one is being made by someone who lives: this process.
    let segment = sys::segment_create(key, size_of::<StatusPage>(), 0o600).unwrap();
    let error = SysvPage::publish_at(key).unwrap_err();
    assert!(matches!(error, SysvError::InUse { pid, .. } if pid == sys::own_pid()), "{error}");
    sys::segment_remove(segment).unwrap();
}

#[test]
fn key_0_names_no_segment() {
    assert!(matches!(SysvPage::publish_at(0), Err(SysvError::NoKey)));
    assert!(matches!(attach_readonly(0), Err(SysvError::NoKey)));
}

#[test]
fn a_creator_whose_pid_is_in_use_by_another_process_is_dead() {
    let key = key(4);
    let left_behind = SysvPage::publish_at(key).unwrap();
    let (pid, start_time) = left_behind.page().creator();
    left_behind.page().init(pid, start_time + 1);
    let new = SysvPage::publish_at(key).unwrap();
    assert_eq!(new.page().creator(), (pid, start_time));
    // Its former owner, ending late, removes its own segment and not the new one.
    drop(left_behind);
    assert!(attach_readonly(key).is_ok());
}

#[test]
fn both_pages_say_the_same() {
    let shared = shared(SHMEM_BYTES_MIN);
    let pages =
        Pages { in_postgres: shared.page(), sysv: Some(SysvPage::publish_at(key(5)).unwrap()) };
    shared.page().set_debug(true);
    shared.page().add(Counter::Elections, 3);
    pages.open(1, 1_000_000_000);
    let now = sys::now_boottime_ns();
    pages.beat(now);
    pages.publish(&view_of(8));
    let reader = attach_readonly(key(5)).unwrap();
    for page in [shared.page(), reader.page()] {
        assert_whole(&page.view().unwrap());
        assert!(page.is_fresh(now) && page.debug());
        assert_eq!(page.counter(Counter::Elections), 3);
    }
    pages.clear();
    assert!(!shared.page().is_fresh(now) && !reader.page().is_fresh(now));
}
