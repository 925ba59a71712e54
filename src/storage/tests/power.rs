//! Power failures at any point of generated histories: what comes back is what was promised, or
//! that and the batch then on its way, and nothing else.

use super::super::testing::{Fault, Loss, Random};
use super::*;

const HISTORIES: u64 = 400;

/// A node as it may live: terms grow, entries are appended and uncommitted ones replaced.
struct Life {
    random: Random,
    state: State,
}

impl Life {
    /// What the next save has.
    fn next(&mut self) -> (Option<HardState>, Vec<Entry>) {
        let (mut hard_state, entries) = self.state.clone();
        let mut last = entries.len() as u64;
        let mut new = Vec::new();
        if self.random.below(3) == 0 {
            hard_state.term = Term(hard_state.term.0 + 1);
            hard_state.vote = NodeId::new(self.random.below(4) as i64);
            let committed = hard_state.commit.0;
            last = committed + self.random.below(last - committed + 1);
        }
        let term = hard_state.term.0.max(1);
        hard_state.term = Term(term);
        for _ in 0..self.random.below(4) {
            last += 1;
            new.push(entry(term, last, self.random.below(1200) as usize));
        }
        if new.is_empty() {
            last = entries.len() as u64;
        }
        let commit = hard_state.commit.0;
        hard_state.commit = LogIndex(commit + self.random.below(last - commit + 1));
        (
            (self.random.below(4) > 0 || hard_state.term != self.state.0.term)
                .then_some(hard_state),
            new,
        )
    }
}

fn loss(random: &mut Random, disk: &MemDisk) -> Loss {
    match random.below(3) {
        0 => Loss::Keep(usize::MAX),
        1 => Loss::Keep(random.below(disk.unsynced_bytes() as u64 + 1) as usize),
        _ => Loss::Sectors(random.number()),
    }
}

#[test]
fn no_power_failure_loses_a_promise_or_invents_anything() {
    let (mut cuts, mut torn, mut kept, mut lost) = (0, 0, 0, 0);
    for seed in 0..HISTORIES {
        let disk = MemDisk::new();
        let mut life = Life { random: Random::new(seed), state: State::default() };
        for _ in 0..4 {
            // The power fails at this operation of the disk, be it a write, a sync or a name.
            disk.fail_after(life.random.below(16), Fault::NoSpace(usize::MAX));
            let Ok((mut storage, recovered)) = open(&disk) else {
                disk.power_cut(loss(&mut life.random, &disk));
                continue;
            };
            assert_eq!(state(&recovered), life.state, "seed {seed}");
            let mut tried = life.state.clone();
            loop {
                let (hard_state, entries) = life.next();
                follow(&mut tried, hard_state, &entries);
                if storage.save(hard_state.as_ref(), &entries, true).is_err() {
                    break;
                }
                life.state = tried.clone();
            }
            disk.power_cut(loss(&mut life.random, &disk));
            cuts += 1;
            let (_, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            torn += usize::from(recovered.torn.is_some());
            let found = state(&recovered);
            assert!(found == life.state || found == tried, "seed {seed}");
            if tried != life.state {
                kept += usize::from(found == tried);
                lost += usize::from(found == life.state);
            }
            life.state = found;
        }
    }
    // The test would prove nothing if these did not come up.
    assert!(cuts > 1000 && torn > 50 && kept > 50 && lost > 50, "{cuts} {torn} {kept} {lost}");
}
