//! Asks every node's ramd, without a pause, whether its server takes writes; and judges the
//! answers: two servers must never have said yes at overlapping times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use crate::api::Api;
use crate::check::expect;
use crate::{Cluster, Failure, Node, Result, wait_for};

/// For one answer. One that comes later is as good: it has its own stamp.
const ANSWER_AT_MOST: Duration = Duration::from_secs(30);

/// A 200 of /primary, by the node's own stamp of CLOCK_BOOTTIME, which all nodes of a machine share
/// whatever their wall clocks say.
#[derive(Clone, Copy, Debug)]
struct Yes {
    node: u32,
    timeline: u64,
    at_ns: u64,
}

/// The first and the last yes of a server in one of its times as primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reign {
    /// When it first said yes.
    pub first_ns: u64,
    /// When it last did.
    pub last_ns: u64,
    /// Who.
    pub node: u32,
    /// On which timeline: each time as primary has its own.
    pub timeline: u64,
}

/// What the pollers are told, and tell, while they run.
#[derive(Debug, Default)]
struct Polling {
    end: AtomicBool,
    yes: AtomicU64,
}

/// Pollers at work. Dropped, they end by themselves.
#[derive(Debug)]
pub struct Reigns {
    polling: Arc<Polling>,
    pollers: Vec<JoinHandle<(u64, Vec<Yes>)>>,
}

impl Reigns {
    /// Begins to ask all nodes of the cluster, and waits for the first yes.
    pub fn watch(cluster: &Cluster) -> Result<Reigns> {
        let polling = Arc::new(Polling::default());
        let pollers = cluster.nodes().iter().map(|node| poll(node, &polling)).collect();
        let reigns = Reigns { polling, pollers };
        wait_for("a ramd is heard to say yes", ANSWER_AT_MOST, || {
            Ok((reigns.polling.yes.load(Ordering::Relaxed) > 0).then_some(()))
        })?;
        Ok(reigns)
    }

    /// Ends it: who said yes and when, in the order of time. A failure if two did so at once.
    pub fn judge(mut self) -> Result<Vec<Reign>> {
        self.polling.end.store(true, Ordering::Relaxed);
        let (mut asked, mut all) = (0, Vec::new());
        for poller in self.pollers.drain(..) {
            let (count, yes) = poller.join().map_err(|_| Failure::new("a poller panicked"))?;
            asked += count;
            all.extend(yes);
        }
        let reigns = reigns(&all);
        println!("{asked} questions, {} times yes: {reigns:?}", all.len());
        expect(all.iter().all(|yes| yes.timeline > 0 && yes.at_ns > 0), || format!("{all:?}"))?;
        match overlap(&reigns) {
            None => Ok(reigns),
            Some((one, other)) => {
                Err(Failure::new(format!("{one:?} and {other:?} were both primary: {reigns:?}")))
            }
        }
    }
}

impl Drop for Reigns {
    fn drop(&mut self) {
        self.polling.end.store(true, Ordering::Relaxed);
    }
}

/// Asks a node without a pause.
fn poll(node: &Node, polling: &Arc<Polling>) -> JoinHandle<(u64, Vec<Yes>)> {
    let (api, polling) = (Api::at(&node.api_url(), ANSWER_AT_MOST), polling.clone());
    let node = node.id();
    spawn(move || {
        let (mut asked, mut yes) = (0, Vec::new());
        while !polling.end.load(Ordering::Relaxed) {
            match api.get("/primary") {
                Ok(answer) => {
                    asked += 1;
                    if answer.status == 200 {
                        polling.yes.fetch_add(1, Ordering::Relaxed);
                        let timeline = answer.body["timeline"].as_u64().unwrap_or(0);
                        let at_ns = answer.body["pgraft"]["boottime_ns"].as_u64().unwrap_or(0);
                        yes.push(Yes { node, timeline, at_ns });
                    }
                }
                // Its ramd is gone, for now.
                Err(_) => sleep(Duration::from_millis(5)),
            }
        }
        (asked, yes)
    })
}

/// The reigns of all servers, in the order of their beginnings.
fn reigns(all: &[Yes]) -> Vec<Reign> {
    let mut found: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
    for yes in all {
        let reign = found.entry((yes.node, yes.timeline)).or_insert((yes.at_ns, yes.at_ns));
        *reign = (reign.0.min(yes.at_ns), reign.1.max(yes.at_ns));
    }
    let as_reign =
        |((node, timeline), (first_ns, last_ns))| Reign { first_ns, last_ns, node, timeline };
    let mut reigns: Vec<Reign> = found.into_iter().map(as_reign).collect();
    reigns.sort_unstable();
    reigns
}

/// Two that overlap. In the order of beginnings it is enough to look at neighbours.
fn overlap(reigns: &[Reign]) -> Option<(Reign, Reign)> {
    let mut pairs = reigns.windows(2);
    pairs.find(|pair| pair[1].first_ns <= pair[0].last_ns).map(|pair| (pair[0], pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_say_yes_at_once_are_found() {
        let yes = |node, timeline, at_ns| Yes { node, timeline, at_ns };
        let mut all = vec![yes(1, 1, 10), yes(2, 2, 40), yes(1, 1, 20), yes(2, 2, 50)];
        assert_eq!(overlap(&reigns(&all)), None);
        all.extend([yes(1, 3, 60), yes(1, 3, 70)]);
        let found: Vec<u32> = reigns(&all).iter().map(|reign| reign.node).collect();
        assert_eq!((found, overlap(&reigns(&all))), (vec![1, 2, 1], None));
        // The first one again, while the second is the primary.
        all.push(yes(1, 1, 45));
        let (one, other) = overlap(&reigns(&all)).unwrap();
        assert_eq!((one.node, other.node), (1, 2));
    }
}
