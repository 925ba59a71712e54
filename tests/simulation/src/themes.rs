//! Faults of one family, so close to one another that two of them meet within moments: a second
//! failover while the first is not over, a restart just after a server froze. A mix of everything
//! has each of these, and seldom both at once.

use crate::mix::{FAULTS, Fault, Mix, WISHES, Wish};
use crate::random::Random;

const MS: u64 = 1_000_000;

/// What a seed has much of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Theme {
    /// Nothing in particular.
    Anything,
    /// The primary dies together with standbys that have what it committed; others lag.
    Copies,
    /// Members come and go while standbys lag, and primaries die.
    Voters,
    /// The mode is switched around the deaths of primaries, and their successors die early.
    Modes,
    /// The primary's server commits on while its successor is sought, and who answered starts anew.
    Freezes,
}

impl Theme {
    /// Of a seed: two of five have one.
    pub fn of_seed(random: &mut Random) -> Theme {
        let (none, theme) = (random.below(5) >= 2, random.below(4));
        match theme {
            _ if none => Theme::Anything,
            0 => Theme::Copies,
            1 => Theme::Voters,
            2 => Theme::Modes,
            _ => Theme::Freezes,
        }
    }

    /// Makes of a mix one with this theme.
    pub fn shape(self, mix: &mut Mix, random: &mut Random) {
        if self == Theme::Anything {
            return;
        }
        mix.integration = true;
        mix.auto_failover = true;
        mix.synchronous = true;
        mix.grace_ms = 0;
        mix.write_every_ns = random.scaled(10, 80) * MS;
        mix.promotion_ms = random.scaled(10, 300);
        mix.fault_every_ns = random.scaled(500, 3000) * MS;
        mix.lasts_ns = random.scaled(2000, 8000) * MS;
        // What belongs to the theme is chosen some ten times as often as all the rest.
        mix.faults = mix.faults.map(|weight| weight.min(2));
        mix.wishes = mix.wishes.map(|weight| weight.min(2));
        match self {
            Theme::Anything => {}
            Theme::Copies => {
                mix.recovery_ms = (300, 4000);
                mix.often(&[(Fault::StallReceiver, 60), (Fault::LoseCopies, 40)], &[]);
            }
            Theme::Voters => {
                mix.wish_every_ns = random.scaled(50, 400) * MS;
                mix.leader_ppm = 700_000;
                let faults = [(Fault::StallReceiver, 60), (Fault::Kill, 40)];
                mix.often(&faults, &[(Wish::Remove, 40), (Wish::Add, 20)]);
            }
            Theme::Modes => {
                mix.synchronous = random.coin();
                mix.leader_ppm = 700_000;
                mix.slow_names_ppm = 500_000;
                mix.opened_dies_ppm = 300_000;
                mix.backend_stops_ppm = random.pick(&[2_000, 100_000]);
                let faults = [
                    (Fault::SwitchMode, 40),
                    (Fault::StallReceiver, 30),
                    (Fault::Isolate, 15),
                    (Fault::Kill, 15),
                ];
                mix.often(&faults, &[]);
            }
            Theme::Freezes => {
                mix.heartbeat_ms = 150;
                mix.election_ms = 150 * random.between(6, 14) as u32;
                mix.recovery_ms = (2, 50);
                mix.frozen_dies_ppm = random.pick(&[0, 300_000, 600_000]);
                mix.often(&[(Fault::RestartWorker, 60), (Fault::StallReceiver, 20)], &[]);
            }
        }
    }
}

impl Mix {
    /// Makes some of what happens, and of what is asked for, as frequent as that.
    fn often(&mut self, faults: &[(Fault, u64)], wishes: &[(Wish, u64)]) {
        for (fault, weight) in faults {
            let at = FAULTS.iter().position(|other| other == fault).expect("one of them");
            self.faults[at] = *weight;
        }
        for (wish, weight) in wishes {
            let at = WISHES.iter().position(|other| other == wish).expect("one of them");
            self.wishes[at] = *weight;
        }
    }
}
