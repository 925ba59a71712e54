//! The health checks that load balancers ask, as questions to one [`Moment`]. What is not known
//! for certain is a no.

use super::moment::Moment;
use crate::overview::{PgFacts, PgState};

/// A question with the answer yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It takes writes.
    Primary,
    /// It leads, by a lease that holds.
    Leader,
    /// It is a standby that can be read from.
    Replica,
    /// It can be read from.
    ReadOnly,
    /// It is a standby that commits may wait for.
    Sync,
    /// It is a standby that no commit waits for.
    Async,
    /// Its server answers.
    Health,
    /// It does its part: takes writes, or streams from who does.
    Readiness,
    /// ramd itself looks at its server.
    Liveness,
}

impl Check {
    /// The one at a path.
    pub fn at(path: &str) -> Option<Check> {
        Some(match path {
            "/" | "/primary" | "/read-write" => Check::Primary,
            "/leader" => Check::Leader,
            "/replica" => Check::Replica,
            "/read-only" => Check::ReadOnly,
            "/sync" | "/synchronous" => Check::Sync,
            "/async" | "/asynchronous" => Check::Async,
            "/health" => Check::Health,
            "/readiness" => Check::Readiness,
            "/liveness" => Check::Liveness,
            _ => return None,
        })
    }

    /// The answer; `Err`: a no, and why. A standby that is more than `lag_max` bytes behind, or of
    /// which that is not known, is none to read from.
    pub fn ask(self, moment: &Moment, lag_max: Option<u64>) -> Result<(), String> {
        match self {
            Check::Primary => moment.takes_writes(),
            Check::Leader => leads(moment),
            Check::Replica => replica(moment, lag_max).map(drop),
            Check::ReadOnly => match moment.takes_writes() {
                Ok(()) => Ok(()),
                Err(_) => replica(moment, lag_max).map(drop),
            },
            Check::Sync | Check::Async => {
                let facts = replica(moment, lag_max)?;
                match (is_sync(moment, facts), self) {
                    (Ok(()), Check::Async) => Err("commits may wait for it".to_owned()),
                    (Err(_), Check::Async) => Ok(()),
                    (answer, _) => answer,
                }
            }
            Check::Health => moment.facts().map(drop),
            Check::Readiness => match moment.takes_writes() {
                Ok(()) => Ok(()),
                Err(_) => match replica(moment, lag_max)? {
                    PgFacts { streaming: true, .. } => Ok(()),
                    _ => Err("this standby does not stream".to_owned()),
                },
            },
            Check::Liveness => moment.fresh(),
        }
    }
}

fn leads(moment: &Moment) -> Result<(), String> {
    moment.fresh()?;
    let page = moment.page()?;
    if page.is_leader(moment.now_ns) {
        return Ok(());
    }
    Err(match page.leader_id {
        0 => "no leader is known".to_owned(),
        own if own == moment.overview.node_id => "its lease has ended".to_owned(),
        leader => format!("node {leader} leads"),
    })
}

fn replica(moment: &Moment, lag_max: Option<u64>) -> Result<&PgFacts, String> {
    let facts = moment.facts()?;
    if !facts.in_recovery {
        let what = if moment.role() == "deposed" { "a deposed primary" } else { "no standby" };
        return Err(format!("this is {what}"));
    }
    match lag_max {
        Some(lag_max) => match moment.lag_bytes()? {
            lag if lag <= lag_max => Ok(facts),
            lag => Err(format!("this standby is {lag} bytes behind")),
        },
        None => Ok(facts),
    }
}

/// With `synchronous_mode = quorum` a commit waits for a majority of all voters' servers.
fn is_sync(moment: &Moment, facts: &PgFacts) -> Result<(), String> {
    if !moment.overview.synchronous {
        return Err("synchronous_mode is off".to_owned());
    }
    let page = moment.page()?;
    match page.member(moment.overview.node_id) {
        Some(member) if member.voter && facts.streaming => Ok(()),
        Some(member) if member.voter => Err("this standby does not stream".to_owned()),
        _ => Err("this node does not vote".to_owned()),
    }
}

/// How the server is, in the words that clients of such APIs know.
pub fn state_name(state: PgState) -> &'static str {
    match state {
        PgState::Unknown => "unknown",
        PgState::Down => "stopped",
        PgState::Rejecting => "starting",
        PgState::Hung => "hung",
        PgState::Answering => "running",
    }
}

/// `10MB`, `16kB`, `1GiB` or a number of bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit: u64 = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::samples::*;
    use crate::overview::{FenceState, Page};

    const SECOND: u64 = 1_000_000_000;

    fn yes(moment: &Moment, paths: &[&str]) {
        const ALL: [&str; 9] = [
            "/primary",
            "/leader",
            "/replica",
            "/read-only",
            "/sync",
            "/async",
            "/health",
            "/readiness",
            "/liveness",
        ];
        for path in ALL {
            let answer = Check::at(path).unwrap().ask(moment, None);
            assert_eq!(answer.is_ok(), paths.contains(&path), "{path}: {answer:?}");
        }
    }

    fn why(path: &str, moment: &Moment, lag_max: Option<u64>) -> String {
        Check::at(path).unwrap().ask(moment, lag_max).unwrap_err()
    }

    #[test]
    fn a_primary_and_a_standby() {
        yes(
            &primary(),
            &["/primary", "/leader", "/read-only", "/health", "/readiness", "/liveness"],
        );
        let paths = ["/replica", "/read-only", "/async", "/health", "/readiness", "/liveness"];
        yes(&standby(), &paths);
    }

    #[test]
    fn a_window_that_has_ended_at_this_moment_is_closed() {
        let mut moment = primary();
        let until_ns = moment.page.as_ref().unwrap().writes_until_ns;
        moment.now_ns = until_ns - 1;
        assert_eq!(Check::Primary.ask(&moment, None), Ok(()));
        moment.now_ns = until_ns;
        assert_eq!(why("/primary", &moment, None), "the window for commits has ended");
        assert_eq!(why("/leader", &moment, None), "its lease has ended");
        moment.now_ns = page_of(&mut moment).writes_from_ns - 1;
        assert_eq!(why("/", &moment, None), "the window for commits has ended");
    }

    #[test]
    fn what_is_unknown_or_old_is_a_no() {
        let mut old = primary();
        set(&mut old, |overview| overview.taken_ns -= 3 * SECOND);
        yes(&old, &[]);
        let mut never = primary();
        set(&mut never, |overview| overview.taken_ns = 0);
        yes(&never, &[]);
        let mut no_page = primary();
        no_page.page = Err("no segment".to_owned());
        yes(&no_page, &["/health", "/liveness"]);
        assert_eq!(why("/primary", &no_page, None), "pgraft is unknown: no segment");
        let mut no_page = standby();
        no_page.page = Err("no segment".to_owned());
        yes(&no_page, &["/replica", "/read-only", "/async", "/health", "/readiness", "/liveness"]);
        why("/replica", &no_page, Some(u64::MAX));
    }

    #[test]
    fn a_server_that_does_not_answer_is_none() {
        for state in [PgState::Down, PgState::Hung, PgState::Rejecting, PgState::Unknown] {
            let mut moment = primary();
            set(&mut moment, |overview| {
                overview.postgres.state = state;
                overview.postgres.reason = "so it is".to_owned();
                overview.postgres.facts = None;
            });
            yes(&moment, &["/leader", "/liveness"]);
            assert!(why("/primary", &moment, None).ends_with(": so it is"), "{state:?}");
        }
    }

    #[test]
    fn a_deposed_primary_is_neither() {
        let mut moment = primary();
        let page = page_of(&mut moment);
        (page.primary_id, page.leader_id, page.lease_until_ns) = (2, 2, 0);
        (page.fence, page.writes_from_ns, page.writes_until_ns) = (FenceState::Closed, 0, 0);
        yes(&moment, &["/health", "/liveness"]);
        assert_eq!(why("/primary", &moment, None), "node 2 is the primary");
        assert_eq!(why("/replica", &moment, None), "this is a deposed primary");
        assert_eq!(moment.role(), "deposed");
    }

    #[test]
    fn a_promoted_server_outside_its_window_takes_no_writes() {
        for fence in [FenceState::Closed, FenceState::Paused] {
            let mut moment = primary();
            page_of(&mut moment).fence = fence;
            why("/primary", &moment, None);
        }
        // Still in recovery, by the last answer.
        let mut moment = primary();
        facts_of(&mut moment, |facts| facts.in_recovery = true);
        assert_eq!(why("/primary", &moment, None), "this is a standby");
    }

    #[test]
    fn a_cluster_of_one_has_no_fence_and_its_leader_takes_writes() {
        let mut moment = primary();
        let page = page_of(&mut moment);
        (page.fence, page.writes_until_ns) = (FenceState::Off, 0);
        assert_eq!(Check::Primary.ask(&moment, None), Ok(()));
        let and = |change: fn(&mut Page)| {
            let mut moment = moment.clone();
            change(page_of(&mut moment));
            Check::Primary.ask(&moment, None)
        };
        assert!(and(|page| page.lease_until_ns = 0).is_err());
        assert!(and(|page| page.state = "stopped").is_err());
        assert!(and(|page| page.primary_id = 2).is_err());
    }

    #[test]
    fn lag_is_compared_and_what_is_not_known_is_too_much() {
        let moment = standby();
        assert_eq!(Check::Replica.ask(&moment, Some(4096)), Ok(()));
        assert_eq!(why("/replica", &moment, Some(4095)), "this standby is 4096 bytes behind");
        why("/read-only", &moment, Some(0));
        let unknown = |change: fn(&mut Moment)| {
            let mut moment = standby();
            change(&mut moment);
            assert!(why("/replica", &moment, Some(u64::MAX)).contains("not known"));
        };
        unknown(|moment| facts_of(moment, |facts| facts.lag_bytes = None));
        unknown(|moment| page_of(moment).has_quorum = false);
        unknown(|moment| page_of(moment).primary_id = 0);
        unknown(|moment| moment.unix_ms += 60_000);
        unknown(|moment| page_of(moment).members[0].last_contact_unix_us = None);
    }

    #[test]
    fn only_a_streaming_voter_in_synchronous_mode_is_synchronous() {
        let mut moment = standby();
        set(&mut moment, |overview| overview.synchronous = true);
        assert_eq!(Check::Sync.ask(&moment, None), Ok(()));
        assert_eq!(why("/async", &moment, None), "commits may wait for it");
        facts_of(&mut moment, |facts| facts.streaming = false);
        why("/sync", &moment, None);
        why("/readiness", &moment, None);
        facts_of(&mut moment, |facts| facts.streaming = true);
        page_of(&mut moment).members[1].voter = false;
        assert_eq!(why("/sync", &moment, None), "this node does not vote");
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("0", 0), ("10MB", 10 << 20), ("16 kB", 16 << 10), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for bad in ["", "MB", "-1", "10 apples", "1.5MB", "99999999999999999999", "9999999999TB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
