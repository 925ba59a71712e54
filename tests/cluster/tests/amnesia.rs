//! Nodes that forgot, pretend, were sent away, or are too few: refused in words, and never a vote.

use std::fs;
use std::time::{Duration, Instant};

use pgraft_cluster::check::{
    SOON, await_state, await_status, await_trouble, await_voters, equal, expect, is_error,
    leader_among, members, next_leader_among,
};
use pgraft_cluster::{Cluster, Failure, Node, Options, Result, Session, Status, Stop};
use pgraft_cluster::{wait_for, with};

fn others(id: u32) -> Vec<u32> {
    (1..=3).filter(|other| *other != id).collect()
}

fn init_and_start(node: &Node) -> Result<()> {
    let mut session = node.session()?;
    session.run("SELECT pgraft_init()")?;
    Ok(session.run("SELECT pgraft_start()")?)
}

fn await_log(node: &Node, part: &str) -> Result<()> {
    wait_for(&format!("node {} logs \"{part}\"", node.id()), SOON, || {
        Ok(node.log().contains(part).then_some(()))
    })
}

/// One of several lines, on any of these nodes: who finds out depends on who dials first.
fn await_log_anywhere(cluster: &Cluster, ids: &[u32], part: &str) -> Result<()> {
    wait_for(&format!("one of the nodes {ids:?} logs \"{part}\""), SOON, || {
        Ok(ids.iter().any(|id| cluster.node(*id).log().contains(part)).then_some(()))
    })
}

fn term(node: &Node) -> Result<u64> {
    let value = node.session()?.value("SELECT pgraft_get_term()")?;
    Ok(value.and_then(|term| term.parse().ok()).unwrap_or(0))
}

/// A fourth server with these lines in its pgraft.conf replaced, started, and told to start.
fn stranger(cluster: &mut Cluster, changes: &[(&str, &str)]) -> Result<u32> {
    let id = cluster.add_node()?;
    let node = cluster.node(id);
    let text = fs::read_to_string(node.conf_file()).map_err(Failure::while_doing("read it"))?;
    let lines = text.lines().map(|line| {
        let change = changes.iter().find(|(key, _)| line.starts_with(&format!("{key} =")));
        change.map_or(line.to_owned(), |(key, value)| format!("{key} = {value}"))
    });
    node.write_pgraft_conf(&(lines.collect::<Vec<_>>().join("\n") + "\n"))?;
    cluster.node_mut(id).start()?;
    init_and_start(cluster.node(id))?;
    Ok(id)
}

#[test]
fn a_wiped_node_is_refused_has_no_vote_and_comes_back_by_remove_and_add() {
    with(Cluster::form("amnesia-wiped", Options::calm()), |cluster| {
        let (leader, _) = cluster.leader()?;
        let (wiped, other) = (others(leader)[0], others(leader)[1]);
        cluster.node_mut(wiped).stop(Stop::Fast)?;
        fs::remove_dir_all(cluster.node(wiped).raft()).map_err(Failure::while_doing("wipe"))?;
        cluster.node_mut(wiped).start()?;
        await_state(cluster.node(wiped), "stopped")?;
        init_and_start(cluster.node(wiped))?;
        let status = await_trouble(cluster.node(wiped), "remove the node from the cluster")?;
        expect(status.get("state") != "member", || format!("{status:?}"))?;
        let refused = format!("not the one that joined as node {wiped}");
        await_log_anywhere(cluster, &[leader, other], &refused)?;
        equal(leader_among(cluster, &[leader, other])?.0, leader, "the leader meanwhile")?;

        // With the wiped node's vote there would be a majority: it has none to give.
        cluster.node_mut(other).kill();
        let mut session = cluster.node(leader).session()?;
        wait_for("the leader without its follower gives up", SOON, || {
            Ok((!session.is_true("SELECT pgraft_is_leader()")?).then_some(()))
        })?;
        let before = term(cluster.node(leader))?;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            for id in [leader, wiped] {
                let leads = cluster.node(id).session()?.is_true("SELECT pgraft_is_leader()")?;
                expect(!leads, || format!("node {id} leads with the vote of a wiped node"))?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        equal(term(cluster.node(leader))?, before, "the term, which pre-votes do not move")?;
        cluster.node_mut(other).start()?;

        leader_among(cluster, &[leader, other])?;
        let address = cluster.node(wiped).raft_address();
        let mut session = cluster.node(other).session()?;
        // The same id again is no cure by itself.
        session.run(&format!("SELECT pgraft_add_node('{address}', {wiped})"))?;
        expect(Status::of(cluster.node(wiped))?.get("state") != "member", || "member".to_owned())?;
        for call in [
            format!("pgraft_remove_node({wiped})"),
            format!("pgraft_add_node('{address}', {wiped})"),
        ] {
            expect(session.is_true(&format!("SELECT {call}"))?, || call)?;
        }
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
        cluster.leader()?;
        let status = await_status(cluster.node(wiped), "no trouble", |status| {
            status.get("last_error").is_empty()
        })?;
        equal(status.get("state"), "member", "state")?;
        // And it counts: with it, the cluster does without the third.
        cluster.node_mut(other).kill();
        leader_among(cluster, &[leader, wiped]).map(|_| ())
    });
}

#[test]
fn a_second_server_with_a_live_nodes_id_is_refused_on_both_sides() {
    with(Cluster::form("amnesia-twin", Options::calm()), |cluster| {
        let before = cluster.leader()?;
        let twin = stranger(cluster, &[("raft_node_id", "2")])?;
        await_trouble(cluster.node(twin), "another live node has this raft_node_id")?;
        expect(Status::of(cluster.node(twin))?.get("state") != "member", || "member".to_owned())?;
        await_log(cluster.node(2), "raft_node_id 2 is this node's own")?;
        let elsewhere = "another server is connected as node 2, with another raft_data_dir";
        await_log_anywhere(cluster, &[1, 3], elsewhere)?;
        equal(leader_among(cluster, &[1, 2, 3])?, before, "leader and term")?;
        for id in 1..=3 {
            equal(members(cluster.node(id), false)?, [1, 2, 3].into(), "the members")?;
            equal(Status::of(cluster.node(id))?.get("last_error"), "", "its trouble")?;
        }
        // Node 2 is away: its twin is still not it.
        cluster.node_mut(2).kill();
        await_trouble(cluster.node(twin), "not the directory that joined")?;
        leader_among(cluster, &[1, 3]).map(|_| ())
    });
}

#[test]
fn two_first_nodes_with_one_id_form_nothing_and_say_why() {
    let options = Options { nodes: 2, ..Options::default() };
    with(Cluster::prepare("amnesia-twins", options), |cluster| {
        let text = fs::read_to_string(cluster.node(2).conf_file()).unwrap_or_default();
        let same = text.replace("raft_node_id = 2", "raft_node_id = 1");
        cluster.node(2).write_pgraft_conf(&same)?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        for id in [1, 2] {
            await_trouble(cluster.node(id), "another live node has this raft_node_id")?;
            // No waiting will help: it is an error, and not "forming".
            equal(Status::of(cluster.node(id))?.get("state"), "error", "state")?;
        }
        let mut session = cluster.node(1).session()?;
        session.run("SET pgraft.command_timeout = '500ms'")?;
        let error = session.error("SELECT pgraft_remove_node(7)")?;
        is_error(&error, "57P03", &["not formed", "raft_node_id"])
    });
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    with(Cluster::form("amnesia-cluster-id", Options::calm()), |cluster| {
        let before = cluster.leader()?;
        let id = stranger(cluster, &[("raft_cluster_id", "other_cluster")])?;
        await_trouble(cluster.node(id), "it has another raft_cluster_id")?;
        let said = "its raft_cluster_id is \"other_cluster\", this node's is \"ram_cluster\"";
        await_log_anywhere(cluster, &[1, 2, 3], said)?;
        equal(leader_among(cluster, &[1, 2, 3])?, before, "leader and term")
    });
}

#[test]
fn a_cluster_of_the_same_name_formed_apart_is_refused() {
    with(Cluster::form("amnesia-apart", Options::calm()), |cluster| {
        let before = cluster.leader()?;
        let id = stranger(cluster, &[("raft_peer_addresses", "")])?;
        wait_for("the fourth leads a cluster of its own", SOON, || {
            Ok(cluster.node(id).session()?.is_true("SELECT pgraft_is_leader()")?.then_some(()))
        })?;
        let address = cluster.node(id).raft_address();
        let mut session = cluster.node(1).session()?;
        session.run(&format!("SELECT pgraft_add_node('{address}', {id})"))?;
        let said = "another cluster that has the same raft_cluster_id";
        await_log_anywhere(cluster, &[1, 2, 3, id], said)?;
        std::thread::sleep(Duration::from_secs(1));
        equal(members(cluster.node(1), true)?, [1, 2, 3].into(), "the voters")?;
        equal(members(cluster.node(id), true)?, [id].into(), "the fourth's voters")?;
        session.run(&format!("SELECT pgraft_remove_node({id})"))?;
        equal(leader_among(cluster, &[1, 2, 3])?, before, "leader and term")
    });
}

/// How many packets a node has sent and how often it campaigned.
fn activity(node: &Node) -> Result<String> {
    let sql = "SELECT string_agg(metric || '=' || value, ' ' ORDER BY metric, labels::text) \
               FROM pgraft_get_metrics() WHERE metric = 'pgraft_elections_total' \
               OR (metric = 'pgraft_peer_messages_total' AND labels ->> 'direction' = 'sent')";
    Ok(node.session()?.value(sql)?.unwrap_or_default())
}

#[test]
fn a_removed_node_falls_silent_and_comes_back_when_it_is_added() {
    with(Cluster::form("amnesia-removed", Options::calm()), |cluster| {
        let (leader, at) = cluster.leader()?;
        let (gone, other) = (others(leader)[0], others(leader)[1]);
        let mut session = cluster.node(other).session()?;
        let remove = format!("SELECT pgraft_remove_node({gone})");
        expect(session.is_true(&remove)?, || "not removed".to_owned())?;
        for restarted in [false, true] {
            if restarted {
                cluster.node_mut(gone).stop(Stop::Fast)?;
                cluster.node_mut(gone).start()?;
            }
            let node = cluster.node(gone);
            let status = await_state(node, "removed")?;
            expect(status.get("last_error").contains("removed"), || format!("{status:?}"))?;
            std::thread::sleep(Duration::from_secs(1));
            let before = activity(node)?;
            std::thread::sleep(Duration::from_secs(3));
            equal(activity(node)?, before, "what it sent, and its campaigns")?;
            equal(leader_among(cluster, &[leader, other])?, (leader, at), "leader and term")?;
            let mut session = node.session()?;
            expect(!session.is_true("SELECT pgraft_is_leader()")?, || "leads".to_owned())?;
            expect(!session.is_true("SELECT pgraft_is_healthy()")?, || "healthy".to_owned())?;
            let error = session.error("SELECT pgraft_remove_node(9)")?;
            is_error(&error, "55000", &["this node was removed"])?;
        }
        let address = cluster.node(gone).raft_address();
        let add = format!("SELECT pgraft_add_node('{address}', {gone})");
        expect(session.is_true(&add)?, || "not added".to_owned())?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
        equal(cluster.leader()?.0, leader, "the leader")?;

        // The leader itself: commits, then steps down, and another one leads.
        let mut session = cluster.node(leader).session()?;
        let remove = format!("SELECT pgraft_remove_node({leader})");
        expect(session.is_true(&remove)?, || "the leader was not removed".to_owned())?;
        let rest = others(leader);
        let (next, _) = next_leader_among(cluster, &rest, (leader, at))?;
        await_voters(cluster, &rest, &rest)?;
        await_state(cluster.node(leader), "removed")?;
        let address = cluster.node(leader).raft_address();
        let mut session = cluster.node(next).session()?;
        session.run(&format!("SELECT pgraft_add_node('{address}', {leader})"))?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn a_removal_that_would_leave_no_quorum_is_refused_unless_forced() {
    with(Cluster::form("amnesia-force", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        let (away, other) = (others(leader)[0], others(leader)[1]);
        cluster.node(away).pause();
        let mut session = cluster.node(leader).session()?;
        wait_for("the leader misses the node that stands still", SOON, || {
            let sql = format!("SELECT reachable FROM pgraft_get_nodes() WHERE node_id = {away}");
            Ok((session.value(&sql)?.as_deref() == Some("f")).then_some(()))
        })?;
        for id in [leader, other] {
            let mut session = cluster.node(leader).session()?;
            let error = session.error(&format!("SELECT pgraft_remove_node({id})"))?;
            let insist = format!("pgraft_remove_node({id}, true)");
            is_error(&error, "55000", &["without a quorum", "1 can be reached", &insist])?;
        }
        equal(members(cluster.node(leader), true)?, [1, 2, 3].into(), "the voters")?;

        // Forced, it is begun; it holds once the node that was away confirms it.
        let port = cluster.node(leader).place.pg_port;
        let asking = std::thread::spawn(move || -> Result<bool> {
            let mut session = Session::connect(port)?;
            session.run("SET pgraft.command_timeout = '30s'")?;
            Ok(session.is_true(&format!("SELECT pgraft_remove_node({other}, true)"))?)
        });
        std::thread::sleep(Duration::from_secs(2));
        cluster.node(away).resume();
        let removed = asking.join().map_err(|_| Failure::new("the asking thread panicked"))??;
        expect(removed, || "forced, and false".to_owned())?;
        let rest = [leader, away];
        leader_among(cluster, &rest)?;
        await_voters(cluster, &rest, &rest)?;
        await_state(cluster.node(other), "removed")?;

        // Of two, one gone for good, and the other has noticed: nothing can be committed any more,
        // and that is said in time.
        let (last, _) = leader_among(cluster, &rest)?;
        let away = if last == leader { away } else { leader };
        cluster.node_mut(away).kill();
        let mut session = cluster.node(last).session()?;
        wait_for("the last one leads no more", SOON, || {
            Ok((session.value("SELECT pgraft_get_leader()")?.as_deref() == Some("0")).then_some(()))
        })?;
        session.run("SET pgraft.command_timeout = '2s'")?;
        let error = session.error(&format!("SELECT pgraft_remove_node({away}, true)"))?;
        let timed_out = matches!(error.sqlstate.as_deref(), Some("40003" | "57P03"));
        expect(timed_out && error.to_string().contains(&format!("node {away}")), || {
            format!("neither state nor name: {error}")
        })
    });
}

/// Asks for a change that cannot be committed; the error, which has to come in time.
fn refused_in_time(node: &Node, sql: &str) -> Result<pgraft_cluster::SqlError> {
    let mut session = node.session()?;
    session.run("SET pgraft.command_timeout = '1500ms'")?;
    let began = Instant::now();
    let error = session.error(sql)?;
    let took = began.elapsed();
    println!("after {took:?}: {error}");
    expect(took < SOON, || format!("{sql} took {took:?}: {error}"))?;
    Ok(error)
}

const CHANGES: [&str; 4] = [
    "SELECT pgraft_add_node('127.0.0.1:1', 5)",
    "SELECT pgraft_add_node(5, '127.0.0.1', 1)",
    "SELECT pgraft_remove_node({away})",
    "SELECT pgraft_transfer_leadership({away})",
];

#[test]
fn without_a_quorum_changes_fail_in_time_and_name_who_was_not_reached() {
    with(Cluster::form("amnesia-no-quorum", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        let rest = others(leader);
        rest.iter().for_each(|id| cluster.node_mut(*id).kill());
        let node = cluster.node(leader);
        // At once, while it still leads, and when it does no more.
        let error = refused_in_time(node, "SELECT pgraft_add_node('127.0.0.1:1', 5)")?;
        let sound = matches!(error.sqlstate.as_deref(), Some("40003" | "57P03"));
        expect(sound, || format!("{error}"))?;
        wait_for("it leads no more", SOON, || {
            Ok((!node.session()?.is_true("SELECT pgraft_is_leader()")?).then_some(()))
        })?;
        for sql in CHANGES {
            let error = refused_in_time(node, &sql.replace("{away}", &rest[0].to_string()))?;
            let text = error.to_string();
            is_error(&error, "57P03", &["could not reach a leader", "Nothing was changed"])?;
            for id in &rest {
                let name = format!("node {id} ({})", cluster.node(*id).raft_address());
                expect(text.contains(&name), || format!("no \"{name}\": {text}"))?;
            }
            expect(error.hint.is_some(), || format!("no hint: {text}"))?;
        }
        let status = await_trouble(node, "no quorum: not reached: node")?;
        equal(status.get("has_quorum"), "f", "has_quorum")?;
        // Readers answer on, and so does Postgres.
        equal(members(node, true)?, [1, 2, 3].into(), "the members, as last known")?;
        for id in &rest {
            cluster.node_mut(*id).start()?;
        }
        cluster.leader().map(|_| ())
    });
}

#[test]
fn nodes_that_stand_still_are_named_too() {
    with(Cluster::form("amnesia-still", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        let rest = others(leader);
        rest.iter().for_each(|id| cluster.node(*id).pause());
        let node = cluster.node(leader);
        wait_for("it leads no more", SOON, || {
            Ok((!node.session()?.is_true("SELECT pgraft_is_leader()")?).then_some(()))
        })?;
        // Their sockets stay open, and nobody answers on them; each should be heard once a second.
        std::thread::sleep(Duration::from_secs(2));
        let error = refused_in_time(node, CHANGES[0])?;
        let text = error.to_string();
        for id in &rest {
            expect(text.contains(&format!("node {id} (")), || format!("no node {id}: {text}"))?;
        }
        cluster.nodes().iter().for_each(Node::resume);
        cluster.leader().map(|_| ())
    });
}

#[test]
fn an_election_forced_without_a_quorum_moves_no_term() {
    with(Cluster::form("amnesia-forced", Options::default()), |cluster| {
        // On a node that followed, then on one that led.
        for led in [false, true] {
            let (leader, at) = cluster.leader()?;
            let asked = if led { leader } else { others(leader)[0] };
            let rest = others(asked);
            rest.iter().for_each(|id| cluster.node_mut(*id).kill());
            let node = cluster.node(asked);
            let mut session = node.session()?;
            wait_for("there is no leader", SOON, || {
                let none = session.value("SELECT pgraft_get_leader()")?.as_deref() == Some("0");
                Ok(none.then_some(()))
            })?;
            let before = term(node)?;
            for _ in 0..2 {
                session.notices();
                let forced = session.value("SELECT pgraft_force_election()")?;
                equal(forced.as_deref(), Some("f"), "pgraft_force_election()")?;
                let notices = session.notices();
                let warned = notices.iter().any(|notice| {
                    let named =
                        rest.iter().all(|id| notice.message.contains(&format!("node {id}")));
                    notice.severity == "WARNING" && named
                });
                expect(warned, || format!("no warning that names nodes {rest:?}: {notices:?}"))?;
                std::thread::sleep(Duration::from_millis(1100));
            }
            equal(term(node)?, before, "the term")?;
            for id in &rest {
                cluster.node_mut(*id).start()?;
            }
            let (_, later) = cluster.leader()?;
            expect(later > at, || format!("term {at}, then {later}"))?;
        }
        Ok(())
    });
}
