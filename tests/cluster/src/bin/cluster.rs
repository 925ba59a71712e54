//! `make cluster`: three servers with pgraft, and a ramd beside each, below `target/cluster`, to
//! play with.
//!
//! What runs is found again by each node's postmaster.pid and ramd.pid; nothing else is ever
//! signalled.

use std::net::TcpListener;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use pgraft_cluster::wait_for;
use pgraft_cluster::{Failure, Home, Install, Node, Place, Result, Stop, http, leader_of, table};

const NODES: u32 = 3;
const FIRST_PG_PORT: u16 = 5501;
const FIRST_RAFT_PORT: u16 = 7400;
const FIRST_METRICS_PORT: u16 = 9091;
const FIRST_API_PORT: u16 = 8008;
const FIRST_SHMEM_KEY: i32 = 12345;
/// Three freshly started nodes agree within two seconds; a busy machine takes longer.
const LEADER_AT_MOST: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let outcome = match command.as_str() {
        "up" => up(),
        "status" => status(),
        "stop" => stop(),
        "clean" => clean(),
        _ => Err(Failure::new("usage: cluster up|status|stop|clean")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cluster: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Makes what is missing, starts what is down, waits for a leader, shows the table.
fn up() -> Result<()> {
    let (home, install, mut nodes) = open()?;
    install.require_extension()?;
    if let Some(wanted) = &home.aside_of {
        println!(
            "user \"{}\" cannot enter \"{}\": the servers' files are in \"{}\"",
            home.account.name,
            wanted.display(),
            home.folder.display(),
        );
    }
    note_old_builds(&install, &nodes);
    for i in 0..nodes.len() {
        let (before, rest) = nodes.split_at_mut(i);
        bring_up(&home, &mut rest[0], before.first())?;
    }
    let Some(primary) = primary(&nodes)? else {
        return Err(Failure::new("none of the servers is a primary"));
    };
    primary.session()?.run("CREATE EXTENSION IF NOT EXISTS pgraft")?;
    for node in &nodes {
        let sql = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgraft')";
        let what = format!("node {} has the extension by replication", node.id());
        wait_for(&what, LEADER_AT_MOST, || Ok(node.session()?.is_true(sql)?.then_some(())))?;
        let mut session = node.session()?;
        session.run("SELECT pgraft_init()")?;
        session.run("SELECT pgraft_start()")?;
    }
    println!("waiting for a leader ...");
    let leader = wait_for("the nodes agree on one leader", LEADER_AT_MOST, || leader_of(&nodes));
    nodes.iter().try_for_each(Node::daemonize_ramd)?;
    // A daemon is in the background before it has asked its server anything.
    wait_for("all that is served over HTTP answers", LEADER_AT_MOST, || {
        nodes.iter().try_for_each(ask).map(Some)
    })?;
    print!("\n{}", table(&nodes));
    leader.map(|(leader, term)| {
        println!("\nnode {leader} leads in term {term}. Each node's files, its log among them:");
        println!("  {}/node1 ... node{NODES}", home.folder.display());
        println!("Try:  {} -h 127.0.0.1 -p {FIRST_PG_PORT} -U postgres \\", psql(&install));
        println!("        -c 'SELECT * FROM pgraft_get_nodes()'");
        let last = FIRST_API_PORT + NODES as u16 - 1;
        println!("Page: http://127.0.0.1:{FIRST_API_PORT}/ui, and on each ramd to port {last}");
        println!(
            "Metrics: http://127.0.0.1:{FIRST_METRICS_PORT}/metrics, to port {}",
            FIRST_METRICS_PORT + NODES as u16 - 1
        );
    })
}

/// Shows the table. Unless all are down, whatever should answer and does not is a failure.
fn status() -> Result<()> {
    let (_, _, nodes) = open()?;
    print!("{}", table(&nodes));
    if !nodes.iter().any(Node::is_running) {
        return Ok(());
    }
    nodes.iter().try_for_each(ask)?;
    let last = NODES as u16 - 1;
    println!(
        "\nEach ramd ({FIRST_API_PORT} to {}) and each metrics port ({FIRST_METRICS_PORT} to {}) \
         answers.",
        FIRST_API_PORT + last,
        FIRST_METRICS_PORT + last,
    );
    Ok(())
}

/// Asks a node's ramd, and where it serves its metrics; fails unless both answer as they should.
fn ask(node: &Node) -> Result<()> {
    let metrics = format!("127.0.0.1:{}", node.place.metrics_port.unwrap_or_default());
    let ramd = node.api_address();
    for (address, path, part) in [
        (&ramd, "/liveness", "\"state\""),
        (&ramd, "/health", "\"running\""),
        (&ramd, "/metrics", "ramd_postgres_up 1"),
        (&metrics, "/metrics", "pgraft_up 1"),
    ] {
        let answer = http::get(address, path)?;
        if answer.status != 200 || !answer.body.contains(part) {
            return Err(Failure::new(format!(
                "http://{address}{path} of node {} answers {}: {}",
                node.id(),
                answer.status,
                answer.body,
            )));
        }
    }
    Ok(())
}

fn stop() -> Result<()> {
    let (_, _, mut nodes) = open()?;
    // First: they would start the servers again.
    nodes.iter().try_for_each(Node::end_ramd)?;
    // The primary last: it waits until its standbys have everything, and they must be there.
    let primary = primary(&nodes).ok().flatten().map(Node::id);
    nodes.sort_by_key(|node| Some(node.id()) == primary);
    for node in nodes.iter_mut().filter(|node| node.is_running()) {
        println!("stopping node {} ...", node.id());
        node.stop(Stop::Fast)?;
    }
    println!("all three are down");
    Ok(())
}

fn clean() -> Result<()> {
    let (home, _, mut nodes) = open()?;
    nodes.iter().try_for_each(Node::end_ramd)?;
    nodes.iter_mut().for_each(Node::end);
    home.remove()?;
    println!("{} is removed", home.folder.display());
    Ok(())
}

fn open() -> Result<(Home, Install, Vec<Node>)> {
    let home = Home::open("cluster")?;
    let install = Install::find(&home.account)?;
    let nodes = (0..NODES)
        .map(|i| {
            let offset = i as u16;
            let place = Place {
                id: i + 1,
                folder: home.folder.join(format!("node{}", i + 1)),
                host: "127.0.0.1".to_owned(),
                namespace: None,
                pg_port: FIRST_PG_PORT + offset,
                raft_port: FIRST_RAFT_PORT + offset,
                shmem_key: FIRST_SHMEM_KEY + i as i32,
                metrics_port: Some(FIRST_METRICS_PORT + offset),
                api_port: Some(FIRST_API_PORT + offset),
            };
            Node::new(place, &install, &home.account)
        })
        .collect();
    Ok((home, install, nodes))
}

/// Makes a node's files if they are not complete and starts it if it is down.
fn bring_up(home: &Home, node: &mut Node, primary: Option<&Node>) -> Result<()> {
    if node.is_running() {
        println!("node {} runs already", node.id());
        return Ok(());
    }
    let place = &node.place;
    for port in [place.pg_port, place.raft_port].into_iter().chain(place.metrics_port) {
        TcpListener::bind(("127.0.0.1", port)).map_err(|error| {
            Failure::new(format!(
                "node {} needs port {port}, which another program has: {error}",
                node.id(),
            ))
        })?;
    }
    // Written last, so that a making that was interrupted is begun anew.
    let made = node.place.folder.join("made");
    if !made.exists() {
        match primary {
            None => {
                println!("node {}: initdb, a primary ...", node.id());
                if node.data().exists() {
                    node.end();
                    std::fs::remove_dir_all(node.data())
                        .map_err(Failure::while_doing("remove a half-made data directory"))?;
                }
                node.init()?;
            }
            Some(primary) => {
                println!("node {}: pg_basebackup from node {} ...", node.id(), primary.id());
                node.base_backup(primary)?;
            }
        }
        let peers: Vec<String> = (0..NODES as u16)
            .map(|offset| format!("localhost:{}", FIRST_RAFT_PORT + offset))
            .collect();
        node.configure(true, "")?;
        node.configure_pgraft(&peers, true, "")?;
        home.account.write_file(&made, "")?;
    }
    println!("node {}: starting on port {} ...", node.id(), node.place.pg_port);
    node.start()
}

fn primary(nodes: &[Node]) -> Result<Option<&Node>> {
    for node in nodes.iter().filter(|node| node.is_running()) {
        if !node.session()?.is_true("SELECT pg_is_in_recovery()")? {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

/// A server keeps the library that it was started with: said, because it surprises.
fn note_old_builds(install: &Install, nodes: &[Node]) {
    let installed = std::fs::metadata(&install.library).and_then(|m| m.modified());
    for node in nodes.iter().filter(|node| node.is_running()) {
        let started = std::fs::metadata(node.data().join("postmaster.pid"))
            .and_then(|m| m.created().or_else(|_| m.modified()));
        if let (Ok(installed), Ok(started)) = (&installed, started)
            && started < *installed
            && *installed <= SystemTime::now()
        {
            println!("node {} still runs an older build: make cluster-stop cluster", node.id());
        }
    }
}

fn psql(install: &Install) -> String {
    install.program("psql").display().to_string()
}
