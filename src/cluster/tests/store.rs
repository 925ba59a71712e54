//! Tests of the store: what each change does, and that a request is carried out once.

use super::*;

fn put(key: &str, value: &str) -> Change {
    Change::Put { key: key.to_owned(), value: value.to_owned() }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned() }
}

fn cas(key: &str, expected: Option<&str>, value: &str) -> Change {
    let expected = expected.map(str::to_owned);
    Change::Cas { key: key.to_owned(), expected, value: value.to_owned() }
}

/// Request `serial` of node 1's first run, which waits for nothing before it.
fn request(serial: u64) -> RequestId {
    RequestId { node: node(1), directory: uuid(1), session: 1, serial, oldest: serial }
}

/// What comes of request `id`.
fn ask(state: &mut ClusterState, id: RequestId, change: Change) -> Option<bool> {
    match apply(state, Command::Store { id, change }) {
        Applied::Stored { id: of, outcome } if of == id => outcome,
        other => panic!("{other:?}"),
    }
}

/// What comes of `change`, asked for once, as the next request of node 1.
fn change(state: &mut ClusterState, change: Change) -> Option<bool> {
    let newest = |session: &Session| session.outcomes.last_key_value().map_or(0, |(s, _)| *s);
    let serial = 1 + state.sessions.get(node(1)).map_or(0, newest);
    ask(state, request(serial), change)
}

fn value<'a>(state: &'a ClusterState, key: &str) -> Option<&'a str> {
    state.store.get(key).map(|item| item.value.as_str())
}

/// That request `id` changes neither store nor sessions.
#[track_caller]
fn is_over(state: &ClusterState, id: RequestId) {
    let mut then = state.clone();
    assert_eq!(ask(&mut then, id, put("never", "")), None);
    assert_eq!(then, ClusterState { applied: then.applied, ..state.clone() });
}

#[test]
fn an_item_says_how_often_and_where_it_changed() {
    let mut state = after([genesis()]);
    let id = |serial| request(serial);
    let mut at = |term: u64, index: u64, serial, change| {
        let entry = EntryId { term: Term(term), index: LogIndex(index) };
        state.apply(entry, Some(Command::Store { id: id(serial), change }));
        state.store.get("k").map(|item| (item.version, item.mod_index.0, item.term.0))
    };
    assert_eq!(at(1, 5, 1, put("k", "v")), Some((1, 5, 1)));
    assert_eq!(at(3, 8, 2, put("k", "v")), Some((2, 8, 3)), "the same value is a change, too");
    assert_eq!(at(3, 9, 3, cas("k", Some("v"), "w")), Some((3, 9, 3)));
    assert_eq!(at(4, 10, 4, cas("k", Some("v"), "x")), Some((3, 9, 3)), "a refused cas is none");
    assert_eq!(at(4, 11, 5, delete("k")), None);
    assert_eq!(at(4, 12, 6, put("k", "v")), Some((1, 12, 4)), "created anew");
}

#[test]
fn delete_tells_whether_there_was_something() {
    let mut state = after([genesis()]);
    assert_eq!(change(&mut state, delete("k")), Some(false));
    assert_eq!(change(&mut state, put("k", "")), Some(true));
    assert_eq!(change(&mut state, delete("k")), Some(true));
    assert_eq!(change(&mut state, delete("k")), Some(false));
}

#[test]
fn cas_changes_only_what_is_as_expected() {
    let mut state = after([genesis()]);
    assert_eq!(change(&mut state, cas("k", Some(""), "v")), Some(false), "no key is no empty one");
    assert_eq!(change(&mut state, cas("k", None, "v")), Some(true));
    assert_eq!(change(&mut state, cas("k", None, "w")), Some(false), "it exists");
    assert_eq!(change(&mut state, cas("k", Some("w"), "x")), Some(false));
    assert_eq!(value(&state, "k"), Some("v"));
    assert_eq!(change(&mut state, cas("k", Some("v"), "w")), Some(true));
    assert_eq!(value(&state, "k"), Some("w"));
}

#[test]
fn keys_are_listed_by_prefix_in_byte_order() {
    let mut state = after([genesis()]);
    for key in ["b", "lock/2", "lock/1", "locker", "Zürich", "lock"] {
        change(&mut state, put(key, ""));
    }
    let keys = |prefix: &'static str| state.store.keys(prefix).cloned().collect::<Vec<_>>();
    assert_eq!(keys(""), ["Zürich", "b", "lock", "lock/1", "lock/2", "locker"]);
    assert_eq!(keys("lock"), ["lock", "lock/1", "lock/2", "locker"]);
    assert_eq!(keys("lock/"), ["lock/1", "lock/2"]);
    assert_eq!(keys("lock/3"), [""; 0]);
    assert_eq!(keys("zzz"), [""; 0]);
}

/// The count is kept along the way; a snapshot's reader counts anew.
#[test]
fn the_store_knows_its_size() {
    let mut state = after([genesis()]);
    let items = |state: &ClusterState| {
        let items = state.store.items().map(|(key, item)| (key.clone(), item.clone()));
        items.collect::<std::collections::BTreeMap<_, _>>()
    };
    for (asked, bytes) in [
        (put("ab", "xyz"), 69),
        (put("ab", "x"), 67),
        (cas("ab", Some("y"), "long value"), 67),
        (cas("ab", Some("x"), "long value"), 76),
        (put("c", ""), 76 + 65),
        (delete("ab"), 65),
        (delete("ab"), 65),
        (delete("c"), 0),
    ] {
        change(&mut state, asked.clone());
        assert_eq!(state.store.bytes(), bytes, "{asked:?}");
        assert_eq!(Store::from(items(&state)), state.store);
    }
}

#[test]
fn a_request_that_comes_twice_is_carried_out_once() {
    let mut state = after([genesis()]);
    assert_eq!(ask(&mut state, request(1), cas("k", None, "v")), Some(true));
    let mut then = state.clone();
    for _ in 0..2 {
        // Carried out anew, it would not be done: the key exists.
        assert_eq!(ask(&mut then, request(1), cas("k", None, "v")), Some(true));
        assert_eq!(then, ClusterState { applied: then.applied, ..state.clone() });
    }
    assert_eq!(ask(&mut state, request(2), delete("none")), Some(false));
    change(&mut state, put("none", ""));
    let open = RequestId { serial: 2, oldest: 2, ..request(2) };
    assert_eq!(ask(&mut state, open, delete("none")), None, "request 3 said that 2 is not open");
    assert_eq!(value(&state, "none"), Some(""));
}

#[test]
fn requests_are_carried_out_in_any_order() {
    let mut state = after([genesis()]);
    let id = |serial| RequestId { oldest: 1, ..request(serial) };
    assert_eq!(ask(&mut state, id(3), put("k", "3")), Some(true));
    assert_eq!(ask(&mut state, id(1), put("k", "1")), Some(true));
    assert_eq!(ask(&mut state, id(3), put("k", "3")), Some(true));
    assert_eq!(value(&state, "k"), Some("1"), "3 was carried out before");
}

#[test]
fn what_nobody_waits_for_is_forgotten_and_never_carried_out() {
    let mut state = after([genesis()]);
    for serial in 1..=10 {
        ask(&mut state, RequestId { oldest: 1, ..request(serial) }, put("k", ""));
    }
    let remembered = |state: &ClusterState| {
        let session = state.sessions.get(node(1)).unwrap();
        session.outcomes.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(remembered(&state).len(), 10);
    ask(&mut state, RequestId { oldest: 9, ..request(12) }, put("k", ""));
    assert_eq!(remembered(&state), [9, 10, 12]);
    // 8 was carried out once and 11 may yet be.
    is_over(&state, request(8));
    assert_eq!(ask(&mut state, RequestId { oldest: 9, ..request(11) }, delete("k")), Some(true));
    // A late one does not take back what a later one said.
    ask(&mut state, RequestId { oldest: 1, ..request(10) }, put("k", ""));
    is_over(&state, RequestId { oldest: 1, ..request(8) });
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut state = after([genesis()]);
    let id = |serial, oldest| RequestId { oldest, ..request(serial) };
    assert_eq!(ask(&mut state, id(OUTCOMES_MAX, 1), put("k", "")), Some(true));
    is_over(&state, id(OUTCOMES_MAX + 1, 1));
    is_over(&state, id(u64::MAX, 0));
    assert_eq!(ask(&mut state, id(OUTCOMES_MAX + 1, 2), put("k", "")), Some(true));
    for serial in 2..OUTCOMES_MAX {
        ask(&mut state, id(serial, 1), put("k", ""));
    }
    let session = state.sessions.get(node(1)).unwrap();
    assert_eq!(session.outcomes.len() as u64, OUTCOMES_MAX);
}

#[test]
fn a_later_run_ends_an_earlier_one() {
    let mut state = after([genesis()]);
    let id = |session, serial| RequestId { session, ..request(serial) };
    assert_eq!(ask(&mut state, id(3, 7), put("k", "first")), Some(true));
    assert_eq!(ask(&mut state, id(4, 1), put("k", "second")), Some(true), "numbers begin anew");
    is_over(&state, id(3, 7));
    is_over(&state, id(3, 8));
    let session = state.sessions.get(node(1)).unwrap();
    assert_eq!((session.session, session.outcomes.len()), (4, 1));
}

#[test]
fn another_directory_or_no_member_changes_nothing() {
    let mut state = after([genesis(), add(4)]);
    is_over(&state, RequestId { directory: uuid(9), ..request(1) });
    is_over(&state, RequestId { node: node(7), ..request(1) });
    is_over(&state, RequestId { node: node(4), directory: uuid(4), ..request(1) });
    apply(&mut state, Command::Update { member: member(4) });
    let own = RequestId { node: node(4), directory: uuid(4), ..request(1) };
    assert_eq!(ask(&mut state, own, put("k", "")), Some(true), "it has come with its directory");
}

#[test]
fn removal_ends_a_run_for_good() {
    let mut state = after([genesis()]);
    assert_eq!(ask(&mut state, request(1), put("k", "")), Some(true));
    apply(&mut state, Command::Remove { node: node(1) });
    assert!(state.sessions.get(node(1)).unwrap().outcomes.is_empty());
    is_over(&state, request(2));

    // The same directory comes back: nothing of before its removal may be carried out again.
    apply(&mut state, add(1));
    apply(&mut state, Command::Update { member: member(1) });
    is_over(&state, request(1));
    is_over(&state, request(2));
    let next = RequestId { session: 2, ..request(1) };
    assert_eq!(ask(&mut state, next, put("k", "")), Some(true));
}

#[test]
fn another_directory_of_a_node_that_came_back_begins_anew() {
    let mut state = after([genesis()]);
    assert_eq!(ask(&mut state, RequestId { session: 9, ..request(5) }, put("k", "")), Some(true));
    apply(&mut state, Command::Remove { node: node(1) });
    apply(&mut state, add(1));
    let wiped = Member { directory: Some(uuid(0xee)), ..member(1) };
    apply(&mut state, Command::Update { member: wiped });
    let new = RequestId { directory: uuid(0xee), ..request(1) };
    assert_eq!(ask(&mut state, new, put("k", "")), Some(true), "its first run");
    is_over(&state, RequestId { session: 9, ..request(6) });
}

#[test]
fn before_genesis_there_is_no_store() {
    let command = Command::Store { id: request(1), change: put("k", "") };
    does_nothing(&ClusterState::default(), command);
}

#[test]
fn limits_are_told_apart() {
    let check = |change: Change| change.check(3, 4);
    assert_eq!(check(put("abc", "abcd")), Ok(()));
    assert_eq!(check(put("", "")), Err(LimitError::KeyEmpty));
    assert_eq!(check(delete("abcd")), Err(LimitError::KeyTooLong { bytes: 4, max: 3 }));
    assert_eq!(check(put("äö", "")), Err(LimitError::KeyTooLong { bytes: 4, max: 3 }));
    let long = Err(LimitError::ValueTooLong { bytes: 5, max: 4 });
    assert_eq!(check(put("a", "abcde")), long);
    assert_eq!(check(cas("a", None, "abcde")), long);
    assert_eq!(check(cas("a", Some("abcde"), "a")), long);
}
