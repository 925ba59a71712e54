//! The judge, judged.

use super::{Checked, History, Op, Ret};

fn put(value: &str) -> Op {
    Op::Put(value.to_owned())
}

fn cas(expected: &str, value: &str) -> Op {
    Op::Cas(Some(expected.to_owned()), value.to_owned())
}

fn read(value: &str) -> Ret {
    Ret::Value(Some(value.to_owned()))
}

/// One operation after another.
fn serial(steps: &[(Op, Ret)]) -> History {
    let mut history = History::default();
    for (op, ret) in steps {
        let ticket = history.begin("a", "k", op.clone());
        history.end(ticket, ret.clone());
    }
    history
}

#[test]
fn a_store_that_does_as_it_is_told_passes() {
    let steps = [
        (Op::Get, Ret::Value(None)),
        (Op::Delete, Ret::Done(false)),
        (Op::Cas(None, "1".to_owned()), Ret::Done(true)),
        (cas("2", "3"), Ret::Done(false)),
        (cas("1", "3"), Ret::Done(true)),
        (Op::Get, read("3")),
        (put("4"), Ret::Done(true)),
        (Op::Delete, Ret::Done(true)),
        (Op::Get, Ret::Value(None)),
    ];
    let checked = serial(&steps).check().unwrap();
    assert_eq!(checked, Checked { keys: 1, known: steps.len(), unknown: 0 });
}

#[test]
fn a_stale_read_is_found() {
    let steps = [(put("1"), Ret::Done(true)), (put("2"), Ret::Done(true)), (Op::Get, read("1"))];
    let violation = serial(&steps).check().unwrap_err();
    assert_eq!(violation.key, "k");
    assert!(violation.to_string().contains("Get -> Done(Value(Some(\"1\")))"), "{violation}");
}

#[test]
fn a_lost_write_is_found() {
    assert!(serial(&[(put("1"), Ret::Done(true)), (Op::Get, Ret::Value(None))]).check().is_err());
}

#[test]
fn a_change_applied_twice_is_found() {
    let mut history = History::default();
    let first = history.begin("a", "k", put("1"));
    history.end(first, Ret::Done(true));
    let second = history.begin("b", "k", put("2"));
    history.end(second, Ret::Done(true));
    // As if the first had been carried out once more.
    let reader = history.begin("c", "k", Op::Get);
    history.end(reader, read("1"));
    assert!(history.check().is_err());
}

#[test]
fn what_overlaps_may_go_either_way_but_only_once() {
    let mut history = History::default();
    let (a, b) = (history.begin("a", "k", put("1")), history.begin("b", "k", put("2")));
    let early = history.begin("c", "k", Op::Get);
    history.end(early, read("2"));
    let late = history.begin("c", "k", Op::Get);
    history.end(late, read("1"));
    history.end(a, Ret::Done(true));
    history.end(b, Ret::Done(true));
    assert!(history.check().is_ok());
    let back = history.begin("c", "k", Op::Get);
    history.end(back, read("2"));
    assert!(history.check().is_err(), "2, then 1, then 2 again");
}

#[test]
fn a_write_of_unknown_outcome_may_come_late_or_never() {
    let mut history = History::default();
    history.begin("a", "k", put("1"));
    for seen in [Ret::Value(None), Ret::Value(None), read("1"), read("1")] {
        let ticket = history.begin("b", "k", Op::Get);
        history.end(ticket, seen);
    }
    assert_eq!(history.check().unwrap(), Checked { keys: 1, known: 4, unknown: 1 });
    let gone = history.begin("b", "k", Op::Get);
    history.end(gone, Ret::Value(None));
    assert!(history.check().is_err(), "what was seen cannot be unseen");
}

#[test]
fn a_refused_write_that_shows_is_found() {
    let mut history = History::default();
    let refused = history.begin("a", "k", put("1"));
    history.refused(refused);
    assert!(history.check().is_ok());
    let ticket = history.begin("b", "k", Op::Get);
    history.end(ticket, read("1"));
    assert!(history.check().is_err());
}

#[test]
fn a_read_without_an_answer_constrains_nothing() {
    let mut history = History::default();
    history.begin("a", "k", Op::Get);
    assert_eq!(history.check().unwrap(), Checked { keys: 1, known: 0, unknown: 0 });
}

#[test]
fn keys_are_judged_apart() {
    let mut history = serial(&[(put("1"), Ret::Done(true))]);
    let other = history.begin("a", "other", Op::Get);
    history.end(other, Ret::Value(None));
    assert_eq!(history.check().unwrap().keys, 2);
}

#[test]
fn a_key_of_dozens_of_operations_with_some_unknown_is_judged_quickly() {
    let mut history = History::default();
    let mut value = "0".to_owned();
    for n in 1..=40 {
        let next = n.to_string();
        let writer = history.begin("a", "k", put(&next));
        let reader = history.begin("b", "k", Op::Get);
        history.end(reader, if n == 1 { Ret::Value(None) } else { read(&value) });
        history.end(writer, Ret::Done(true));
        if n % 10 == 0 {
            history.begin("c", "k", cas("never", "there"));
        }
        value = next;
    }
    assert!(history.check().is_ok());
}
