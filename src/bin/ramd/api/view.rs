//! Nodes and the cluster as JSON, in the words that clients of such APIs know (docs/ramd-api.md).

use pgraft::cluster::Address;
use serde_json::{Map, Value, json};

use super::checks::state_name;
use super::moment::Moment;
use super::time::iso8601;
use crate::overview::{KnownMember, Member, Page, PgState, Streaming};
use crate::probe::show_lsn;

/// A file name in the answers, for programs that want to know whom they talk to.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// This node: the body of the health checks. `no`: why the check says no.
pub fn node(moment: &Moment, no: Option<&str>) -> Value {
    let overview = &moment.overview;
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
    let facts = moment.facts();
    let known = if moment.fresh().is_ok() { overview.postgres.state } else { PgState::Unknown };
    put("state", json!(state_name(known)));
    put("role", json!(moment.role()));
    if let Some(no) = no {
        put("reason", json!(no));
    }
    if let Ok(facts) = facts {
        put("server_version", json!(facts.version));
        put("timeline", json!(facts.timeline));
        put("postmaster_start_time", json!(iso8601(facts.started_unix_ms)));
        if facts.in_recovery {
            put(
                "xlog",
                json!({
                    "received_location": facts.received_lsn,
                    "replayed_location": facts.lsn,
                    "paused": facts.replay_paused,
                }),
            );
            put("replication_state", json!(facts.streaming.then_some("streaming")));
            put("lag_bytes", json!(moment.lag_bytes().ok()));
            put("lag_seconds", json!(facts.lag_seconds));
        } else {
            put("xlog", json!({ "location": facts.lsn }));
            let standbys: Vec<Value> = facts.standbys.iter().map(streaming).collect();
            put("replication", json!(standbys));
        }
    }
    put("pause", json!(overview.paused));
    put("cluster_unlocked", json!(moment.page.as_ref().map_or(true, |page| page.leader_id == 0)));
    put("pgraft", pgraft(moment));
    put(
        "ramd",
        json!({
            "version": VERSION,
            "scope": overview.cluster_id,
            "name": overview.node_name,
            "node_id": overview.node_id,
        }),
    );
    Value::Object(body)
}

fn streaming(standby: &Streaming) -> Value {
    json!({
        "application_name": standby.name,
        "state": standby.state,
        "sync_state": standby.sync_state,
        "replay_location": standby.replay_lsn,
    })
}

/// What pgraft's page says at this moment.
fn pgraft(moment: &Moment) -> Value {
    let page = match &moment.page {
        Ok(page) => page,
        Err(why) => {
            return json!({ "known": false, "reason": why, "boottime_ns": moment.now_ns });
        }
    };
    json!({
        "known": true,
        "state": page.state,
        "role": page.role,
        "term": page.term,
        "leader_id": page.leader_id,
        "primary_id": page.primary_id,
        "has_quorum": page.has_quorum,
        "fence": page.fence,
        "window_left_ms": moment.window_left_ms(),
        "lease_left_ms": moment.lease_left_ms(),
        "last_error": page.last_error,
        "boottime_ns": moment.now_ns,
    })
}

/// The cluster as this node knows it.
pub fn cluster(moment: &Moment) -> Value {
    let overview = &moment.overview;
    let page = moment.page.as_ref().ok();
    let members: Vec<Value> = match page {
        Some(page) => page.members.iter().map(|m| member(moment, page, m)).collect(),
        None => overview.known_members.iter().map(known_member).collect(),
    };
    let id = |id: u32| (id != 0).then_some(id);
    json!({
        "members": members,
        "scope": overview.cluster_id,
        "pause": overview.paused,
        "synchronous_mode": overview.synchronous,
        "term": page.map(|page| page.term),
        "leader_id": page.and_then(|page| id(page.leader_id)),
        "primary_id": page.and_then(|page| id(page.primary_id)),
        "has_quorum": page.is_some_and(|page| page.has_quorum),
        "told_by": told_by(moment),
    })
}

/// Whose view it is, how fresh, and how that node itself is.
fn told_by(moment: &Moment) -> Value {
    let overview = &moment.overview;
    let postgres = &overview.postgres;
    let known = if moment.fresh().is_ok() { postgres.state } else { PgState::Unknown };
    json!({
        "node_id": overview.node_id,
        "name": overview.node_name,
        "unix_ms": moment.unix_ms,
        "age_ms": moment.now_ns.saturating_sub(overview.taken_ns) / 1_000_000,
        "stale": moment.fresh().err(),
        "pgraft": pgraft(moment),
        "postgres": {
            "state": state_name(known),
            "reason": postgres.reason,
            "since_unix_ms": postgres.since_unix_ms,
            "probe_us": postgres.probe_us,
            "role": moment.role(),
        },
        "disk": overview.disk,
        "doing": overview.doing,
        "last_error": overview.last_error,
    })
}

/// A member; `lag` and `state` as far as this node can know them.
pub fn member(moment: &Moment, page: &Page, member: &Member) -> Value {
    let own = member.id == moment.overview.node_id;
    let facts = moment.facts().ok();
    let (host, port) = host_and_port(&member.pg_address);
    let timeline = facts.filter(|_| own).map(|facts| facts.timeline);
    json!({
        "name": member.name,
        "id": member.id,
        "role": role(moment, page, member),
        "state": state(moment, page, member),
        "host": host,
        "port": port,
        "timeline": timeline,
        "lag": lag(page, member),
        "location": (member.wal_lsn != 0).then_some(member.wal_lsn),
        "lsn": (member.wal_lsn != 0).then(|| show_lsn(member.wal_lsn)),
        "raft_address": member.raft_address,
        "raft_leader": page.leader_id == member.id,
        "voter": member.voter,
        "reachable": member.reachable,
        "last_contact_ms": last_contact_ms(moment, member),
        "round_trip_us": (member.round_trip_us != 0).then_some(member.round_trip_us),
    })
}

fn known_member(member: &KnownMember) -> Value {
    let (host, port) = host_and_port(&member.pg_address);
    json!({
        "name": format!("node{}", member.id),
        "id": member.id,
        "role": "unknown",
        "state": "unknown",
        "host": host,
        "port": port,
        "timeline": null,
        "lag": null,
        "location": null,
        "lsn": null,
        "raft_address": null,
        "raft_leader": false,
        "voter": null,
        "reachable": null,
        "last_contact_ms": null,
        "round_trip_us": null,
    })
}

fn host_and_port(address: &str) -> (Option<String>, Option<u16>) {
    let address = Address::parse(address).ok();
    let host = address.as_ref().map(|address| address.host().to_owned());
    (host, address.map(|address| address.port()))
}

/// Milliseconds since the member was last heard.
pub fn last_contact_ms(moment: &Moment, member: &Member) -> Option<u64> {
    let heard_us = member.last_contact_unix_us?.unsigned_abs();
    Some(moment.unix_ms.saturating_sub(heard_us / 1000))
}

/// How far a standby is behind the primary, in bytes, by what both last said.
pub fn lag(page: &Page, member: &Member) -> Option<u64> {
    let primary = page.member(page.primary_id).filter(|primary| primary.wal_lsn != 0)?;
    let is_standby = member.id != page.primary_id && member.pg_role == Some("standby");
    let known = is_standby && member.reachable != Some(false) && member.wal_lsn != 0;
    known.then(|| primary.wal_lsn.saturating_sub(member.wal_lsn))
}

/// `leader`: the primary by the log's word, as others call it.
fn role(moment: &Moment, page: &Page, member: &Member) -> &'static str {
    let quorum = moment.overview.synchronous && member.voter;
    match member.pg_role {
        _ if member.id == page.primary_id => "leader",
        Some("standby") if quorum => "quorum_standby",
        Some("standby") => "replica",
        Some("primary") if page.primary_id != 0 => "deposed",
        Some("primary") => "primary",
        _ => "unknown",
    }
}

fn state(moment: &Moment, page: &Page, member: &Member) -> &'static str {
    let overview = &moment.overview;
    let facts = moment.facts().ok();
    if member.id == overview.node_id {
        return match facts {
            Some(facts) if facts.in_recovery && facts.streaming => "streaming",
            Some(_) => "running",
            None if moment.fresh().is_err() => "unknown",
            None => state_name(overview.postgres.state),
        };
    }
    if member.reachable == Some(false) {
        return "unreachable";
    }
    let name = format!("pgraft_{}", member.id);
    let seen = facts.and_then(|facts| facts.standbys.iter().find(|standby| standby.name == name));
    match (seen, member.pg_role) {
        (Some(standby), _) if standby.state == "streaming" => "streaming",
        (_, Some(_)) => "running",
        (_, None) if page.has_quorum => "stopped",
        (_, None) => "unknown",
    }
}

/// Whether everything is as it should be; `Err`: what is not.
pub fn health(moment: &Moment) -> Result<(), Vec<String>> {
    let mut wrong = Vec::new();
    match &moment.page {
        Err(why) => wrong.push(format!("pgraft is unknown: {why}")),
        Ok(page) => {
            if !page.has_quorum {
                wrong.push("there is no quorum".to_owned());
            }
            if page.primary_id == 0 {
                wrong.push("there is no primary".to_owned());
            }
            for member in &page.members {
                let what = match (member.reachable, member.pg_role) {
                    (Some(false), _) => "does not answer",
                    (_, None) => "has no PostgreSQL that is up",
                    (_, Some("standby")) if member.id == page.primary_id => {
                        "is to be the primary, and is a standby yet"
                    }
                    (_, Some("primary")) if member.id != page.primary_id => "is a deposed primary",
                    _ => continue,
                };
                wrong.push(format!("node {} {what}", member.id));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// How many members do what they should.
pub fn healthy_nodes(page: &Page) -> usize {
    let healthy = |member: &&Member| {
        let expected = if member.id == page.primary_id { "primary" } else { "standby" };
        member.reachable != Some(false) && member.pg_role == Some(expected)
    };
    page.members.iter().filter(healthy).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::samples::*;

    #[test]
    fn the_primary_says_what_such_clients_look_for() {
        let body = node(&primary(), None);
        assert_eq!(body["state"], "running");
        assert_eq!(body["role"], "primary");
        assert_eq!(body["timeline"], 3);
        assert_eq!(body["xlog"]["location"], 0x500_1000);
        assert_eq!(body["replication"][0]["application_name"], "pgraft_2");
        assert_eq!(body["pgraft"]["window_left_ms"], 700);
        assert_eq!(body.get("reason"), None);
    }

    #[test]
    fn a_standby_says_how_far_it_is() {
        let body = node(&standby(), Some("this is a standby"));
        assert_eq!(
            (&body["role"], &body["reason"]),
            (&json!("replica"), &json!("this is a standby"))
        );
        assert_eq!(body["xlog"]["received_location"], 0x500_0000);
        assert_eq!(body["lag_bytes"], 4096);
    }

    #[test]
    fn the_cluster_lists_its_members() {
        let body = cluster(&primary());
        let roles: Vec<&str> =
            (0..3).map(|n| body["members"][n]["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["leader", "replica", "replica"]);
        assert_eq!(body["members"][1]["lag"], 4096);
        assert_eq!(body["members"][1]["state"], "streaming");
        assert_eq!(body["members"][0]["lag"], Value::Null);
        assert_eq!(
            (&body["members"][0]["host"], &body["members"][0]["port"]),
            (&json!("127.0.0.1"), &json!(5501))
        );
    }

    #[test]
    fn without_a_page_the_members_are_those_last_seen() {
        let mut moment = standby();
        moment.page = Err("no segment".into());
        set(&mut moment, |overview| {
            overview.known_members =
                vec![KnownMember { id: 1, pg_address: "127.0.0.1:5501".into() }];
        });
        let body = cluster(&moment);
        assert_eq!(body["members"][0]["state"], "unknown");
        assert_eq!(body["leader_id"], Value::Null);
        assert_eq!(body["told_by"]["pgraft"]["reason"], "no segment");
        assert_eq!(health(&moment).unwrap_err(), ["pgraft is unknown: no segment"]);
    }

    #[test]
    fn what_is_wrong_is_said_by_node() {
        assert_eq!(health(&primary()), Ok(()));
        let mut moment = primary();
        page_of(&mut moment).members[2].reachable = Some(false);
        page_of(&mut moment).members[1].pg_role = Some("primary");
        assert_eq!(
            health(&moment).unwrap_err(),
            ["node 2 is a deposed primary", "node 3 does not answer"],
        );
        assert_eq!(healthy_nodes(moment.page.as_ref().unwrap()), 1);
        let body = cluster(&moment);
        assert_eq!(body["members"][2]["lag"], Value::Null);
        assert_eq!(body["members"][2]["state"], "unreachable");
    }
}
