//! `/api/v1`: everything in one envelope.

use std::sync::Arc;
use std::time::Duration;

use pgraft::http::{Method, Request, Response};
use serde_json::{Value, json};

use super::changes::{self, Path};
use super::envelope::{self, Refusal};
use super::moment::Moment;
use super::{Api, events, plan, view};
use crate::history::EVENTS_MAX;
use crate::orders::What;
use crate::settings::Settings;

/// Lines of pgraft's log.
const LINES_DEFAULT: u32 = 100;
const LINES_MAX: u32 = 1000;
const LOGS_AT_MOST: Duration = Duration::from_secs(5);

/// What a path is for.
enum Place<'a> {
    Read(fn(&Api, &Request) -> Response),
    ReadOne(fn(&Api, &str) -> Response, &'a str),
    /// A read that needs the token, because logs may tell more than everybody may know.
    ReadSecret(fn(&Api, &Request) -> Response),
    Change(Path<'a>),
}

/// The answer, and the path that it is counted under.
pub fn answer(api: &Arc<Api>, request: &Request) -> (&'static str, Response) {
    let Some((counted, place)) = place(&request.path) else {
        let refusal = Refusal::new(404, "not_found", "there is nothing at this path")
            .hint("GET /openapi.yaml lists what there is.");
        return ("other", refusal.response());
    };
    let allow = match place {
        Place::Change(_) => "OPTIONS, POST",
        _ => "GET, HEAD, OPTIONS",
    };
    let response = match (place, request.method) {
        (_, Method::Options) => {
            Response { status: 204, headers: Vec::new(), body: Vec::new() }.with("Allow", allow)
        }
        (Place::Read(read), Method::Get | Method::Head) => read(api, request),
        (Place::ReadOne(read, one), Method::Get | Method::Head) => read(api, one),
        (Place::ReadSecret(read), Method::Get | Method::Head) => match api.token.check(request) {
            Ok(()) => read(api, request),
            Err(no) => no,
        },
        (Place::Change(path), Method::Post) => change(api, request, &path),
        _ => Refusal::new(405, "method_not_allowed", format!("this path takes {allow}"))
            .response()
            .with("Allow", allow),
    };
    (counted, response)
}

fn place(path: &str) -> Option<(&'static str, Place<'_>)> {
    let rest = path.strip_prefix("/api/v1/")?;
    Some(match rest {
        "health" => ("/api/v1/health", Place::Read(health)),
        "cluster/health" => ("/api/v1/cluster/health", Place::Read(cluster_health)),
        "cluster/status" => ("/api/v1/cluster/status", Place::Read(cluster_status)),
        "nodes" => ("/api/v1/nodes", Place::Read(nodes)),
        "config" => ("/api/v1/config", Place::Read(config)),
        "history" => ("/api/v1/history", Place::Read(history)),
        "operations" => ("/api/v1/operations", Place::Read(operations)),
        "logs" => ("/api/v1/logs", Place::ReadSecret(logs)),
        "cluster/switchover" => ("/api/v1/cluster/switchover", Place::Change(Path::Switchover)),
        "cluster/failover" => ("/api/v1/cluster/failover", Place::Change(Path::Failover)),
        "cluster/pause" => ("/api/v1/cluster/pause", Place::Change(Path::Pause)),
        "cluster/resume" => ("/api/v1/cluster/resume", Place::Change(Path::Resume)),
        "config/reload" => ("/api/v1/config/reload", Place::Change(Path::Reload)),
        _ => match rest.split('/').collect::<Vec<_>>()[..] {
            ["nodes", id] if !id.is_empty() => ("/api/v1/nodes/{id}", Place::ReadOne(node, id)),
            ["nodes", id, verb] if !id.is_empty() => {
                let (counted, what) = match verb {
                    "start" => ("/api/v1/nodes/{id}/start", What::Start),
                    "stop" => ("/api/v1/nodes/{id}/stop", What::Stop),
                    "restart" => ("/api/v1/nodes/{id}/restart", What::Restart),
                    _ => return None,
                };
                (counted, Place::Change(Path::Server(what, id)))
            }
            ["operations", id] if !id.is_empty() => {
                ("/api/v1/operations/{id}", Place::ReadOne(operation, id))
            }
            _ => return None,
        },
    })
}

/// Who may not is told so before anything about what was asked.
fn change(api: &Arc<Api>, request: &Request, path: &Path<'_>) -> Response {
    if let Err(no) = api.token.check(request) {
        return no;
    }
    match changes::read(path, &request.body) {
        Ok(change) => changes::answer(api, request, change),
        Err(refusal) => refusal.response(),
    }
}

/// This node.
fn health(api: &Api, _: &Request) -> Response {
    let moment = Moment::take(&api.daemon);
    let mut wrong = Vec::new();
    wrong.extend(moment.facts().err());
    match moment.page() {
        Err(why) => wrong.push(why),
        Ok(page) if page.state != "member" => {
            wrong.push(format!("this node is no member of a cluster: it is {}", page.state));
        }
        Ok(page) if !page.has_quorum => wrong.push("no leader is heard, or no quorum".to_owned()),
        Ok(_) if moment.role() == "deposed" => {
            wrong.push("this is a deposed primary, yet to become a standby".to_owned());
        }
        Ok(page) => {
            wrong.extend((!page.last_error.is_empty()).then(|| page.last_error.clone()));
        }
    }
    let data = json!({
        "healthy": wrong.is_empty(),
        "problems": wrong,
        "node": view::node(&moment, None),
    });
    told(&wrong, "this node is well", data)
}

fn told(wrong: &[String], well: &str, data: Value) -> Response {
    match wrong.is_empty() {
        true => envelope::ok(200, well, data),
        false => envelope::error(503, &wrong.join("; "), data),
    }
}

fn cluster_health(api: &Api, _: &Request) -> Response {
    let moment = Moment::take(&api.daemon);
    let wrong = view::health(&moment).err().unwrap_or_default();
    let page = moment.page.as_ref().ok();
    let data = json!({
        "healthy": wrong.is_empty(),
        "problems": wrong,
        "nodes": page.map(|page| page.members.len()),
        "healthy_nodes": page.map(view::healthy_nodes),
        "has_quorum": page.is_some_and(|page| page.has_quorum),
        "primary_id": page.map(|page| page.primary_id).filter(|id| *id != 0),
        "paused": moment.overview.paused,
    });
    told(&wrong, "the cluster is well", data)
}

fn cluster_status(api: &Api, _: &Request) -> Response {
    let data = view::cluster(&Moment::take(&api.daemon));
    envelope::ok(200, "the cluster as this node knows it", data)
}

fn nodes(api: &Api, _: &Request) -> Response {
    let mut data = view::cluster(&Moment::take(&api.daemon));
    envelope::ok(200, "the members", json!({ "nodes": data["members"].take() }))
}

fn node(api: &Api, id: &str) -> Response {
    let moment = Moment::take(&api.daemon);
    let found = match moment.page() {
        Err(why) => return Refusal::new(503, "unknown", why).response(),
        Ok(page) => plan::find(page, id).map(|member| view::member(&moment, page, member)),
    };
    match found {
        Ok(member) => envelope::ok(200, "a member", member),
        Err(refusal) => Refusal { status: 404, ..refusal }.response(),
    }
}

fn history(api: &Api, request: &Request) -> Response {
    match events(api, request) {
        Some(events) => envelope::ok(200, "the latest last", json!({ "events": events })),
        None => {
            let why = format!("limit must be a number from 1 to {EVENTS_MAX}");
            Refusal::new(400, "bad_request", why).response()
        }
    }
}

fn operations(api: &Api, _: &Request) -> Response {
    let data = json!({ "operations": api.operations.list() });
    envelope::ok(200, "the latest last", data)
}

fn operation(api: &Api, id: &str) -> Response {
    match id.parse().ok().and_then(|id| api.operations.get(id)) {
        Some(operation) => envelope::ok(200, operation.what, json!({ "operation": operation })),
        None => Refusal::new(404, "not_found", "there is no such operation, or no more").response(),
    }
}

fn config(api: &Api, _: &Request) -> Response {
    let pgraft = api.daemon.pgraft_now();
    let data = json!({
        "file": api.daemon.settings.path,
        "ramd": settings(&api.daemon.settings),
        "pgraft": {
            "file": api.daemon.settings.pgraft_config,
            "raft_node_id": api.daemon.pgraft.node_id.get(),
            "raft_cluster_id": api.daemon.pgraft.cluster_id,
            "node_name": api.daemon.pgraft.node_name,
            "synchronous_mode": if pgraft.synchronous { "quorum" } else { "off" },
        },
    });
    envelope::ok(200, "what is in force, by key", data)
}

/// Each key of ramd.conf with what is in force; null: nothing is set, and there is no default. None
/// of them is a secret: those are in files of their own, of which this has the names.
fn settings(settings: &Settings) -> Value {
    let ms = |duration: Duration| duration.as_millis() as u64;
    json!({
        "postgresql_data_directory": settings.data,
        "postgresql_bin_directory": settings.bin,
        "postgresql_config_file": settings.config_file,
        "postgresql_log_file": settings.server_log,
        "postgresql_host": settings.host,
        "postgresql_user": settings.user,
        "postgresql_database": settings.database,
        "postgresql_passfile": settings.passfile,
        "postgresql_replication_user": settings.replication_user,
        "postgresql_shmem_key": settings.shmem_key,
        "postgresql_start_timeout_seconds": settings.start_timeout.as_secs(),
        "postgresql_stop_timeout_seconds": settings.stop_timeout.as_secs(),
        "pgraft_config_file": settings.pgraft_config,
        "ramd_state_directory": settings.state,
        "ramd_log_level": settings.log_level.as_str().to_ascii_lowercase(),
        "ramd_log_file": settings.log_file,
        "monitor_interval_ms": ms(settings.monitor_interval),
        "probe_timeout_ms": ms(settings.probe_timeout),
        "hung_timeout_seconds": settings.hung_timeout.as_secs(),
        "auto_start_enabled": settings.auto_start,
        "auto_rejoin_enabled": settings.auto_rejoin,
        "auto_clone_enabled": settings.auto_clone,
        "retry_interval_ms": ms(settings.retry_interval),
        "retry_interval_max_ms": ms(settings.retry_interval_max),
        "join": settings.join.as_ref().map(ToString::to_string),
        "http_enabled": settings.http.is_some(),
        "http_bind_address": settings.http.map(|address| address.ip().to_string()),
        "http_port": settings.http.map(|address| address.port()),
        "http_token_file": settings.http_token,
    })
}

/// pgraft's own log, which the server tells.
fn logs(api: &Api, request: &Request) -> Response {
    let lines = match request.param("lines").map(str::parse) {
        None => LINES_DEFAULT,
        Some(Ok(lines)) if (1..=LINES_MAX).contains(&lines) => lines,
        Some(_) => {
            let why = format!("lines must be a number from 1 to {LINES_MAX}");
            return Refusal::new(400, "bad_request", why).response();
        }
    };
    let settings = &api.daemon.settings;
    let server = api.daemon.server();
    let target = server.postmaster().and_then(|postmaster| server.target(settings, &postmaster));
    let Some(target) = target else {
        return Refusal::new(503, "no_server", "PostgreSQL is down").response();
    };
    let sql = format!(
        "SELECT (extract(epoch FROM logged_at) * 1000)::bigint, level, message \
         FROM pgraft_get_logs({lines})"
    );
    let rows = match api.logs.ask(&target, &sql, LOGS_AT_MOST) {
        Ok(rows) => rows,
        Err(error) => return Refusal::new(503, "no_server", error.to_string()).response(),
    };
    let line = |row: &Vec<Option<String>>| {
        let text = |n: usize| row.get(n).cloned().flatten().unwrap_or_default();
        json!({
            "unix_ms": text(0).parse::<u64>().unwrap_or(0),
            "level": text(1),
            "message": text(2),
        })
    };
    let lines: Vec<Value> = rows.iter().map(line).collect();
    envelope::ok(200, "the latest last", json!({ "lines": lines }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KEYS;

    #[test]
    fn every_key_of_ramd_conf_is_told_and_nothing_else() {
        let path = std::env::temp_dir().join(format!("ramd-told-{}.conf", std::process::id()));
        let text = "postgresql_data_directory = /data\njoin = db1:5432\nhttp_port = 8009\n";
        std::fs::write(&path, text).unwrap();
        let told = settings(&Settings::load(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let mut keys: Vec<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
        let mut wanted = KEYS;
        keys.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(keys, wanted);
        assert_eq!(told["pgraft_config_file"], "/data/pgraft.conf");
        assert_eq!((&told["join"], &told["http_port"]), (&json!("db1:5432"), &json!(8009)));
        assert_eq!(
            (&told["http_enabled"], &told["postgresql_shmem_key"]),
            (&json!(true), &json!(null))
        );
    }
}
