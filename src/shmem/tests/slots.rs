//! Command slots: the way round, and every way off it.

use super::*;
use crate::shmem::slots::State;
use std::sync::atomic::AtomicU64;
use std::thread;

fn slots() -> &'static Slots {
    shared(SHMEM_BYTES_MIN).slots()
}

/// What a backend does with a slot just claimed.
fn submit<'a>(slot: SlotHandle<'a>, bytes: &[u8]) -> Call<'a> {
    Call::submit(slot, bytes.to_vec()).unwrap()
}

/// A call from the process `pid`, whose PGPROC number is the same.
fn call<'a>(slots: &'a Slots, pid: i32, bytes: &[u8]) -> Call<'a> {
    submit(slots.claim(pid, pid).unwrap(), bytes)
}

/// What the worker finds, and whom it wakes meanwhile.
fn serve(desk: &mut Desk) -> (Vec<Taken>, Vec<i32>) {
    let mut woken = Vec::new();
    let taken = desk.serve(0, |procno| woken.push(procno));
    (taken, woken)
}

/// The only request that the worker finds.
fn take(desk: &mut Desk) -> Taken {
    let (mut taken, _) = serve(desk);
    assert_eq!(taken.len(), 1);
    taken.remove(0)
}

fn long(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 31 + n / 256) as u8).collect()
}

#[test]
fn a_request_goes_round() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    let slot = slots.claim(1234, 56).unwrap();
    assert_eq!(serve(&mut desk), (vec![], vec![]), "claimed is not yet asked");
    let id = slot.id();
    let mut call = submit(slot, b"ping");
    assert_eq!(call.poll(), Poll::Waiting);
    assert!(!call.slot().was_taken());
    let (taken, woken) = serve(&mut desk);
    assert_eq!(taken, [Taken { id, pid: 1234, bytes: b"ping".to_vec() }]);
    assert_eq!(woken, [], "nothing for it to see");
    assert!(call.slot().was_taken());
    assert_eq!(call.poll(), Poll::Waiting);
    assert_eq!(serve(&mut desk).0, [], "taken only once");
    assert_eq!(SlotId::from_token(id.token()), id);
    assert_eq!(desk.answer(id, b"pong".to_vec(), 0), Some(56));
    assert!(!desk.is_handing_out(id), "that was all of it");
    assert_eq!(desk.answer(id, b"again".to_vec(), 0), None, "answered only once");
    assert_eq!(call.poll(), Poll::Answered(b"pong".to_vec()));
    drop(call);
    assert_eq!(slots.in_use(), 0);
}

#[test]
fn a_late_answer_is_dropped_even_if_the_slot_is_in_use_again() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    let given_up = call(slots, 1, b"first");
    let first = take(&mut desk);
    drop(given_up);
    assert_eq!(desk.answer(first.id, b"late".to_vec(), 0), None);
    // Until the same slot comes round again.
    let next = loop {
        let slot = slots.claim(1, 11).unwrap();
        if slot.id().index == first.id.index {
            break slot;
        }
    };
    assert_ne!(next.id().generation, first.id.generation);
    let mut next = submit(next, b"second");
    assert_eq!(desk.answer(first.id, b"late".to_vec(), 0), None);
    let second = take(&mut desk);
    assert_eq!(second.bytes, b"second", "the late answer lies in the next one's request");
    assert_eq!(desk.answer(first.id, b"late".to_vec(), 0), None);
    assert_eq!(next.poll(), Poll::Waiting);
    assert_eq!(desk.answer(second.id, b"right".to_vec(), 0), Some(11));
    assert_eq!(next.poll(), Poll::Answered(b"right".to_vec()));
}

#[test]
fn a_request_given_up_before_it_is_taken_never_reaches_the_worker() {
    let slots = slots();
    drop(call(slots, 1, b"never mind"));
    assert_eq!(serve(&mut Desk::new(slots)).0, []);
}

#[test]
fn there_are_as_many_slots_as_promised_and_all_come_back() {
    let slots = slots();
    let held: Vec<_> = (0..SLOTS as i32).map(|pid| call(slots, pid + 1, b"x")).collect();
    assert!(slots.claim(999, 0).is_none());
    assert_eq!(serve(&mut Desk::new(slots)).0.len(), SLOTS);
    drop(held);
    assert_eq!(slots.in_use(), 0);
    assert!(slots.claim(999, 0).is_some());
}

#[test]
fn a_request_of_two_parts_arrives_whole_and_a_longer_one_not_at_all() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    let too_long = Call::submit(slots.claim(1, 1).unwrap(), long(REQUEST_BYTES_MAX + 1));
    assert_eq!(too_long.unwrap_err(), SubmitError::TooLong);
    assert_eq!(slots.in_use(), 0);
    for len in [0, 1, PART_BYTES_MAX, PART_BYTES_MAX + 1, REQUEST_BYTES_MAX] {
        let mut call = call(slots, 7, &long(len));
        if len > PART_BYTES_MAX {
            assert_eq!(serve(&mut desk), (vec![], vec![7]), "it is to send on");
            assert!(!call.slot().was_taken());
            assert_eq!(desk.held_bytes(), PART_BYTES_MAX);
            assert_eq!(call.poll(), Poll::Moved);
        }
        assert_eq!(call.poll(), Poll::Waiting);
        assert_eq!(take(&mut desk).bytes, long(len));
        assert_eq!(desk.held_bytes(), 0);
    }
}

#[test]
fn who_gives_up_between_two_parts_of_a_request_leaves_nothing_behind() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    // One slot is left, so that each claim gets that very one.
    let _held: Vec<_> = (1..SLOTS).map(|_| slots.claim(999, 0).unwrap()).collect();
    let given_up = call(slots, 1, &long(REQUEST_BYTES_MAX));
    serve(&mut desk);
    drop(given_up);
    let _next = call(slots, 2, b"short");
    assert_eq!(take(&mut desk).bytes, b"short");
    assert_eq!(desk.held_bytes(), 0);
}

#[test]
fn a_long_answer_goes_out_in_parts() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    for parts in 1..=5 {
        for len in [parts * PART_BYTES_MAX, parts * PART_BYTES_MAX + 1] {
            let mut call = call(slots, 9, b"all");
            let id = take(&mut desk).id;
            assert_eq!(desk.answer(id, long(len), 0), Some(9));
            let mut moved = 0;
            let answer = loop {
                match call.poll() {
                    Poll::Moved => moved += 1,
                    Poll::Answered(bytes) => break bytes,
                    other => panic!("{other:?}"),
                }
                assert!(desk.is_handing_out(id));
                assert_eq!(call.poll(), Poll::Waiting);
                assert_eq!(serve(&mut desk), (vec![], vec![9]));
            };
            assert!(answer == long(len), "{len} bytes came otherwise");
            assert_eq!(moved, len.div_ceil(PART_BYTES_MAX) - 1);
            assert!(!desk.is_handing_out(id));
            assert_eq!(desk.held_bytes(), 0);
        }
    }
    assert_eq!(slots.in_use(), 0);
}

#[test]
fn the_rest_of_an_answer_is_forgotten_with_who_asked() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    // Before the first part is read, and while the next is awaited.
    for polls in [0, 1] {
        let mut call = call(slots, 1, b"all");
        let id = take(&mut desk).id;
        desk.answer(id, long(5 * PART_BYTES_MAX), 0).unwrap();
        for _ in 0..polls {
            assert_eq!(call.poll(), Poll::Moved);
        }
        drop(call);
        assert_eq!(serve(&mut desk), (vec![], vec![]));
        assert_eq!(desk.held_bytes(), 0);
        assert!(!desk.is_handing_out(id));
        assert_eq!(slots.in_use(), 0);
    }
}

#[test]
fn a_backend_that_stands_still_in_the_middle_loses_the_rest() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    const MINUTE_NS: u64 = 60_000_000_000;
    let mut call = call(slots, 5, b"all");
    let id = take(&mut desk).id;
    desk.answer(id, long(5 * PART_BYTES_MAX), 1000).unwrap();
    let mut woken = Vec::new();
    // As long as it goes on asking it has a minute for each part.
    assert_eq!(call.poll(), Poll::Moved);
    desk.serve(MINUTE_NS, |procno| woken.push(procno));
    assert_eq!(call.poll(), Poll::Moved);
    desk.serve(2 * MINUTE_NS - 1, |procno| woken.push(procno));
    desk.serve(3 * MINUTE_NS - 2, |procno| woken.push(procno));
    assert_eq!(woken, [5, 5]);
    assert!(desk.is_handing_out(id));
    desk.serve(3 * MINUTE_NS - 1, |procno| woken.push(procno));
    assert_eq!(desk.held_bytes(), 0);
    assert_eq!(woken, [5, 5, 5]);
    assert_eq!(call.poll(), Poll::Abandoned);
}

#[test]
fn the_slot_of_a_process_that_is_gone_is_reclaimed_in_any_state() {
    let slots = slots();
    let mut desk = Desk::new(slots);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id() as i32;
    child.wait().unwrap();
    let own = sys::own_pid();
    let _mine = call(slots, own, b"mine");
    let claimed = slots.claim(dead, 2).unwrap();
    let mut requested = call(slots, dead, b"r");
    let mut answered = call(slots, dead, b"a");
    let (taken, _) = serve(&mut desk);
    assert_eq!(taken.len(), 3);
    desk.answer(answered.slot().id(), long(2 * PART_BYTES_MAX), 0).unwrap();
    assert_eq!(slots.reclaim(sys::pid_in_use), 3);
    assert_eq!(slots.in_use(), 1, "the living keep theirs");
    assert_eq!((requested.poll(), answered.poll()), (Poll::Abandoned, Poll::Abandoned));
    assert_eq!(desk.answer(requested.slot().id(), b"x".to_vec(), 0), None);
    serve(&mut desk);
    assert_eq!(desk.held_bytes(), 0);
    // A handle whose slot was taken away must not free its next owner's.
    let next: Vec<_> = (1..SLOTS).map(|_| slots.claim(own, 4).unwrap()).collect();
    drop((claimed, requested, answered));
    assert_eq!(slots.in_use(), SLOTS);
    drop(next);
}

#[test]
fn a_new_worker_frees_those_whom_the_old_one_left_waiting() {
    let slots = slots();
    let mut old = Desk::new(slots);
    let mut taken = call(slots, 41, b"lost");
    let mut reading = call(slots, 42, b"half an answer");
    let mut asking = call(slots, 43, b"half an answer");
    let mut answered = call(slots, 44, b"all");
    let mut sending = call(slots, 45, &long(REQUEST_BYTES_MAX));
    let mut writing = call(slots, 46, b"died in the middle");
    let dropped = call(slots, 47, b"died, and the other, too");
    serve(&mut old);
    old.answer(reading.slot().id(), long(3 * PART_BYTES_MAX), 0).unwrap();
    old.answer(asking.slot().id(), long(3 * PART_BYTES_MAX), 0).unwrap();
    assert_eq!(asking.poll(), Poll::Moved);
    old.answer(answered.slot().id(), b"whole".to_vec(), 0).unwrap();
    slots.leave_answering(writing.slot().id());
    slots.leave_answering(dropped.slot().id());
    drop(dropped);
    assert_eq!(slots.in_use(), 7, "its worker writes there");
    let mut waiting = call(slots, 48, b"not lost");

    let mut woken = slots.abandon_taken();
    woken.sort_unstable();
    assert_eq!(woken, [41, 42, 43, 46]);
    for call in [&mut taken, &mut reading, &mut asking, &mut writing] {
        assert_eq!(call.poll(), Poll::Abandoned);
    }
    assert_eq!(answered.poll(), Poll::Answered(b"whole".to_vec()));
    assert_eq!(sending.poll(), Poll::Moved);
    assert_eq!(waiting.poll(), Poll::Waiting);
    let mut new = Desk::new(slots);
    let (requests, woken) = serve(&mut new);
    let bytes: Vec<_> = requests.into_iter().map(|taken| taken.bytes).collect();
    assert_eq!(bytes, [b"not lost"], "the new worker takes what was not taken, and no half");
    assert_eq!(woken, [45]);
    assert_eq!(sending.poll(), Poll::Abandoned);
    drop((taken, reading, asking, answered, sending, writing, waiting));
    assert_eq!(slots.in_use(), 0);
}

#[test]
fn a_backend_that_gives_up_while_it_is_answered_leaves_the_slot_to_the_worker() {
    let slots = slots();
    let _held: Vec<_> = (1..SLOTS).map(|_| slots.claim(999, 0).unwrap()).collect();
    let given_up = call(slots, 1, b"first");
    take(&mut Desk::new(slots));
    slots.leave_answering(given_up.slot().id());
    drop(given_up);
    assert!(slots.claim(2, 2).is_none(), "its request would be written over");
    assert_eq!(slots.reclaim(|_| false), SLOTS - 1);
    assert_eq!(slots.in_use(), 1);
    slots.abandon_taken();
    assert_eq!(slots.in_use(), 0);
}

#[test]
fn a_request_that_gives_way_to_anothers_while_it_is_copied_is_not_taken() {
    let slots = slots();
    // One slot is left, so that the next claim gets that very one.
    let _held: Vec<_> = (1..SLOTS).map(|_| slots.claim(999, 0).unwrap()).collect();
    for submitted_again in [false, true] {
        let first = call(slots, 1, b"first");
        let (id, word) = slots.calling().next().unwrap();
        slots.copy_request(id);
        drop(first);
        let slot = slots.claim(1, 0).unwrap();
        let _second = submitted_again.then(|| submit(slot, b"second"));
        assert_eq!(slots.step_taken(id, word, State::Taken), None);
        let (taken, _) = serve(&mut Desk::new(slots));
        assert_eq!(!taken.is_empty(), submitted_again);
    }
}

#[test]
fn a_few_have_their_turn_and_the_others_wait_for_theirs() {
    let id = |index| SlotId { index, generation: 1 };
    let mut turns = Turns::new(2);
    for index in 0..6 {
        turns.wait(id(index), index * 10);
    }
    let all = |_| true;
    assert_eq!(turns.next(all, all), Some((id(0), 0)));
    assert_eq!(turns.next(all, all), Some((id(1), 10)));
    assert_eq!(turns.next(all, all), None);
    // Who gave up in the line is passed over.
    assert_eq!(turns.next(|of| of != id(2), |of| of != id(0)), Some((id(3), 30)));
    assert_eq!(turns.next(all, all), None);
    assert_eq!(turns.next(all, |_| false), Some((id(4), 40)));
    assert_eq!(turns.next(all, |_| false), Some((id(5), 50)));
    assert_eq!(turns.next(all, |_| false), None);
}

/// What the backends of the next test ask: who, which of its requests, and bytes by the number, so
/// that a mixture of two shows. Some are longer than a part.
fn body(pid: i32, n: u32) -> Vec<u8> {
    let len = match n % 7 {
        0 => PART_BYTES_MAX + n as usize % 5000,
        _ => n as usize % 900,
    };
    let mut body = format!("{pid}:{n}:").into_bytes();
    body.resize(body.len() + len, b'a' + (n % 26) as u8);
    body
}

/// The pid and number that a whole request names.
fn names(body_bytes: &[u8]) -> (i32, u32) {
    let mut fields = body_bytes.split(|byte| *byte == b':');
    let mut field = || std::str::from_utf8(fields.next().unwrap()).unwrap();
    let (pid, n) = (field().parse().unwrap(), field().parse().unwrap());
    assert!(body(pid, n) == body_bytes, "a torn request");
    (pid, n)
}

/// The answer to it: long ones are of several parts.
fn reply(pid: i32, n: u32) -> Vec<u8> {
    body(pid, n).repeat(1 + n as usize % 3)
}

#[test]
fn backends_that_give_up_at_random_never_get_anothers_answer() {
    const BACKENDS: i32 = 6;
    const REQUESTS: u32 = 2000;
    let slots = slots();
    // Few slots for many, so that one is taken again at once.
    let _held: Vec<_> = (3..SLOTS).map(|_| slots.claim(999, 0).unwrap()).collect();
    let done = AtomicBool::new(false);
    let (answered, given_up) = (AtomicU64::new(0), AtomicU64::new(0));
    let (answers, losses) = (&answered, &given_up);
    let backend = move |pid: i32| {
        for n in 0..REQUESTS {
            let slot = loop {
                match slots.claim(pid, pid) {
                    Some(slot) => break slot,
                    None => thread::yield_now(),
                }
            };
            let mut call = submit(slot, &body(pid, n));
            let patience = if n % 3 == 0 { n % 20 } else { u32::MAX };
            let mut polls = 0;
            let counter = loop {
                match call.poll() {
                    Poll::Answered(bytes) => {
                        assert!(bytes == reply(pid, n), "another's answer");
                        break answers;
                    }
                    Poll::Abandoned => panic!("nobody abandons"),
                    Poll::Waiting if polls == patience => break losses,
                    Poll::Waiting => polls += 1,
                    Poll::Moved => {}
                }
                thread::yield_now();
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let backends: Vec<_> =
            (1..=BACKENDS).map(|pid| scope.spawn(move || backend(pid))).collect();
        let worker = scope.spawn(|| {
            let mut desk = Desk::new(slots);
            while !done.load(Ordering::Relaxed) {
                for taken in desk.serve(0, |_| ()) {
                    let (pid, n) = names(&taken.bytes);
                    assert_eq!(pid, taken.pid, "a torn request");
                    desk.answer(taken.id, reply(pid, n), 0);
                }
                thread::yield_now();
            }
            desk.serve(0, |_| ());
            desk.held_bytes()
        });
        let finish = Finish(&done);
        let results: Vec<_> = backends.into_iter().map(|backend| backend.join()).collect();
        drop(finish);
        assert_eq!(worker.join().unwrap(), 0, "bytes held for nobody");
        for result in results {
            result.unwrap();
        }
    });
    let (answered, given_up) = (answered.into_inner(), given_up.into_inner());
    assert_eq!(answered + given_up, u64::from(REQUESTS) * BACKENDS as u64);
    assert!(answered >= given_up, "{answered} answered, {given_up} not");
    assert!(given_up > 0, "nobody gave up");
    assert_eq!(slots.in_use(), SLOTS - 3);
}
