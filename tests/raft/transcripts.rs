//! Scenarios a person can read, in tests/transcripts/*.txt: a command behind `>`, and below it what
//! the nodes say and do. `UPDATE_EXPECT=1 cargo test --test raft transcripts` rewrites what is
//! expected; commit a rewritten one only if you can explain the difference.
//!
//! A line `1 -> 2: t3 Append …` is a message of term 3 that arrives, `1 -x 2: …` one that is lost.
//! `#` starts a comment. `run` and `elect` show only what nodes report, not what they say to
//! one another.

use std::fs;
use std::path::Path;

use pgraft::raft::*;

use crate::disk::Disk;
use crate::support::*;

fn number(word: Option<&str>) -> u32 {
    word.and_then(|word| word.parse().ok()).expect("a number")
}

fn outcome<T>(result: Result<T, ProposeError>) -> Vec<String> {
    result.err().map(|error| format!("error: {error}")).into_iter().collect()
}

fn status(cluster: &Cluster) -> Vec<String> {
    let line = |(id, server): (&NodeId, &Server)| match &server.node {
        None => format!("{id}: down"),
        Some(node) => {
            let list = |nodes: &std::collections::BTreeSet<NodeId>| {
                nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
            };
            let leader = node.leader().map_or("nobody".to_owned(), |leader| leader.to_string());
            format!(
                "{id}: {:?} term {} leader {leader} last {}/{} commit {} voters [{}] learners [{}]",
                node.role(),
                node.term().0,
                node.last().index.0,
                node.last().term.0,
                node.commit().0,
                list(&node.membership().voters),
                list(&node.membership().learners),
            )
        }
    };
    cluster.servers.iter().map(line).collect()
}

fn execute(cluster: &mut Cluster, command: &str) -> Vec<String> {
    let mut words = command.split_whitespace();
    let name = words.next().expect("a command");
    let rest: Vec<&str> = words.clone().collect();
    let mut next = || number(words.next());
    cluster.trace.clear();
    let mut quiet = false;
    let mut said = Vec::new();
    match name {
        "add-nodes" => *cluster = Cluster::new(next()),
        "add-node" => cluster.add(next(), None),
        "elect" => {
            quiet = true;
            cluster.win(next());
            cluster.stabilize();
        }
        "campaign" => cluster.campaign(next()),
        "stabilize" => cluster.stabilize(),
        "deliver" => {
            for _ in 0..next() {
                assert!(cluster.deliver_one(), "nothing to deliver");
            }
        }
        "drop" => {
            for (from, to, message) in std::mem::take(&mut cluster.network) {
                cluster.trace.push(format!("{from} -x {to}: {}", describe(&message)));
            }
        }
        "tick" => {
            let ticks = next();
            let nodes: Vec<NodeId> = match rest.get(1..) {
                Some(nodes) if !nodes.is_empty() => {
                    nodes.iter().map(|node| id(number(Some(node)))).collect()
                }
                _ => cluster.up(),
            };
            (0..ticks).for_each(|_| cluster.tick(&nodes));
        }
        "run" => {
            quiet = true;
            cluster.run(next());
        }
        "propose" => {
            let at = next();
            for command in &rest[1..] {
                said.extend(outcome(cluster.node(at).propose(command.as_bytes().to_vec())));
            }
        }
        "add-learner" | "promote" | "remove" => {
            let (at, node) = (next(), id(next()));
            let change = match name {
                "add-learner" => MembershipChange::AddLearner(node),
                "promote" => MembershipChange::Promote(node),
                _ => MembershipChange::Remove(node),
            };
            said = outcome(cluster.node(at).propose_membership(change, Vec::new()));
        }
        "transfer" => {
            let (at, to) = (next(), id(next()));
            said = outcome(cluster.node(at).transfer_leadership(to));
        }
        "force-election" => said = outcome(cluster.node(next()).force_election()),
        "read" => {
            let (at, token) = (next(), next());
            said = outcome(cluster.node(at).read_index(u64::from(token)));
        }
        "leader-refused" => {
            let (at, leader) = (next(), id(next()));
            cluster.node(at).leader_refused(leader);
        }
        "unreachable" => {
            let (at, peer) = (next(), id(next()));
            cluster.node(at).peer_unreachable(peer);
        }
        "partition" => {
            let side: Vec<u32> = rest.iter().map(|node| number(Some(node))).collect();
            cluster.partition(&side);
        }
        "heal" => cluster.cut.clear(),
        "crash" => cluster.crash(next()),
        "restart" => cluster.restart(next()),
        "wipe" => {
            let server = cluster.servers.get_mut(&id(next())).unwrap();
            server.disk = Disk::default();
        }
        "snapshot" => {
            let (at, keep) = (next(), u64::from(next()));
            cluster.snapshot(at, keep);
        }
        "status" => said = status(cluster),
        _ => panic!("no such command: {command}"),
    }
    cluster.settle_all();
    said.append(&mut cluster.trace);
    if quiet {
        said.retain(|line| !line.contains(" -> ") && !line.contains(" -x "));
    }
    said
}

/// The file as it ought to be.
fn play(text: &str) -> String {
    let mut cluster = Cluster::default();
    let mut out = String::new();
    for line in text.lines() {
        match line.strip_prefix("> ") {
            Some(command) => {
                out.push_str(&format!("\n{line}\n"));
                for said in execute(&mut cluster, command) {
                    out.push_str(&format!("  {said}\n"));
                }
            }
            None if line.starts_with('#') => {
                // A comment belongs to the command that follows it.
                if !out.is_empty() && !out.lines().last().unwrap_or("").starts_with('#') {
                    out.push('\n');
                }
                out.push_str(&format!("{line}\n"));
            }
            None => {}
        }
    }
    // The empty line before a command goes before its comment.
    let mut tidy = String::new();
    for line in out.lines() {
        if line.is_empty() && (tidy.is_empty() || tidy.lines().last().unwrap().starts_with('#')) {
            continue;
        }
        tidy.push_str(&format!("{line}\n"));
    }
    tidy
}

#[test]
fn transcripts_read_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    assert!(files.len() >= 10, "the transcripts are gone");
    for path in files {
        let expected = fs::read_to_string(&path).unwrap();
        let played = play(&expected);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, played).unwrap();
            continue;
        }
        for (number, (played, expected)) in played.lines().zip(expected.lines()).enumerate() {
            assert_eq!(played, expected, "{}:{}", path.display(), number + 1);
        }
        assert_eq!(played.lines().count(), expected.lines().count(), "{}", path.display());
    }
}
