//! Tests of the key/value store over whole clusters.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::cluster::store::item_bytes;
use crate::cluster::{Answer, Change, Done, Found, Item, OUTCOMES_MAX};

fn change(change: Change) -> Request {
    Request::Store { id: None, change }
}

fn put(key: &str, value: &str) -> Request {
    change(Change::Put { key: key.to_owned(), value: value.to_owned() })
}

fn delete(key: &str) -> Request {
    change(Change::Delete { key: key.to_owned() })
}

fn cas(key: &str, expected: Option<&str>, value: &str) -> Request {
    let expected = expected.map(str::to_owned);
    change(Change::Cas { key: key.to_owned(), expected, value: value.to_owned() })
}

fn get(key: &str, consistent: bool) -> Request {
    Request::Get { key: key.to_owned(), consistent }
}

/// What `get` found.
#[track_caller]
fn value(answer: Answer) -> Option<String> {
    match answer.unwrap().found {
        Found::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

/// What this node has applied.
fn items(world: &mut World, node: i64) -> BTreeMap<String, Item> {
    match world.ask(node, Request::Items { consistent: false }, 1000).unwrap().found {
        Found::Items(items) => items.into_iter().collect(),
        other => panic!("{other:?}"),
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// The leader and the two others.
fn roles(world: &World) -> (i64, i64, i64) {
    let leader = world.leader().unwrap();
    let others: Vec<i64> = (1..=3).filter(|node| *node != leader).collect();
    (leader, others[0], others[1])
}

/// Nothing goes between `node` and anyone.
fn isolate(world: &mut World, node: i64) {
    for other in (1..=3).filter(|other| *other != node) {
        world.cut_off(node, other);
        world.cut_off(other, node);
    }
}

fn kind(answer: &Answer) -> FailureKind {
    answer.as_ref().unwrap_err().kind
}

/// Three nodes with more lines in their configuration, settled.
fn settled(seed: u64, settings: &'static str) -> World {
    let mut world = three_with(seed, settings);
    world.run_ms(1000);
    world
}

#[test]
fn what_one_node_wrote_every_node_reads() {
    let mut world = three(20);
    for node in 1..=3 {
        let key = format!("from {node}");
        assert!(world.ask(node, put(&key, "v"), 1000).unwrap().value);
        assert!(!world.ask(node, cas(&key, Some("w"), "x"), 1000).unwrap().value);
        assert!(world.ask(node, cas(&key, Some("v"), "x"), 1000).unwrap().value);
        for reader in 1..=3 {
            assert_eq!(value(world.ask(reader, get(&key, true), 1000)), some("x"));
        }
    }
    let keys = |prefix: &str| Request::Keys { prefix: prefix.to_owned(), consistent: true };
    let all = world.ask(2, keys("from"), 1000).unwrap().found;
    assert_eq!(all, Found::Keys(["from 1", "from 2", "from 3"].map(str::to_owned).to_vec()));
    assert!(world.ask(1, delete("from 2"), 1000).unwrap().value);
    assert!(!world.ask(3, delete("from 2"), 1000).unwrap().value);
    assert_eq!(value(world.ask(2, get("from 2", true), 1000)), None);
    for node in 1..=3 {
        assert!(world.ask(node, put("settles", ""), 1000).is_ok());
    }
    world.run_ms(500);
    let first = items(&mut world, 1);
    assert_eq!(first.len(), 3);
    assert!((2..=3).all(|node| items(&mut world, node) == first), "versions and indexes, too");
}

#[test]
fn a_leader_times_each_of_its_commits_and_nobody_else_does() {
    let mut world = three(20);
    world.run_until_leader();
    world.run_ms(1000);
    let (leader, follower, _) = roles(&world);
    let before = world.timed_commits(leader);
    for number in 0..5 {
        world.ask(follower, put("a", &number.to_string()), 1000).unwrap();
    }
    assert_eq!(world.timed_commits(leader), before + 5);
    assert_eq!(world.timed_commits(follower), 0);
}

#[test]
fn a_learner_reads_and_writes_too() {
    let mut world = World::new(21);
    world.boot(1, &[]);
    world.run_until_leader();
    assert!(world.ask(1, put("k", "v"), 1000).unwrap().value);
    assert!(world.ask(1, add(2), 1000).unwrap().value);
    world.boot(2, &[1]);
    // Before its directory is on record, nothing it asks for would be carried out: it waits.
    let early = world.begin(2, put("early", ""), 5000);
    assert!(world.wait(2, early, 5000).unwrap().value);
    assert_eq!(value(world.ask(2, get("k", true), 1000)), some("v"));
    assert!(world.ask(2, cas("k", Some("v"), "w"), 1000).unwrap().value);
    assert_eq!(value(world.ask(1, get("k", true), 1000)), some("w"));
}

/// The leader commits what a follower asked for, and dies before the follower hears of it.
#[test]
fn a_change_asked_for_again_of_the_next_leader_is_made_once() {
    for seed in 0..20 {
        let mut world = three(seed);
        world.run_ms(1000);
        let (leader, asker, third) = roles(&world);
        world.cut_off(leader, asker);
        let token = world.begin(asker, put("k", "v"), 20_000);
        let created = world.begin(asker, cas("lock", None, "mine"), 20_000);
        world.run_ms(100);
        assert_eq!(world.answer(asker, token), None);
        assert_eq!(items(&mut world, leader).len(), 2, "it is committed");
        world.crash(leader);
        world.heal_links();
        assert!(world.wait(asker, token, 20_000).unwrap().value);
        let done = world.wait(asker, created, 20_000).unwrap();
        assert!(done.value, "made anew, it would find the key there");
        let items = items(&mut world, asker);
        assert_eq!((items["k"].version, items["lock"].version), (1, 1), "seed {seed}");
        assert_eq!(world.leader(), Some(third), "only it had what was committed");
    }
}

/// No tick passes between the election and the answer.
#[test]
fn what_waits_for_a_leader_is_begun_as_soon_as_there_is_one() {
    let mut world = three(39);
    world.run_ms(1000);
    let (leader, asker, _) = roles(&world);
    world.crash(leader);
    let token = world.begin(asker, put("k", "v"), 20_000);
    while world.leader().is_none() {
        world.run_ms(50);
    }
    assert!(world.answer(asker, token).is_some_and(|answer| answer.is_ok()));
}

/// The leader's own changes wait in its log, where nobody else sees them, until it is deposed.
#[test]
fn what_a_deposed_leader_could_not_commit_is_asked_of_the_next() {
    let mut world = three(22);
    world.run_ms(1000);
    let (old, other, _) = roles(&world);
    isolate(&mut world, old);
    let token = world.begin(old, cas("lock", None, "old"), 30_000);
    let late = world.begin(old, cas("lock", Some("old"), "late"), 30_000);
    world.run_ms(5000);
    assert_ne!(world.leader(), Some(old));
    assert!(world.ask(other, put("else", ""), 1000).unwrap().value);
    world.heal_links();
    assert!(world.wait(old, token, 30_000).unwrap().value);
    assert!(world.wait(old, late, 30_000).unwrap().value);
    assert_eq!(items(&mut world, old)["lock"].version, 2);
}

#[test]
fn a_leader_that_was_replaced_unawares_serves_no_stale_read() {
    let mut world = three(23);
    world.run_ms(1000);
    let (old, other, _) = roles(&world);
    assert!(world.ask(old, put("k", "old"), 1000).unwrap().value);
    isolate(&mut world, old);
    world.run_ms(3000);
    assert!(world.ask(other, put("k", "new"), 2000).unwrap().value);
    let read = world.begin(old, get("k", true), 2000);
    assert_eq!(value(world.ask(old, get("k", false), 1000)), some("old"), "at once, as it is");
    let answer = world.wait(old, read, 2000);
    assert_eq!(kind(&answer), FailureKind::Unavailable);
    let read = world.begin(old, get("k", true), 5000);
    world.run_ms(500);
    world.heal_links();
    assert_eq!(value(world.wait(old, read, 5000)), some("new"), "it asks the new leader");
}

/// A lease is no reason to serve a read: who forces an election does not wait for it.
#[test]
fn a_lease_that_still_runs_serves_no_read() {
    let mut world = three(24);
    world.run_ms(1000);
    let (old, other, _) = roles(&world);
    assert!(world.ask(old, put("k", "old"), 1000).unwrap().value);
    isolate(&mut world, old);
    assert!(world.ask(other, Request::ForceElection, 1000).unwrap().value);
    assert!(world.ask(other, put("k", "new"), 500).unwrap().value);
    assert!(world.holds_lease(old), "so it thinks");
    let read = world.begin(old, get("k", true), 500);
    assert_eq!(kind(&world.wait(old, read, 500)), FailureKind::Unavailable);
}

#[test]
fn a_read_on_a_follower_waits_until_it_has_applied_enough() {
    let mut world = three(25);
    world.run_ms(1000);
    let (leader, reader, _) = roles(&world);
    assert!(world.ask(reader, put("k", "old"), 1000).unwrap().value);
    // It may ask and be answered, but its log stays behind: what is sent to it meanwhile is lost.
    world.cut_off(leader, reader);
    assert!(world.ask(leader, put("k", "new"), 1000).unwrap().value);
    let read = world.begin(reader, get("k", true), 5000);
    assert_eq!(world.answer(reader, read), None);
    assert_eq!(value(world.ask(reader, get("k", false), 1000)), some("old"));
    world.heal_links();
    assert_eq!(value(world.wait(reader, read, 5000)), some("new"));
}

/// Request 1 of its second run is another one than that of its first.
#[test]
fn a_node_that_restarts_asks_for_new_things() {
    let mut world = three(26);
    world.run_ms(1000);
    let (_, node, _) = roles(&world);
    assert_eq!(world.boots(node), 1);
    assert!(world.ask(node, put("k", "first"), 1000).unwrap().value);
    world.crash(node);
    world.boot(node, &[1, 2, 3]);
    assert_eq!(world.boots(node), 2);
    world.run_ms(1000);
    assert!(world.ask(node, put("k", "second"), 1000).unwrap().value);
    assert_eq!(items(&mut world, node)["k"].version, 2);
    assert_eq!(value(world.ask(node, get("k", true), 1000)), some("second"));
}

#[test]
fn a_node_removed_and_added_again_writes_on() {
    let mut world = three(27);
    world.run_ms(1000);
    let (leader, node, _) = roles(&world);
    assert!(world.ask(node, put("k", "v"), 1000).unwrap().value);
    let remove = Request::RemoveNode { node: id(node), force: false };
    assert!(world.ask(leader, remove, 1000).unwrap().value);
    world.run_ms(1000);
    for request in [put("k", "w"), get("k", true), get("k", false)] {
        let failure = world.ask(node, request, 1000).unwrap_err();
        assert!(failure.message.contains("was removed"), "{failure:?}");
    }
    assert!(world.ask(leader, add(node), 1000).unwrap().value);
    world.run_ms(5000);
    assert_eq!(world.boots(node), 2, "its former session is closed for ever");
    assert!(world.ask(node, put("k", "w"), 1000).unwrap().value);
    assert_eq!(items(&mut world, node)["k"].version, 2);
}

#[test]
fn a_node_that_learns_by_snapshot_of_its_removal_and_return_writes_on() {
    let mut world = settled(38, "raft_snapshot_entries = 10\nraft_log_keep_entries = 5\n");
    let (leader, node, other) = roles(&world);
    assert!(world.ask(node, put("k", "v"), 1000).unwrap().value);
    isolate(&mut world, node);
    let token = world.begin(node, put("lost", "v"), 60_000);
    let remove = Request::RemoveNode { node: id(node), force: true };
    assert!(world.ask(leader, remove, 5000).unwrap().value);
    assert!(world.ask(leader, add(node), 5000).unwrap().value);
    for n in 0..40 {
        assert!(world.ask(other, put(&n.to_string(), ""), 1000).unwrap().value);
        world.run_ms(50);
    }
    world.heal_links();
    let failure = world.wait(node, token, 60_000).unwrap_err();
    assert!(failure.detail.contains("was removed"), "{failure:?}");
    assert_eq!((failure.kind, world.boots(node)), (FailureKind::OutcomeUnknown, 2));
    world.run_ms(5000);
    assert!(world.ask(node, cas("k", Some("v"), "w"), 1000).unwrap().value);
}

#[test]
fn the_leaders_limits_are_kept_and_told() {
    let mut world = settled(
        28,
        "kv_max_key_bytes = 3\nkv_max_value_bytes = 4000\nkv_max_store_bytes = 65536\n",
    );
    let (leader, follower, third) = roles(&world);
    for node in [leader, follower] {
        let failure = world.ask(node, put("long", "v"), 1000).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidValue);
        assert_eq!(failure.message, "the key has 4 bytes, at most 3 are allowed");
        assert!(failure.hint.contains("kv_max_key_bytes"), "{}", failure.hint);
        let failure = world.ask(node, put("k", &"v".repeat(4001)), 1000).unwrap_err();
        assert_eq!(failure.message, "the value has 4001 bytes, at most 4000 are allowed");
        assert!(failure.hint.contains("kv_max_value_bytes"), "{}", failure.hint);
    }
    // Sixteen of 4067 bytes fit. The leader hears all before it can commit one.
    world.cut_off(leader, follower);
    world.cut_off(leader, third);
    let asked: Vec<(i64, u64)> = (0..20)
        .map(|n| {
            let node = if n % 2 == 0 { leader } else { follower };
            (node, world.begin(node, put(&format!("{n:03}"), &"v".repeat(4000)), 5000))
        })
        .collect();
    world.heal_links();
    let answers: Vec<Answer> =
        asked.into_iter().map(|(node, token)| world.wait(node, token, 5000)).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 16);
    let failure = answers.into_iter().find_map(Result::err).unwrap();
    assert_eq!(failure.kind, FailureKind::StoreFull);
    assert!(failure.hint.contains("kv_max_store_bytes"), "{}", failure.hint);
    let full = items(&mut world, leader);
    let key = full.keys().next().unwrap();
    assert!(world.ask(follower, put(key, &"w".repeat(4000)), 1000).unwrap().value, "no larger");
    assert!(world.ask(follower, delete(key), 1000).unwrap().value);
    assert!(world.ask(follower, put(key, "w"), 1000).unwrap().value, "there is room again");
}

#[test]
fn what_is_too_long_for_any_limit_goes_nowhere() {
    let mut world = settled(40, "");
    let (_, node, _) = roles(&world);
    for request in [put(&"k".repeat(257), ""), put("k", &"v".repeat(8193)), put("", "")] {
        assert_eq!(kind(&world.ask(node, request, 1000)), FailureKind::InvalidValue);
    }
}

#[test]
fn a_time_out_says_whether_anything_may_have_changed() {
    let mut world = three(29);
    world.run_ms(1000);
    let (leader, asker, third) = roles(&world);
    // Sent to a leader that cannot commit it.
    world.cut_off(third, leader);
    world.cut_off(leader, asker);
    let forwarded = world.begin(asker, put("k", "v"), 500);
    let own = world.begin(leader, put("l", "v"), 500);
    assert_eq!(kind(&world.wait(asker, forwarded, 500)), FailureKind::OutcomeUnknown);
    assert_eq!(kind(&world.wait(leader, own, 500)), FailureKind::OutcomeUnknown);
    world.heal_links();
    world.run_ms(5000);
    // There is nobody to ask.
    let (leader, other, third) = roles(&world);
    world.crash(leader);
    world.crash(other);
    world.run_ms(5000);
    for request in [put("k", "v"), get("k", true)] {
        let failure = world.ask(third, request, 500).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert!(failure.detail.contains(&format!("node {leader} (")), "{}", failure.detail);
    }
    assert!(world.ask(third, get("l", false), 500).is_ok(), "asks nobody");
}

#[test]
fn before_the_cluster_is_formed_there_is_no_store() {
    let mut world = World::new(30);
    world.boot(1, &[1, 2, 3]);
    for request in [put("k", "v"), get("k", true), get("k", false)] {
        let failure = world.ask(1, request, 500).unwrap_err();
        assert_eq!(failure.message, "the cluster is not formed yet");
    }
}

#[test]
fn more_requests_than_there_is_room_for_are_refused() {
    let mut world = three(31);
    world.run_ms(1000);
    let (leader, node, third) = roles(&world);
    world.crash(leader);
    world.crash(third);
    for request in [put("k", ""), get("k", true)] {
        let tokens: Vec<u64> =
            (0..1025).map(|_| world.begin(node, request.clone(), 60_000)).collect();
        let refused = tokens.iter().filter_map(|token| world.answer(node, *token));
        let kinds: Vec<FailureKind> = refused.map(|answer| kind(&answer)).collect();
        assert_eq!(kinds, [FailureKind::Busy]);
    }
}

/// What was made may not be refused, however full the store is by then.
#[test]
fn a_full_store_does_not_refuse_what_was_made_already() {
    let mut world = settled(32, "kv_max_store_bytes = 65536\n");
    let (leader, asker, _) = roles(&world);
    for n in 0..7 {
        assert!(world.ask(asker, put(&n.to_string(), &"v".repeat(8000)), 1000).is_ok());
    }
    world.cut_off(leader, asker);
    let token = world.begin(asker, put("k", &"v".repeat(8000)), 20_000);
    world.run_ms(100);
    assert!(world.ask(leader, put("k", ""), 1000).is_ok());
    assert!(world.ask(leader, put("other", &"v".repeat(8000)), 1000).is_ok());
    // It finds its leader again, and asks before it is told what it missed.
    world.run_ms(5000);
    assert_eq!(world.answer(asker, token), None);
    world.heal_links();
    assert!(world.wait(asker, token, 20_000).unwrap().value);
    assert_eq!(value(world.ask(asker, get("k", true), 1000)), some(""));
}

/// What the first leader may have made cannot be called refused by the next.
#[test]
fn a_change_that_may_have_been_made_is_not_refused_for_certain() {
    let mut world = three(33);
    world.run_ms(1000);
    let (leader, asker, third) = roles(&world);
    for node in [asker, third] {
        world.crash(node);
        world.settings = "kv_max_value_bytes = 3\n";
        world.boot(node, &[1, 2, 3]);
    }
    world.run_ms(2000);
    assert_eq!(world.leader(), Some(leader));
    world.cut_off(leader, asker);
    world.cut_off(leader, third);
    let token = world.begin(asker, put("k", "value"), 20_000);
    world.run_ms(100);
    world.crash(leader);
    world.heal_links();
    let failure = world.wait(asker, token, 20_000).unwrap_err();
    assert_eq!(failure.kind, FailureKind::OutcomeUnknown);
    assert_eq!(failure.detail, "The value has 5 bytes, at most 3 are allowed.");
}

/// Room is taken by what this leader proposed, not by what a former one, even this node, did.
#[test]
fn what_was_never_committed_takes_no_room() {
    let mut world = settled(34, "kv_max_store_bytes = 65536\n");
    let (old, other, _) = roles(&world);
    isolate(&mut world, old);
    for _ in 0..10 {
        world.begin(old, delete("none"), 500);
    }
    for n in 0..8 {
        world.begin(old, put(&n.to_string(), &"v".repeat(8000)), 500);
    }
    world.run_ms(5000);
    world.heal_links();
    world.run_ms(1000);
    let back = Request::TransferLeadership { node: id(old) };
    assert!(world.ask(other, back, 5000).unwrap().value);
    assert!(world.ask(old, put("k", &"v".repeat(8000)), 1000).unwrap().value);
    assert_eq!(items(&mut world, old).len(), 1);
}

#[test]
fn a_request_that_was_lost_is_sent_again() {
    let mut world = three(35);
    world.run_ms(1000);
    let (leader, asker, _) = roles(&world);
    world.cut_off(asker, leader);
    let token = world.begin(asker, put("k", "v"), 5000);
    world.heal_links();
    assert!(world.wait(asker, token, 5000).unwrap().value);
    assert_eq!(world.leader(), Some(leader), "nothing else would have made it ask again");
}

/// One request is lost, and until it is sent again the others go on, as far as what they came to
/// is remembered for it.
#[test]
fn requests_overtake_one_another_within_bounds() {
    let mut world = three(36);
    world.run_ms(1000);
    let (leader, asker, _) = roles(&world);
    world.cut_off(asker, leader);
    let lost = world.begin(asker, cas("lost", None, "v"), 5000);
    world.heal_links();
    for _ in 1..OUTCOMES_MAX {
        let token = world.begin(asker, put("k", "v"), 5000);
        assert!(world.answer(asker, token).unwrap().unwrap().value);
    }
    let token = world.begin(asker, put("k", "v"), 5000);
    assert_eq!(kind(&world.answer(asker, token).unwrap()), FailureKind::Busy);
    assert!(world.wait(asker, lost, 5000).unwrap().value);
    assert!(world.ask(asker, put("k", "v"), 1000).unwrap().value);
}

/// The answer to a question of the run before must not be taken for one to the question at hand.
#[test]
fn late_answers_to_a_former_run_are_not_believed() {
    let mut world = settled(37, "kv_max_value_bytes = 3\n");
    let (leader, node, _) = roles(&world);
    assert!(world.ask(leader, put("k", "old"), 1000).is_ok());
    world.repeats = true;
    assert_eq!(value(world.ask(node, get("k", true), 10)), some("old"));
    assert_eq!(kind(&world.ask(node, put("k", "long"), 10)), FailureKind::InvalidValue);
    world.crash(node);
    world.keep_late();
    world.boot(node, &[1, 2, 3]);
    world.run_ms(1000);
    world.cut_off(leader, node);
    assert!(world.ask(leader, put("k", "new"), 1000).is_ok());
    world.cut_off(node, leader);
    let read = world.begin(node, get("k", true), 5000);
    let write = world.begin(node, put("l", "v"), 5000);
    world.heal_links();
    world.say_kept();
    assert_eq!(value(world.wait(node, read, 5000)), some("new"));
    assert!(world.wait(node, write, 5000).is_ok());
}

/// A client of the cluster that misfortune befalls: writes each key once, and reads all of them.
#[derive(Default)]
struct Clients {
    /// What each key came to: `None`: not known.
    fates: BTreeMap<String, Option<bool>>,
    writes: Vec<(i64, u64, String)>,
    /// Reads under way, and what each must see: what was confirmed or seen before it began.
    reads: Vec<(i64, u64, BTreeSet<String>)>,
    seen: BTreeSet<String>,
    reads_done: usize,
}

impl Clients {
    fn ask(&mut self, world: &mut World, key: String, value: &str) {
        let node = 1 + world.random(3) as i64;
        if !world.is_up(node) {
            return;
        }
        let timeout_ms = 100 + world.random(3000) as u32;
        let keys = Request::Keys { prefix: String::new(), consistent: true };
        let token = world.begin(node, keys, timeout_ms);
        self.reads.push((node, token, self.seen.clone()));
        let token = world.begin(node, cas(&key, None, value), timeout_ms);
        self.fates.insert(key.clone(), None);
        self.writes.push((node, token, key));
    }

    fn hear(&mut self, world: &World) {
        let Clients { fates, writes, reads, seen, reads_done } = self;
        writes.retain(|(node, token, key)| {
            let Some(answer) = world.answer(*node, *token) else { return true };
            let fate = match answer {
                Ok(done) => {
                    assert!(done.value, "{key} was there before it was made");
                    seen.insert(key.clone());
                    Some(true)
                }
                Err(failure) if failure.kind == FailureKind::OutcomeUnknown => None,
                Err(_) => Some(false),
            };
            fates.insert(key.clone(), fate);
            false
        });
        reads.retain(|(node, token, before)| {
            let Some(answer) = world.answer(*node, *token) else { return true };
            if let Ok(Done { found: Found::Keys(keys), .. }) = answer {
                let keys: BTreeSet<String> = keys.into_iter().collect();
                let missing: Vec<&String> = before.difference(&keys).collect();
                assert!(missing.is_empty(), "node {node} did not see {missing:?}");
                seen.extend(keys);
                *reads_done += 1;
            }
            false
        });
    }

    fn check(&self, items: &BTreeMap<String, Item>) {
        for (key, fate) in &self.fates {
            let there = items.get(key).map(|item| item.version);
            match fate {
                Some(true) => assert_eq!(there, Some(1), "{key} was confirmed"),
                Some(false) => assert_eq!(there, None, "{key} was refused"),
                None => assert!(there.is_none_or(|version| version == 1), "{key}"),
            }
        }
    }
}

/// What was confirmed is there, made once; what failed for certain is not; of the rest, either. A
/// consistent read sees whatever was confirmed, or read, before it began.
#[test]
fn whatever_crashes_and_is_said_twice_each_change_is_made_once_and_reads_see_it() {
    let (mut confirmed, mut refused, mut reads) = (0, 0, 0);
    for seed in 0..30 {
        let full = seed % 3 == 0;
        let mut world = settled(seed, if full { "kv_max_store_bytes = 65536\n" } else { "" });
        world.repeats = true;
        let mut clients = Clients::default();
        let value = "v".repeat(if full { 2000 } else { 1 });
        for round in 0..300 {
            if round % 5 == 0 {
                world.misfortune(&[1, 2, 3]);
            }
            clients.ask(&mut world, format!("{round}"), &value);
            clients.ask(&mut world, format!("{round} too"), &value);
            world.run_ms(50);
            clients.hear(&world);
        }
        world.heal();
        world.run_until_leader();
        world.run_ms(5000);
        clients.hear(&world);
        let items = items(&mut world, 1);
        clients.check(&items);
        if full {
            let bytes = |(key, item): (&String, &Item)| item_bytes(key, &item.value);
            assert!(items.iter().map(bytes).sum::<u64>() <= 65536, "seed {seed}");
        }
        let fates = |of| clients.fates.values().filter(|fate| **fate == of).count();
        confirmed += fates(Some(true));
        refused += fates(Some(false));
        reads += clients.reads_done;
    }
    let enough = confirmed > 2000 && refused > 2000 && reads > 4000;
    assert!(enough, "{confirmed} confirmed, {refused} refused, {reads} reads");
}
