//! What this node is: pgraft.conf, the identity in its data directory, and whether consensus runs.
//! Nothing that is wrong here stops Postgres: it is logged, shown in `pgraft_status()`, and raised
//! by the function that needed it.

use std::path::Path;

use pgrx::pg_sys;

use crate::cluster::{Answer, Done, Failure, FailureKind, Uuid};
use crate::config::{Config, ConfigError};
use crate::pg::{facts, guc, shared};
use crate::runtime::failures::failure;
use crate::runtime::{self, Runtime, Setup, storage_failure};
use crate::shmem::{NodeState, Pages, RoleCode, SysvPage, View};
use crate::storage::{FileDisk, Identity, StorageError, check_location};
use crate::sys;

use super::Worker;

type Outcome<T> = Result<T, Failure>;

/// Of a stop that could not be written down.
const FORGETS_STOP: &str =
    "Consensus does not run on this node, but may again once the server or its worker restarts.";

/// What pgraft.conf and its data directory say.
pub(super) struct Found {
    pub(super) config: Config,
    pub(super) identity: Option<Identity>,
    /// About the directory; it may be used all the same.
    pub(super) warnings: Vec<String>,
}

impl Worker {
    /// `pgraft_init()`.
    pub(super) fn init(&mut self) -> Answer {
        // What runs is what counts; the file may have changed since.
        if let (Some(_), Some(config)) = (&self.runtime, &self.config) {
            return Ok(initialized_already(config));
        }
        let outcome = self.look_around().and_then(create_if_new);
        match &outcome {
            // What it waits for is shown already.
            _ if self.retry.due_ns().is_some() => {}
            Ok(_) => self.show(NodeState::Stopped, ""),
            Err(failure) => self.show_failure(failure),
        }
        outcome
    }

    /// `pgraft_start()`.
    pub(super) fn start(&mut self) -> Answer {
        if self.runtime.is_some() {
            let notice = "consensus is already running on this node".to_owned();
            return Ok(Done { value: true, notice, ..Done::default() });
        }
        let outcome = self.look_around().and_then(|Found { config, identity, warnings }| {
            match identity {
                Some(identity) => self.start_consensus(config, identity, &warnings).map(Ok),
                // Nothing is wrong with this node.
                None => {
                    self.retry.give_up();
                    self.show(NodeState::Stopped, "");
                    Ok(Err(not_initialized()))
                }
            }
        });
        match outcome {
            Ok(started) => started.map(|()| Done { value: true, ..Done::default() }),
            Err(failure) => {
                match self.retry.due_ns() {
                    Some(_) => self.try_later(&failure),
                    None => self.show_failure(&failure),
                }
                Err(failure)
            }
        }
    }

    /// Reads pgraft.conf and what is in the directory it names, while nothing runs.
    pub(super) fn look_around(&mut self) -> Outcome<Found> {
        self.load_config().and_then(look_into)
    }

    /// Starts consensus and remembers that it is to run. `Err`: neither.
    pub(super) fn start_consensus(
        &mut self,
        config: Config,
        found: Identity,
        warnings: &[String],
    ) -> Outcome<()> {
        let dir = config.data_dir.clone();
        fits(&found, &config)?;
        for warning in warnings {
            log::warn!("{warning}");
        }
        let lock = runtime::lock(&dir)?;
        let identity = Identity {
            started: true,
            system_identifier: Some(current_system_identifier(&found)),
            ..found.clone()
        };
        // Before the runtime has it: from then on the consensus thread writes this file.
        if identity != found {
            identity.store(&dir).map_err(|e| storage_failure(&e))?;
        }
        self.close_fence_of_member(&config, &identity);
        let setup = Setup {
            identity,
            lock,
            pg_port: facts::port(),
            pages: self.open_pages(&config),
            main: self.queue.clone(),
            config,
        };
        match Runtime::start(setup) {
            Ok(runtime) => {
                self.runtime = Some(runtime);
                self.retry.runs(sys::now_boottime_ns());
                Ok(())
            }
            Err(failure) => {
                // Read anew: consensus may have counted a start in it.
                if let (false, Some(now)) = (found.started, load_identity(&dir)?) {
                    let identity = Identity { started: false, ..now };
                    identity.store(&dir).map_err(|e| storage_failure(&e))?;
                }
                Err(failure)
            }
        }
    }

    /// The pages that the consensus thread will publish to.
    fn open_pages(&self, config: &Config) -> Pages {
        let sysv = match config.shmem_key {
            0 => Ok(None),
            key => SysvPage::publish_at(key).map(Some),
        };
        let (sysv, note) = match sysv {
            Ok(sysv) => (sysv, String::new()),
            Err(error) => {
                log::error!(
                    "{error}; programs outside Postgres cannot see this node. {}",
                    error.hint()
                );
                (None, error.to_string())
            }
        };
        shared::worker_area().segment_note.set(&note);
        let pages = Pages { in_postgres: self.shared.page(), sysv };
        pages.open(sys::own_pid(), stale_after_ns(config));
        pages
    }

    /// Consensus does not run and is not to run, also after a restart of the server. `Err`: that
    /// could not be remembered, and holds only until then.
    pub(super) fn stay_stopped(&mut self) -> Answer {
        self.retry.give_up();
        let outcome = self.remember_stop();
        self.show(NodeState::Stopped, outcome.as_ref().err().map_or("", |e| e.message.as_str()));
        outcome.map_err(|failure| Failure { detail: FORGETS_STOP.to_owned(), ..failure })
    }

    fn remember_stop(&mut self) -> Answer {
        let config = match &self.config {
            Some(config) => config.clone(),
            None => self.load_config()?,
        };
        let mut notice = "consensus was not running on this node".to_owned();
        if let Some(identity) = load_identity(&config.data_dir)?.filter(|found| found.started) {
            let identity = Identity { started: false, ..identity };
            identity.store(&config.data_dir).map_err(|e| storage_failure(&e))?;
            notice.clear();
        }
        Ok(Done { value: true, notice, ..Done::default() })
    }

    /// SIGHUP.
    pub(super) fn reload(&mut self) {
        // SAFETY: the main thread, outside of any transaction, as Postgres' own processes do it.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        self.hand.look();
        if self.runtime.is_none() {
            return self.start_if_wanted();
        }
        match (Config::load(&guc::config_file()), self.config.take()) {
            (Ok(new), Some(old)) => {
                let changes = old.restart_only_changes(&new);
                if !changes.is_empty() {
                    log::warn!("{} will change only after a restart", changes.join(", "));
                }
                self.reconfigure(old.reloaded(&new));
            }
            (Err(error), old) => {
                log::error!("{error}; the former settings stay in force");
                self.config = old;
            }
            (Ok(new), None) => self.config = Some(new),
        }
    }

    fn reconfigure(&mut self, config: Config) {
        self.logger.set_level(config.log_level);
        self.shared.page().set_stale_after(stale_after_ns(&config));
        if let Some(runtime) = &self.runtime {
            runtime.reconfigure(config.clone());
        }
        self.config = Some(config);
    }

    /// Reads pgraft.conf while nothing runs: all of it applies.
    fn load_config(&mut self) -> Outcome<Config> {
        self.config = None;
        let config = Config::load(&guc::config_file()).map_err(|e| config_failure(&e))?;
        self.logger.set_level(config.log_level);
        self.logger.set_node(config.node_id.get());
        for warning in config.warnings() {
            log::warn!("{warning}");
        }
        self.config = Some(config.clone());
        self.lift_fence_if_unwanted(&config);
        Ok(config)
    }

    /// Why a request for the cluster cannot be carried out here.
    pub(super) fn not_running(&self) -> Failure {
        let last_error = self.shared.page().view().map_or(String::new(), |view| view.last_error);
        let initialized = self.config.as_ref().is_some_and(|config| {
            Identity::load(&config.data_dir).is_ok_and(|identity| identity.is_some())
        });
        let hint = match (initialized, self.config.is_some()) {
            _ if self.retry.due_ns().is_some() => "Remove the cause: it is tried again by itself.",
            (_, false) => "Correct pgraft.conf, then run SELECT pgraft_start().",
            (true, _) => "Run SELECT pgraft_start() first.",
            (false, _) => "Run SELECT pgraft_init() and SELECT pgraft_start() first.",
        };
        let message = "consensus is not running on this node";
        let detail = match last_error.is_empty() {
            true => String::new(),
            false => format!("The last error was: {last_error}."),
        };
        failure(FailureKind::WrongState, message, detail, hint)
    }

    pub(super) fn show_failure(&self, failure: &Failure) {
        let hint =
            if failure.hint.is_empty() { String::new() } else { format!(" ({})", failure.hint) };
        log::error!("{}{hint}", failure.message);
        self.show(NodeState::Error, &failure.message);
    }

    /// Shows a node on which consensus does not run. The members and the term stay as last known.
    pub(super) fn show(&self, state: NodeState, last_error: &str) {
        let page = self.shared.page();
        // It is about a segment that nobody keeps now.
        shared::worker_area().segment_note.set("");
        let stale_after_ns = self.config.as_ref().map_or(0, stale_after_ns);
        page.open(sys::own_pid(), stale_after_ns);
        let last = page.view().unwrap_or_default();
        let (node_id, node_name, cluster_id) = match &self.config {
            Some(c) => (c.node_id.get(), c.node_name.clone(), c.cluster_id.clone()),
            None => (last.node_id, last.node_name, last.cluster_id),
        };
        page.publish(&View {
            state,
            role: RoleCode::None,
            leader: 0,
            leader_address: String::new(),
            lease_start_ns: 0,
            lease_expires_ns: 0,
            has_quorum: false,
            reachable: 0,
            last_error: last_error.to_owned(),
            node_id,
            node_name,
            cluster_id,
            ..last
        });
    }
}

/// How old the page may get before it is history.
fn stale_after_ns(config: &Config) -> u64 {
    u64::from(config.election_timeout_ms) * 1_000_000
}

/// What is in the directory that `config` names.
pub(super) fn look_into(config: Config) -> Outcome<Found> {
    let dir = config.data_dir.as_path();
    let warnings = check_location(dir, &guc::data_directory()).map_err(|e| storage_failure(&e))?;
    let identity = load_identity(dir)?;
    Ok(Found { identity, warnings, config })
}

fn load_identity(dir: &Path) -> Outcome<Option<Identity>> {
    Identity::load(dir).map_err(|e| storage_failure(&e))
}

fn initialized_already(config: &Config) -> Done {
    let notice = format!(
        "pgraft is already initialized as node {} of cluster \"{}\"",
        config.node_id, config.cluster_id
    );
    Done { value: true, notice, ..Done::default() }
}

/// Makes the identity that `config` asks for, unless it is there.
fn create_if_new(found: Found) -> Answer {
    let Found { config, identity, warnings } = found;
    if let Some(identity) = identity {
        fits(&identity, &config)?;
        return Ok(initialized_already(&config));
    }
    create_identity(&config)?;
    log::info!(
        "initialized node {} of cluster \"{}\" in \"{}\"",
        config.node_id,
        config.cluster_id,
        config.data_dir.display()
    );
    Ok(Done { value: true, warning: warnings.join("; "), ..Done::default() })
}

fn create_identity(config: &Config) -> Outcome<()> {
    let dir = config.data_dir.as_path();
    FileDisk::open(dir).map_err(|e| storage_failure(&e))?;
    let _lock = runtime::lock(dir)?;
    let random = sys::random_bytes().map_err(|error| {
        failure(FailureKind::Io, format!("could not get random bytes: {error}"), "", "")
    })?;
    let identity = Identity {
        node: config.node_id,
        cluster_id: config.cluster_id.clone(),
        directory: Uuid::from_random(random),
        cluster: None,
        system_identifier: Some(facts::system_identifier()),
        boots: 0,
        started: false,
    };
    identity.store(dir).map_err(|e: StorageError| storage_failure(&e))
}

/// Refuses a directory that another node, or another cluster's node, made.
fn fits(identity: &Identity, config: &Config) -> Outcome<()> {
    if identity.node == config.node_id && identity.cluster_id == config.cluster_id {
        return Ok(());
    }
    let (dir, path) = (config.data_dir.display(), config.path.display());
    Err(failure(
        FailureKind::WrongState,
        format!(
            "directory \"{dir}\" belongs to node {} of cluster \"{}\"",
            identity.node, identity.cluster_id
        ),
        format!(
            "File \"{path}\" says node {} of cluster \"{}\".",
            config.node_id, config.cluster_id
        ),
        "Correct raft_node_id and raft_cluster_id, or set raft_data_dir to another directory.",
    ))
}

/// A directory that was used with another database cluster before: allowed, as pg_upgrade and a new
/// base backup make one, but worth a line.
fn current_system_identifier(found: &Identity) -> u64 {
    let current = facts::system_identifier();
    if found.system_identifier.is_some_and(|former| former != current) {
        log::warn!("this server's system identifier is new: it is now {current}");
    }
    current
}

fn not_initialized() -> Failure {
    failure(
        FailureKind::WrongState,
        "pgraft is not initialized on this node",
        "",
        "Run SELECT pgraft_init() first.",
    )
}

fn config_failure(error: &ConfigError) -> Failure {
    failure(FailureKind::Config, error.to_string(), "", error.hint())
}
