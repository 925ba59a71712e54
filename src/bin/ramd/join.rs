//! A new member: a copy of the primary in an empty data directory, started, told to take part, and
//! added to the cluster. Each part may be repeated; what is left to do is seen, not remembered.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use pgraft::cluster::Address;

use crate::control;
use crate::daemon::Daemon;
use crate::memory::Step;
use crate::overview::KnownMember;
use crate::primary::Search;
use crate::rejoin::{Rejoin, Way, finish_clone};
use crate::server::Server;
use crate::settings::Settings;
use crate::sql::{Row, Target, ask_once};

/// Adding a node waits for a majority.
const ASK_AT_MOST: Duration = Duration::from_secs(30);

/// Checks that a new member can be made here, and remembers that it is to be. A server that is
/// there already is left alone: it has joined before.
pub fn prepare(daemon: &Daemon, server: &Server) -> Result<(), String> {
    let settings = &daemon.settings;
    let Some(join) = &settings.join else { return Ok(()) };
    if server.has_data() || daemon.memory.get().joining.is_some() {
        return Ok(());
    }
    let data = settings.data.display();
    if fs::read_dir(&settings.data).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("\"{data}\" is not empty: a new member is made in an empty directory"));
    }
    if settings.pgraft_config.starts_with(&settings.data) {
        return Err(format!(
            "\"pgraft_config_file\" must be a file outside \"{data}\" to make a new member there"
        ));
    }
    raft_address(daemon, join)?;
    daemon.memory.change(|memory| memory.joining = Some(join.to_string()))
}

/// Does what is left to do. What was done.
pub fn go_on(daemon: &Daemon, server: &Server) -> Result<String, String> {
    let joining = daemon.memory.get().joining.ok_or("nothing is to be joined")?;
    let member = Address::parse(&joining).map_err(|error| error.to_string())?;
    if daemon.memory.get().step == Step::Swapping {
        finish_clone(daemon, server)?;
    }
    if !server.has_data() {
        copy(daemon, server, &member)?;
    }
    control::start(daemon, server)?;
    let state = take_part(daemon, server)?;
    if state != "member" {
        let id = daemon.pgraft.node_id;
        let address = raft_address(daemon, &member)?;
        let sql = format!("SELECT pgraft_add_node('{address}', {id})");
        ask(&Target::at(&daemon.settings, &member), &sql)?;
    }
    daemon.memory.change(|memory| memory.joining = None)?;
    Ok(format!("a copy was made and added to the cluster through {member}"))
}

/// Makes the data directory.
fn copy(daemon: &Daemon, server: &Server, member: &Address) -> Result<(), String> {
    let sql = "SELECT node_id, pg_address FROM pgraft_get_nodes()";
    let rows = ask(&Target::at(&daemon.settings, member), sql)?;
    let members: Vec<KnownMember> = rows.into_iter().filter_map(known).collect();
    daemon.memory.change(|memory| memory.members = members)?;
    let primary = Search::default().find(daemon, 0)?;
    let why = "a new member is made";
    Rejoin { daemon, server, primary, why }.run(Way::Clone)
}

fn known(row: Row) -> Option<KnownMember> {
    let mut columns = row.into_iter().flatten();
    Some(KnownMember { id: columns.next()?.parse().ok()?, pg_address: columns.next()? })
}

/// Has pgraft begin on the new server; the state that it shows.
fn take_part(daemon: &Daemon, server: &Server) -> Result<String, String> {
    let postmaster = server.postmaster().ok_or("the new server does not run")?;
    let target = server.target(&daemon.settings, &postmaster);
    let target = target.ok_or("the new server does not listen yet")?;
    let rows = ask(&target, "SELECT pgraft_init(); SELECT pgraft_start()")?;
    if rows.len() != 2 {
        return Err("pgraft does not answer on the new server".to_owned());
    }
    let rows = ask(&target, "SELECT state FROM pgraft_status()")?;
    Ok(rows.into_iter().flatten().next().flatten().unwrap_or_default())
}

fn ask(target: &Target, sql: &str) -> Result<Vec<Row>, String> {
    ask_once(target, sql, ASK_AT_MOST)
        .map_err(|error| format!("{}:{}: {error}", target.host, target.port))
}

/// Where the others reach this node.
fn raft_address(daemon: &Daemon, member: &Address) -> Result<Address, String> {
    let config = &daemon.pgraft;
    if let Some(address) = &config.advertise_address {
        return Ok(address.clone());
    }
    let host = match config.bind_address.as_str() {
        "0.0.0.0" | "::" => own_address_towards(member).ok_or_else(|| {
            "the address of this node is unknown: set raft_advertise_address in pgraft.conf"
                .to_owned()
        })?,
        bound => bound.to_owned(),
    };
    Address::new(&host, config.port).map_err(|error| error.to_string())
}

/// The address that this machine has on its way to that one. Nothing is sent.
fn own_address_towards(member: &Address) -> Option<String> {
    let any = if member.host().contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((member.host(), member.port())).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

/// Settings of a new member's server that the primary's copy has wrong.
pub fn settings_of_new(settings: &Settings) -> Vec<(&'static str, String)> {
    vec![("pgraft.config_file", settings.pgraft_config.display().to_string())]
}
