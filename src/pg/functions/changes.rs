//! The functions that change something, on this node or in the cluster.

use pgrx::pg_extern;

use crate::cluster::{Address, Request};
use crate::pg::{command, report, shared};
use crate::raft::NodeId;

/// How much of a bad value a message repeats.
const QUOTED_CHARS_MAX: usize = 80;

#[pg_extern]
fn pgraft_init() -> bool {
    command::run(Request::Init)
}

#[pg_extern]
fn pgraft_start() -> bool {
    command::run(Request::Start)
}

#[pg_extern]
fn pgraft_stop() -> bool {
    command::run(Request::Stop)
}

#[pg_extern]
fn pgraft_force_election() -> bool {
    command::run(Request::ForceElection)
}

#[pg_extern]
fn pgraft_add_node(address: Option<&str>, node_id: Option<i32>) -> bool {
    shared::get_or_raise();
    let address = checked_address(address);
    let node = checked_node(node_id);
    command::run(Request::AddNode { node, address })
}

#[pg_extern]
fn pgraft_add_node_port(node_id: Option<i32>, host: Option<&str>, port: Option<i32>) -> bool {
    shared::get_or_raise();
    let node = checked_node(node_id);
    let address = checked_host_and_port(host, port);
    command::run(Request::AddNode { node, address })
}

#[pg_extern]
fn pgraft_remove_node(node_id: Option<i32>, force: Option<bool>) -> bool {
    shared::get_or_raise();
    let node = checked_node(node_id);
    let force = force.unwrap_or_else(|| report::raise_null("force"));
    command::run(Request::RemoveNode { node, force })
}

#[pg_extern]
fn pgraft_transfer_leadership(node_id: Option<i32>) -> bool {
    shared::get_or_raise();
    command::run(Request::TransferLeadership { node: checked_node(node_id) })
}

#[pg_extern]
fn pgraft_pause() -> bool {
    shared::get_or_raise();
    command::run(Request::SetPaused { paused: true })
}

#[pg_extern]
fn pgraft_resume() -> bool {
    shared::get_or_raise();
    command::run(Request::SetPaused { paused: false })
}

/// While the worker is down it is told by the page, when it comes back.
#[pg_extern]
fn pgraft_set_debug(enabled: Option<bool>) -> bool {
    let shared = shared::get_or_raise();
    let enabled = enabled.unwrap_or_else(|| report::raise_null("enabled"));
    shared.page().set_debug(enabled);
    match shared.page().worker_pid() {
        Some(_) => command::run(Request::SetDebug { enabled }),
        None => true,
    }
}

fn checked_node(node_id: Option<i32>) -> NodeId {
    let node_id = node_id.unwrap_or_else(|| report::raise_null("node_id"));
    NodeId::new(node_id.into()).unwrap_or_else(|| {
        report::raise_invalid(
            format!("invalid node id: {node_id}"),
            "",
            "Node ids are numbers from 1 to 2147483647, raft_node_id in each pgraft.conf.",
        )
    })
}

fn checked_address(text: Option<&str>) -> Address {
    let text = text.unwrap_or_else(|| report::raise_null("address"));
    Address::parse(text).unwrap_or_else(|error| {
        report::raise_invalid(
            format!("invalid address: \"{}\"", shortened(text)),
            &sentence(&error.to_string()),
            "Write it as host:port, for example 'db2.example.net:7400' or '[::1]:7400'.",
        )
    })
}

fn checked_host_and_port(host: Option<&str>, port: Option<i32>) -> Address {
    let host = host.unwrap_or_else(|| report::raise_null("address"));
    let port = port.unwrap_or_else(|| report::raise_null("port"));
    let Some(number) = u16::try_from(port).ok().filter(|port| *port != 0) else {
        report::raise_invalid(
            format!("invalid port: {port}"),
            "",
            "The port is a number from 1 to 65535, raft_port in that node's pgraft.conf.",
        )
    };
    // Colons belong to IPv6 addresses only: 'host:7400' here is a port given twice.
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    match Address::new(host, number) {
        Ok(address) if is_v6 || !host.contains(':') => address,
        _ => report::raise_invalid(
            format!("invalid host: \"{}\"", shortened(host)),
            "The host must be a name or an IP address of at most 253 characters.",
            "Give the port as the third argument, or use pgraft_add_node('host:port', node_id).",
        ),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or(String::new(), |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}
