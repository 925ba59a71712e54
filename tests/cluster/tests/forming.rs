//! A cluster forms, elects, grows, shrinks and survives: on real servers, through SQL.

use std::time::{Duration, Instant};

use pgraft_cluster::check::{SOON, await_state, await_voters, equal, expect, leader_among};
use pgraft_cluster::{Cluster, Node, Options, Status, Stop, wait_for, with};

/// Between two looks at something that is to stay.
const LOOK: Duration = Duration::from_millis(150);

#[test]
fn three_nodes_form_and_elect_one_leader() {
    with(Cluster::form("three-nodes", Options::default()), |cluster| {
        let (leader, term) = cluster.leader()?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
        for node in cluster.nodes() {
            let mut session = node.session()?;
            let is_leader = session.is_true("SELECT pgraft_is_leader()")?;
            equal(is_leader, node.id() == leader, "pgraft_is_leader()")?;
            let leader_seen = session.value("SELECT pgraft_get_leader()")?;
            equal(leader_seen, Some(leader.to_string()), "pgraft_get_leader()")?;
            let term_seen = session.value("SELECT pgraft_get_term()")?;
            equal(term_seen, Some(term.to_string()), "pgraft_get_term()")?;
            wait_for("the node is healthy", SOON, || {
                Ok(node.session()?.is_true("SELECT pgraft_is_healthy()")?.then_some(()))
            })?;
            let standby = session.is_true("SELECT pg_is_in_recovery()")?;
            equal(standby, node.id() != 1, "nodes 2 and 3 are standbys")?;
        }
        Ok(())
    });
}

#[test]
fn the_guides_sql_works_in_both_forms_on_every_node() {
    const CALLS: [&str; 12] = [
        "pgraft_init()",
        "pgraft_start()",
        "pgraft_status()",
        "pgraft_is_leader()",
        "pgraft_get_nodes()",
        "pgraft_get_leader()",
        "pgraft_is_healthy()",
        "pgraft_get_metrics()",
        "pgraft_set_debug(true)",
        "pgraft_get_logs()",
        "pgraft_set_debug(false)",
        "pgraft_version()",
    ];
    with(Cluster::form("guide", Options::default()), |cluster| {
        for node in cluster.nodes() {
            let mut session = node.session()?;
            for call in CALLS {
                let alone = session.rows(&format!("SELECT {call}"))?;
                expect(!alone.is_empty(), || format!("no row from SELECT {call}"))?;
                let from = session.rows(&format!("SELECT * FROM {call}"))?;
                expect(!from.is_empty(), || format!("no row from SELECT * FROM {call}"))?;
            }
            // Running already, it says so and is true.
            session.notices();
            expect(session.is_true("SELECT pgraft_start()")?, || "start again".to_owned())?;
            let notices = session.notices();
            expect(notices.iter().any(|n| n.severity == "NOTICE"), || format!("{notices:?}"))?;
        }
        let node = cluster.node(2);
        let mut session = node.session()?;
        let address = cluster.node(3).raft_address();
        let add = format!("SELECT pgraft_add_node('{address}', 3)");
        expect(session.is_true(&add)?, || "a present member is added again".to_owned())?;
        // A forced election ends with a leader that all agree on, in a later term.
        let (_, term) = cluster.leader()?;
        expect(session.is_true("SELECT pgraft_force_election()")?, || "not forced".to_owned())?;
        let (_, later) = cluster.leader()?;
        expect(later > term, || format!("term {term} is followed by {later}"))
    });
}

#[test]
fn the_guides_two_calls_in_a_row_grow_a_cluster_from_one() {
    with(Cluster::prepare("from-one", Options::calm()), |cluster| {
        cluster.node(1).configure_pgraft(&[], false, &Options::calm().pgraft)?;
        cluster.start_all()?;
        cluster.create_extension()?;
        let mut session = cluster.node(1).session()?;
        session.run("SELECT pgraft_init()")?;
        session.run("SELECT pgraft_start()")?;
        wait_for("node 1 leads alone", SOON, || {
            Ok(cluster.node(1).session()?.is_true("SELECT pgraft_is_leader()")?.then_some(()))
        })?;
        // Alone, with nobody to talk to and nothing to do, it keeps its lease.
        for _ in 0..20 {
            std::thread::sleep(LOOK);
            expect(session.is_true("SELECT pgraft_is_leader()")?, || "it lost its lease".into())?;
        }
        // Neither node has been started: each call returns all the same.
        for id in [2, 3] {
            let address = cluster.node(id).raft_address();
            let add = format!("SELECT pgraft_add_node('{address}', {id})");
            expect(session.is_true(&add)?, || format!("node {id} was not added"))?;
        }
        expect(session.is_true("SELECT pgraft_is_leader()")?, || "it leads on".to_owned())?;
        for id in [2, 3] {
            let mut session = cluster.node(id).session()?;
            session.run("SELECT pgraft_init()")?;
            session.run("SELECT pgraft_start()")?;
        }
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
        equal(cluster.leader()?.0, 1, "the leader")
    });
}

#[test]
fn a_fourth_node_is_added_and_removed_through_a_follower() {
    with(Cluster::form("fourth", Options::default()), |cluster| {
        let id = cluster.add_node()?;
        cluster.node_mut(id).start()?;
        let fourth = cluster.node(id);
        let mut session = fourth.session()?;
        session.run("SELECT pgraft_init()")?;
        session.run("SELECT pgraft_start()")?;
        await_state(fourth, "joining")?;

        let (leader, _) = leader_among(cluster, &[1, 2, 3])?;
        let follower = if leader == 1 { 2 } else { 1 };
        let mut session = cluster.node(follower).session()?;
        let address = fourth.raft_address();
        let add = format!("SELECT pgraft_add_node('{address}', 4)");
        expect(session.is_true(&add)?, || "not added".to_owned())?;
        await_voters(cluster, &[1, 2, 3, 4], &[1, 2, 3, 4])?;
        cluster.leader()?;

        // Its id is taken now: at another address that is refused.
        let error = session.error("SELECT pgraft_add_node('127.0.0.1:1', 4)")?;
        equal(error.sqlstate.as_deref(), Some("42710"), &error.message)?;

        expect(session.is_true("SELECT pgraft_remove_node(4)")?, || "not removed".to_owned())?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
        await_state(fourth, "removed")?;
        expect(!fourth.session()?.is_true("SELECT pgraft_is_leader()")?, || "leads".to_owned())?;

        session.notices();
        let again = session.value("SELECT pgraft_remove_node(4)")?;
        equal(again.as_deref(), Some("f"), "removing an unknown node")?;
        expect(!session.notices().is_empty(), || "no notice about an unknown node".to_owned())
    });
}

#[test]
fn a_killed_leader_is_replaced_and_comes_back_as_follower() {
    with(Cluster::form("killed-leader", Options::default()), |cluster| {
        let (old, term) = cluster.leader()?;
        let began = Instant::now();
        cluster.node_mut(old).kill();
        let (new, later) = cluster.leader_after(term, SOON)?;
        println!("node {new} leads in term {later} after {:?}", began.elapsed());
        expect(new != old, || format!("node {old}, which is down, leads in term {later}"))?;

        // Started again it needs no pgraft_start(), and disturbs nobody.
        cluster.node_mut(old).start()?;
        let (now, _) = cluster.leader()?;
        expect(now != old, || "the killed node leads again at once".to_owned())?;
        equal(Status::of(cluster.node(old))?.get("role"), "follower", "its role")?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn a_cluster_forms_again_after_all_servers_were_stopped() {
    with(Cluster::form("all-stopped", Options::default()), |cluster| {
        let (_, term) = cluster.leader()?;
        cluster.stop_all(Stop::Fast)?;
        cluster.start_all()?;
        let (_, later) = cluster.leader()?;
        expect(later > term, || format!("term {term}, then {later}"))?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn without_a_majority_nobody_says_that_it_leads() {
    with(Cluster::form("no-majority", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        for id in (1..=3).filter(|id| *id != leader) {
            cluster.node(id).pause();
        }
        let mut session = cluster.node(leader).session()?;
        wait_for("the leader without followers gives up", SOON, || {
            Ok((!session.is_true("SELECT pgraft_is_leader()")?).then_some(()))
        })?;
        wait_for("it knows no leader any more", SOON, || {
            Ok((session.value("SELECT pgraft_get_leader()")?.as_deref() == Some("0")).then_some(()))
        })?;
        expect(!session.is_true("SELECT pgraft_is_healthy()")?, || "healthy?".to_owned())?;
        cluster.nodes().iter().for_each(Node::resume);
        cluster.leader().map(|_| ())
    });
}

#[test]
fn every_function_needs_the_library_preloaded() {
    let options = Options { nodes: 1, preload: false, ..Options::default() };
    with(Cluster::start("not-preloaded", options), |cluster| {
        cluster.install().require_extension()?;
        let mut session = cluster.node(1).session()?;
        session.run("CREATE EXTENSION pgraft")?;
        for call in ["pgraft_init()", "pgraft_status()", "pgraft_is_leader()", "pgraft_get_term()"]
        {
            let error = session.error(&format!("SELECT {call}"))?;
            equal(error.sqlstate.as_deref(), Some("55000"), &error.message)?;
            let says_how = error.message.contains("shared_preload_libraries");
            expect(says_how, || error.message.clone())?;
        }
        Ok(())
    });
}
