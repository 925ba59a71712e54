//! Whatever a runtime may do, in whatever order, with whatever failures in between: the storage
//! holds what the model of it holds. What fails is shortened to the least that does.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::super::testing::{Fault, Loss};
use super::model::{Act, Model, Rig};
use super::*;

/// Without PROPTEST_CASES, which runs more and others.
const CASES: u32 = 1500;

/// What happens next. The numbers choose from what is possible when it does.
#[derive(Clone, Debug)]
enum Step {
    Save { newer: u64, vote: u32, back: u64, sizes: Vec<usize>, commit: u64, named: bool },
    Mention { commit: u64 },
    Take { at: u64, bytes: usize },
    Compact { keep: u64 },
    Install { place: Place, newer: u64, bytes: usize },
    Reopen,
    Fail { after: u64, fault: Fault, loss: Loss },
    Cut(Loss),
}

/// Where a leader's snapshot ends.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// At an entry that the log has.
    Inside(u64),
    /// At one that contradicts the log.
    Against(u64),
    /// Behind the log.
    Beyond(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault = prop_oneof![
        6 => Just(Fault::Halt),
        1 => Just(Fault::Io),
        1 => (0..600usize).prop_map(Fault::NoSpace),
    ];
    let place = prop_oneof![
        any::<u64>().prop_map(Place::Inside),
        any::<u64>().prop_map(Place::Against),
        (0..50u64).prop_map(Place::Beyond),
    ];
    let newer = || prop_oneof![3 => Just(0u64), 1 => 1..3u64];
    let save =
        (newer(), 0..4u32, any::<u64>(), vec(0..400usize, 0..5), any::<u64>(), any::<bool>())
            .prop_map(|(newer, vote, back, sizes, commit, named)| Step::Save {
                newer,
                vote,
                back,
                sizes,
                commit,
                named,
            });
    let install = (place, newer(), 1..3000usize).prop_map(|(place, newer, bytes)| Step::Install {
        place,
        newer,
        bytes,
    });
    let failure = (0..14u64, fault, loss()).prop_map(|(after, fault, loss)| Step::Fail {
        after,
        fault,
        loss,
    });
    let step = prop_oneof![
        12 => save,
        1 => any::<u64>().prop_map(|commit| Step::Mention { commit }),
        3 => (any::<u64>(), 1..3000usize).prop_map(|(at, bytes)| Step::Take { at, bytes }),
        3 => any::<u64>().prop_map(|keep| Step::Compact { keep }),
        1 => install,
        1 => Just(Step::Reopen),
        3 => failure,
        1 => loss().prop_map(Step::Cut),
    ];
    vec(step, 1..40)
}

fn loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::Keep(usize::MAX)),
        (0..3000usize).prop_map(Loss::Keep),
        (0..3usize).prop_map(Loss::Names),
        any::<u64>().prop_map(Loss::Sectors),
    ]
}

impl Step {
    /// What a sound node may ask of a storage that holds `model`; `None` for what is not possible
    /// or is not an act.
    fn act(&self, model: &Model) -> Option<Act> {
        let known = model.known();
        let committed = model.committed().max(known.commit.0.min(model.last().index.0));
        let last = model.last().index.0;
        let pick = |number: u64, from: u64, to: u64| from + number % (to - from + 1);
        match self {
            Step::Save { newer, vote, back, sizes, commit, named } => {
                let hard_state = after(&known, *newer, *vote);
                let from = if *newer > 0 { pick(*back, committed, last) } else { last };
                let entries: Vec<Entry> = (from + 1..)
                    .zip(sizes)
                    .map(|(index, bytes)| entry(hard_state.term.0, index, *bytes))
                    .collect();
                let end = entries.last().map_or(last, |entry| entry.id.index.0);
                let commit = LogIndex(pick(*commit, committed, end));
                let named = *named || hard_state.term != known.term;
                Some(Act::Save(named.then_some(HardState { commit, ..hard_state }), entries))
            }
            Step::Mention { commit } => {
                let commit = LogIndex(pick(*commit, committed, last));
                Some(Act::Mention(HardState { commit, ..known }))
            }
            Step::Take { at, bytes } => {
                let durable = model.committed();
                let first = model.start.index.0 + 1;
                let at = (first <= durable).then(|| pick(*at, first, durable))?;
                let (meta, data) = snapshot(model.id_at(at)?, *bytes);
                Some(Act::Take(meta, data))
            }
            Step::Compact { keep } => {
                let covered = model.covered().index.0;
                Some(Act::Compact(model.id_at(pick(*keep, model.start.index.0, covered))?))
            }
            Step::Install { place, newer, bytes } => {
                let mut hard_state = after(&known, *newer, 0);
                let term = hard_state.term;
                let inside = |number| (committed < last).then(|| pick(number, committed + 1, last));
                let end = match *place {
                    Place::Inside(number) => model.id_at(inside(number)?)?,
                    Place::Against(number) => EntryId { term, index: LogIndex(inside(number)?) },
                    Place::Beyond(more) => EntryId { term, index: LogIndex(last + 1 + more) },
                };
                hard_state.commit = end.index;
                let (meta, data) = snapshot(end, *bytes);
                Some(Act::Install(meta, data, hard_state))
            }
            Step::Reopen | Step::Fail { .. } | Step::Cut(_) => None,
        }
    }
}

/// The hard state some terms later; within a term a vote stays.
fn after(known: &HardState, newer: u64, vote: u32) -> HardState {
    let term = (known.term.0 + newer).max(1);
    let fresh = newer > 0 || known.vote.is_none();
    let vote = if fresh { NodeId::new(vote.into()) } else { known.vote };
    HardState { term: Term(term), vote, commit: known.commit }
}

/// What came up: a property that never met a failure would prove little.
#[derive(Default, Debug)]
struct Met {
    acts: Cell<u32>,
    failed: Cell<u32>,
    compacted: Cell<u32>,
    dropped: Cell<u32>,
}

fn count(counter: &Cell<u32>, happened: bool) {
    counter.set(counter.get() + u32::from(happened));
}

fn live(steps: &[Step], met: &Met) {
    let mut rig = Rig::new(MemDisk::new(), SEGMENT_BYTES);
    assert!(rig.reopen());
    let mut loss = Loss::Keep(0);
    for step in steps {
        match step {
            Step::Reopen => recover(&mut rig, loss),
            Step::Cut(loss) => {
                rig.power_cut(*loss);
                recover(&mut rig, *loss);
            }
            Step::Fail { after, fault, loss: then } => {
                rig.disk.fail_after(*after, *fault);
                loss = *then;
            }
            _ => {
                let Some(act) = step.act(rig.model()) else { continue };
                let (segments, start) = (segments(&rig.disk), rig.model().start);
                let done = rig.act(&act);
                if !done {
                    recover(&mut rig, loss);
                }
                count(&met.acts, done);
                count(&met.failed, !done);
                count(&met.compacted, self::segments(&rig.disk) < segments);
                count(&met.dropped, rig.model().start != start);
                check_snapshot(&mut rig);
            }
        }
    }
    rig.disk.power_cut(Loss::Keep(0));
    recover(&mut rig, Loss::Keep(0));
}

/// Opens it until that succeeds: a fault passes, a halt ends with the power cut.
fn recover(rig: &mut Rig, loss: Loss) {
    while !rig.reopen() {
        if rig.disk.is_halted() {
            rig.power_cut(loss);
        }
    }
}

fn segments(disk: &MemDisk) -> usize {
    disk.names().iter().filter(|name| name.starts_with("log/")).count()
}

fn check_snapshot(rig: &mut Rig) {
    if let Some((meta, data)) = rig.model().snapshot.clone() {
        let (at, end) = (data.len() / 3, data.len().div_ceil(2));
        let part = rig.storage().snapshots().read(&meta, at as u64, end - at).unwrap();
        assert_eq!(part.as_deref(), Some(&data[at..end]));
    }
}

#[test]
fn the_storage_holds_what_its_model_holds() {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = if std::env::var_os("PROPTEST_CASES").is_some() {
        TestRunner::new(config)
    } else {
        config.cases = CASES;
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng)
    };
    let met = Met::default();
    let result = runner.run(&steps(), |steps| {
        live(&steps, &met);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let least = [&met.acts, &met.failed, &met.compacted, &met.dropped].map(Cell::get);
    assert!(least.iter().zip([9000, 900, 300, 200]).all(|(met, least)| *met > least), "{met:?}");
}
