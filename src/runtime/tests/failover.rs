//! Moving the primary's role: the decisions, with servers that obey at once. The simulator has
//! servers that do not (tests/simulation).

use super::world::World;
use super::{address, id};
use crate::cluster::{Address, Position, Primary, Request, Switch};
use crate::raft::NodeId;
use crate::runtime::duty::Task;
use crate::runtime::event::{Event, ToMain};
use crate::shmem::{Fence, FenceMode};
use crate::wire::{PgRole, Report, Standing};

/// A Postgres server and the main thread that moves it: at once.
#[derive(Clone)]
pub struct Puppet {
    role: Option<PgRole>,
    position: Position,
    /// Whom it streams from.
    upstream: Option<NodeId>,
    frozen: bool,
    names_at: crate::raft::LogIndex,
    /// Its port answers though its worker is gone.
    answers: bool,
    stopping: bool,
    /// It does what its duty says.
    obeys: bool,
    /// It can be promoted, and in no time.
    promotes: bool,
}

impl Default for Puppet {
    fn default() -> Puppet {
        Puppet {
            role: Some(PgRole::Standby),
            position: Position { timeline: 1, lsn: 100, history: Vec::new() },
            upstream: None,
            frozen: false,
            names_at: crate::raft::LogIndex(0),
            answers: false,
            stopping: false,
            obeys: true,
            promotes: true,
        }
    }
}

impl Puppet {
    fn report(&self) -> Report {
        Report {
            pg_role: self.role,
            wal_lsn: self.position.lsn,
            timeline: self.position.timeline,
            fork: self.position.fork().filter(|_| self.role == Some(PgRole::Primary)),
            receiving: self.upstream.is_some(),
            stopping: self.stopping,
            names_at: self.names_at,
            synchronous_at: self.names_at,
        }
    }
}

impl World {
    /// What the worker's main thread does.
    pub(super) fn serve_main(&mut self, node: i64, main: Vec<ToMain>, probed: Vec<Address>) {
        for message in main {
            let postgres = self.postgres(node);
            let answer = match message {
                ToMain::WantReport => Event::Report(postgres.report()),
                ToMain::WantFlush => Event::Flushed { lsn: postgres.position.lsn },
                ToMain::WantStanding(_) if !postgres.obeys => continue,
                ToMain::WantStanding(ask) => {
                    if ask.freeze && postgres.role == Some(PgRole::Standby) {
                        postgres.frozen = true;
                        postgres.upstream = None;
                    }
                    let standing = Standing {
                        pg_role: postgres.role,
                        position: postgres.position.clone(),
                        system_identifier: 1,
                        receiving: postgres.upstream.is_some(),
                        frozen: postgres.frozen,
                        obstacle: String::new(),
                    };
                    Event::Standing { ask, standing: Box::new(standing) }
                }
                ToMain::Duty(duty) if postgres.obeys => {
                    if let Some(names) = &duty.synchronous {
                        // What an answer led to was told before what is next in `main`.
                        postgres.names_at = postgres.names_at.max(names.members_at);
                    }
                    match duty.task {
                        Task::BePrimary { timeline }
                            if postgres.role == Some(PgRole::Standby) && postgres.promotes =>
                        {
                            let Position { timeline: old, lsn, .. } = postgres.position;
                            postgres.position.history.push(Switch { timeline: old, ends: lsn });
                            postgres.position.timeline = timeline;
                            postgres.role = Some(PgRole::Primary);
                            postgres.upstream = None;
                        }
                        Task::Follow { node: upstream, .. }
                            if postgres.role == Some(PgRole::Standby) =>
                        {
                            let from = self.postgres(upstream.get().into()).position.clone();
                            let postgres = self.postgres(node);
                            postgres.frozen = false;
                            postgres.upstream = Some(upstream);
                            postgres.position = from;
                        }
                        _ => {}
                    }
                    Event::Report(self.postgres(node).report())
                }
                _ => continue,
            };
            self.tell(node, answer);
        }
        for asked in probed {
            // Postgres' address is the Raft address's host, the same for all here.
            let lost = self.lost.unwrap_or(node);
            let answers = self.postgres(lost).answers;
            self.tell(node, Event::Probed { address: asked, answers });
        }
    }

    /// That no two fences let commits pass at the same time.
    pub(super) fn check_fences(&self) {
        let now_ns = self.now_ns();
        let open = |fence: &Fence| {
            fence.mode == FenceMode::Open && (fence.from_ns..fence.until_ns).contains(&now_ns)
        };
        let open: Vec<i64> =
            self.fences().iter().filter(|(_, fence)| open(fence)).map(|(node, _)| *node).collect();
        assert!(open.len() <= 1, "commits pass on nodes {open:?}");
    }

    /// Whether commits pass on `node` now.
    fn writes(&self, node: i64) -> bool {
        let now_ns = self.now_ns();
        self.fences().iter().any(|(other, fence)| {
            *other == node
                && fence.mode == FenceMode::Open
                && (fence.from_ns..fence.until_ns).contains(&now_ns)
        })
    }

    fn primary(&self, node: i64) -> Option<Primary> {
        self.cluster(node).primary
    }

    fn run_until(&mut self, what: &str, ms: u64, is: impl Fn(&World) -> bool) {
        for _ in 0..ms / 50 {
            if is(self) {
                return;
            }
            self.run_ms(50);
        }
        panic!("not in {ms} ms: {what}; fences {:?}", self.fences());
    }

    /// Ends the node and its server as a kill does.
    fn lose(&mut self, node: i64) {
        self.lost = Some(node);
        self.crash(node);
    }
}

/// Three nodes whose first server is the primary, others stream from it, and commits pass.
fn three(seed: u64, settings: &'static str) -> World {
    several(seed, &[1, 2, 3], settings)
}

/// The same with `nodes`.
fn several(seed: u64, nodes: &[i64], settings: &'static str) -> World {
    let mut world = World::new(seed);
    world.integration = true;
    world.settings = settings;
    world.prepare(1, |postgres| postgres.role = Some(PgRole::Primary));
    for node in nodes {
        world.boot(*node, nodes);
    }
    world.run_until("commits pass on node 1", 20_000, |world| world.writes(1));
    world.run_ms(2000);
    world
}

fn move_to(node: i64) -> Request {
    Request::TransferLeadership { node: id(node) }
}

#[test]
fn leadership_goes_to_the_server_that_is_primary() {
    for seed in 0..10 {
        let world = three(seed, "");
        assert_eq!(world.leader(), Some(1));
        let named = Primary { node: id(1), epoch: 1, timeline: 1 };
        assert!((1..=3).all(|node| world.primary(node) == Some(named)));
        assert!(!world.writes(2) && !world.writes(3));
    }
}

#[test]
fn when_the_primary_dies_the_standby_with_the_most_wal_takes_over() {
    for seed in 0..20 {
        let mut world = three(seed, "");
        world.postgres(3).position.lsn = 150;
        world.lose(1);
        world.run_until("commits pass on node 3", 5000, |world| world.writes(3));
        assert_eq!(world.primary(2), Some(Primary { node: id(3), epoch: 2, timeline: 2 }));
        world.run_ms(2000);
        assert_eq!(world.postgres(2).upstream, Some(id(3)));
        // The old one comes back as it was: deposed, and fenced.
        world.boot(1, &[1, 2, 3]);
        world.run_ms(5000);
        assert_eq!(world.leader(), Some(3));
        let fences = world.fences();
        assert_eq!(fences[0].1.mode, FenceMode::Closed);
    }
}

#[test]
fn where_a_timeline_begins_stands_in_the_log() {
    let mut world = three(7, "");
    world.lose(1);
    world.run_until("commits pass", 5000, |world| world.writes(2) || world.writes(3));
    world.run_ms(2000);
    let fork = Some(Switch { timeline: 1, ends: 100 });
    for node in [2, 3] {
        let timelines = &world.cluster(node).timelines;
        assert_eq!(timelines[&1].fork, None);
        assert_eq!(timelines[&2].fork, fork, "{timelines:?}");
    }
}

#[test]
fn a_promotion_goes_on_however_long_it_takes_unless_something_keeps_the_server_from_it() {
    let mut world = three(8, "");
    world.postgres(3).position.lsn = 150;
    world.postgres(3).promotes = false;
    world.lose(1);
    world.run_until("node 3 is named and leads", 5000, |world| {
        world.leader() == Some(3) && world.primary(3).is_some_and(|primary| primary.epoch == 2)
    });
    let trouble = |blocked| Event::Hindrance { what: "slots are used up".into(), blocked };
    world.tell(3, trouble(false));
    world.run_ms(10_000);
    assert_eq!(world.primary(3), Some(Primary { node: id(3), epoch: 2, timeline: 2 }));
    world.tell(3, trouble(true));
    world.run_until("a primary is sought again", 10_000, |world| {
        world.primary(3).is_some_and(|primary| primary.epoch > 2)
    });
}

#[test]
fn paused_nobody_is_promoted_until_it_goes_on() {
    let mut world = three(1, "");
    assert!(world.ask(2, Request::SetPaused { paused: true }, 1000).unwrap().value);
    world.lose(1);
    world.run_ms(10_000);
    let leader = world.leader().unwrap();
    assert_eq!(world.primary(leader).unwrap().epoch, 1);
    let said = world.view(leader).last_error;
    assert!(said.contains("failover is paused"), "{said}");
    assert!(world.ask(2, Request::SetPaused { paused: false }, 1000).unwrap().value);
    world.run_until("commits pass", 3000, |world| world.writes(2) || world.writes(3));
}

#[test]
fn a_primary_that_lost_its_worker_only_gets_time_to_come_back() {
    let mut world = three(2, "");
    world.postgres(1).answers = true;
    world.lose(1);
    world.run_ms(3000);
    assert!(!world.writes(2) && !world.writes(3));
    world.boot(1, &[1, 2, 3]);
    world.run_until("commits pass on node 1", 5000, |world| world.writes(1));
    assert_eq!(world.primary(1).unwrap().epoch, 1, "the primary did not move");
    // Not for ever.
    world.lose(1);
    world.run_until("commits pass", 10_000, |world| world.writes(2) || world.writes(3));
}

#[test]
fn a_planned_move_waits_for_commits_and_wal() {
    let mut world = three(3, "");
    world.set_commits(1, 1);
    world.postgres(1).position.lsn = 900;
    world.postgres(2).position.lsn = 800;
    // Of no commit: but who is beside it must not have more than the next primary.
    world.postgres(3).position.lsn = 950;
    let token = world.begin(3, move_to(2), 8000);
    world.run_ms(1000);
    assert!(!world.writes(1), "the fence is closed at once");
    assert_eq!(world.primary(1).unwrap().epoch, 1, "a commit is under way");
    world.set_commits(1, 0);
    world.run_ms(1000);
    assert_eq!(world.primary(1).unwrap().epoch, 1, "node 2 lacks WAL");
    world.postgres(2).position.lsn = 900;
    world.run_ms(500);
    assert_eq!(world.primary(1).unwrap().epoch, 1, "node 2 lacks WAL that node 3 has");
    world.postgres(2).position.lsn = 950;
    assert!(world.wait(3, token, 5000).unwrap().value);
    world.run_until("commits pass on node 2", 1000, |world| world.writes(2));
    assert_eq!(world.primary(2), Some(Primary { node: id(2), epoch: 2, timeline: 2 }));
}

#[test]
fn a_deposed_primary_does_not_hold_a_move_up() {
    let mut world = three(10, "");
    world.postgres(3).role = Some(PgRole::Primary);
    world.postgres(3).position.lsn = 5000;
    assert!(world.ask(1, move_to(2), 5000).unwrap().value);
    world.run_until("commits pass on node 2", 1000, |world| world.writes(2));
}

#[test]
fn leadership_is_handed_back_however_often() {
    let mut world = three(8, "");
    for _ in 0..6 {
        assert!(world.ask(2, Request::ForceElection, 5000).unwrap().value);
        world.run_until("commits pass on node 1", 3000, |world| world.writes(1));
        assert_eq!(world.primary(1).unwrap().epoch, 1);
        world.run_ms(1500);
    }
}

#[test]
fn a_move_to_a_node_that_is_removed_meanwhile_is_given_up() {
    let mut world = three(9, "");
    world.set_commits(1, 1);
    let token = world.begin(3, move_to(2), 8000);
    world.run_ms(300);
    assert!(!world.writes(1));
    let remove = Request::RemoveNode { node: id(2), force: true };
    let removal = world.begin(3, remove, 8000);
    world.set_commits(1, 0);
    assert!(world.wait(3, removal, 5000).unwrap().value);
    world.wait(3, token, 10_000).unwrap_err();
    world.run_until("commits pass on node 1", 1000, |world| world.writes(1));
    assert_eq!(world.primary(1).unwrap().node, id(1));
}

#[test]
fn a_move_that_cannot_be_finished_is_given_up_and_commits_go_on() {
    let mut world = three(4, "");
    world.postgres(1).position.lsn = 900;
    let error = world.ask(1, move_to(2), 20_000).unwrap_err();
    assert!(error.message.contains("did not take over"), "{error:?}");
    world.run_until("commits pass on node 1", 1000, |world| world.writes(1));
    assert_eq!(world.primary(1).unwrap().node, id(1));
    // It was stopped from receiving, and is let go.
    world.run_until("node 3 receives", 1000, |world| {
        world.primary(3).is_some_and(|primary| primary.epoch == 2)
    });
    assert_eq!(world.postgres(3).upstream, Some(id(1)));
    world.postgres(3).upstream = None;
    world.run_ms(2000);
    let error = world.ask(1, move_to(3), 5000).unwrap_err();
    assert!(error.message.contains("does not receive WAL"), "{error:?}");
}

#[test]
fn with_commits_that_wait_for_a_majority_a_majority_must_answer_frozen() {
    let mut world = three(5, "synchronous_mode = quorum\n");
    assert!(world.cluster(1).synchronous);
    world.lose(1);
    // Node 2's server hangs: a majority of positions is not known.
    world.postgres(2).obeys = false;
    world.postgres(2).position.lsn = 500;
    world.run_ms(4000);
    let leader = world.leader().unwrap();
    assert_eq!(world.primary(leader).unwrap().epoch, 1);
    let said = world.view(leader).last_error;
    assert!(said.contains("node 2: no answer of its server"), "{said}");
    world.postgres(2).obeys = true;
    world.run_until("commits pass", 5000, |world| world.writes(2) || world.writes(3));
    assert_eq!(world.primary(3).unwrap().node, id(2), "it holds what was acknowledged");
}

#[test]
fn one_voter_at_a_time_while_commits_are_not_on_a_majority_of_those_left() {
    for seed in 0..5 {
        let mut world = several(seed, &[1, 2, 3, 4, 5], "synchronous_mode = quorum\n");
        // Node 1's commits go on waiting for those that they wait for now.
        world.postgres(1).obeys = false;
        // The second is looked at between the commit of the first and its application.
        world.batches = true;
        let remove = |node| Request::RemoveNode { node: id(node), force: false };
        let removals = [4, 5].map(|node| world.begin(1, remove(node), 20_000));
        world.run_ms(3000);
        assert_eq!(world.cluster(1).members.len(), 4, "the second waits for the first's majority");
        world.postgres(1).names_at = world.cluster(1).applied;
        for removal in removals {
            assert!(world.wait(1, removal, 5000).unwrap().value);
        }
        assert_eq!(world.cluster(1).members.len(), 3);
    }
}

#[test]
fn the_last_primary_cannot_be_removed_by_mistake() {
    let mut world = three(6, "");
    let remove = |force| Request::RemoveNode { node: id(1), force };
    let error = world.ask(2, remove(false), 2000).unwrap_err();
    assert!(error.message.contains("is the primary"), "{error:?}");
    assert_eq!(world.leader(), Some(1));
    assert_eq!(address(1).port(), 7401);
}
