//! One server: its folder, its configuration, its life.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::account::remove_folder;
use crate::network::Namespace;
use crate::{Account, Failure, Install, Process, Result, Session, wait_for};

/// A server starts within a second; this leaves room for a busy machine and for recovery.
const START_AT_MOST: Duration = Duration::from_secs(60);
/// A fast shutdown checkpoints and lets standbys catch up.
const STOP_AT_MOST: Duration = Duration::from_secs(60);
/// What a server is given to end when nobody is interested in its data any more.
const END_AT_MOST: Duration = Duration::from_secs(5);

/// Where a node is: on disk and on the network.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its Raft node id, from 1.
    pub id: u32,
    /// Its folder, with `data`, `raft`, `postgres.log` and `pgraft.conf` in it.
    pub folder: PathBuf,
    /// The address of both ports.
    pub host: String,
    /// The network namespace that the server runs in; `None`: that of the test.
    pub namespace: Option<Namespace>,
    /// The port for clients.
    pub pg_port: u16,
    /// The port for Raft.
    pub raft_port: u16,
    /// The key of the page for processes outside Postgres.
    pub shmem_key: i32,
    /// Where it serves its metrics, if it does.
    pub metrics_port: Option<u16>,
    /// Where its ramd answers; `None`: some ports behind that of Postgres.
    pub api_port: Option<u16>,
}

impl Place {
    /// Of files that no server runs on.
    pub fn of_files(folder: &Path) -> Place {
        Place {
            id: 0,
            folder: folder.to_owned(),
            host: String::new(),
            namespace: None,
            pg_port: 0,
            raft_port: 0,
            shmem_key: 0,
            metrics_port: None,
            api_port: None,
        }
    }
}

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: clients are sent away, WAL is sent to the standbys, a checkpoint is written.
    Fast,
    /// SIGQUIT: at once, and the next start recovers.
    Immediate,
}

/// One server.
#[derive(Debug)]
pub struct Node {
    /// Where it is.
    pub place: Place,
    pub(crate) install: Install,
    pub(crate) account: Account,
    /// The postmaster, when it was started through this value: to be waited for.
    child: Option<Child>,
    /// Added to the environment of the server, and of its ramd.
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
}

impl Node {
    /// A node at a place. Nothing is made or started; one that runs there already is recognised.
    pub fn new(place: Place, install: &Install, account: &Account) -> Node {
        let (install, account) = (install.clone(), account.clone());
        Node { place, install, account, child: None, variables: Vec::new() }
    }

    /// Sets a variable in the environment of the server and its ramd, from their next start on.
    pub fn set_variable(&mut self, name: &'static str, value: &Path) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
    }

    /// Its node id.
    pub fn id(&self) -> u32 {
        self.place.id
    }

    /// Postgres' data directory.
    pub fn data(&self) -> PathBuf {
        self.place.folder.join("data")
    }

    /// pgraft's own directory.
    pub fn raft(&self) -> PathBuf {
        self.place.folder.join("raft")
    }

    /// What the server writes.
    pub fn log_file(&self) -> PathBuf {
        self.place.folder.join("postgres.log")
    }

    /// The node's pgraft.conf.
    pub fn conf_file(&self) -> PathBuf {
        self.place.folder.join("pgraft.conf")
    }

    /// `host:port` of its Raft port.
    pub fn raft_address(&self) -> String {
        format!("{}:{}", self.place.host, self.place.raft_port)
    }

    /// `host:port` for clients.
    pub fn pg_address(&self) -> String {
        format!("{}:{}", self.place.host, self.place.pg_port)
    }

    /// The path of one of PostgreSQL's programs.
    pub fn postgres_program(&self, name: &str) -> PathBuf {
        self.install.program(name)
    }

    /// Everything that the server has written so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    // ---- making ----

    /// Makes the data directory of a primary.
    pub fn init(&self) -> Result<()> {
        self.account.make_folder(&self.place.folder)?;
        let data = self.data();
        let data = text(&data)?;
        self.account.run(
            self.install.program("initdb"),
            &["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
        )?;
        Ok(())
    }

    /// Makes the data directory out of a copy of another, of a server that was stopped cleanly.
    pub fn copy_of(&self, data: &Path) -> Result<()> {
        self.account.make_folder(&self.place.folder)?;
        self.account.run(
            "/bin/cp",
            &["--archive", "--reflink=auto", "-T", text(data)?, text(&self.data())?],
        )?;
        Ok(())
    }

    /// Makes the data directory by pg_basebackup from a running server: a streaming standby of it.
    pub fn base_backup(&self, primary: &Node) -> Result<()> {
        self.account.make_folder(&self.place.folder)?;
        remove_folder(&self.data())?;
        let (host, port) = (&primary.place.host, primary.place.pg_port.to_string());
        self.account.run(
            self.install.program("pg_basebackup"),
            &[
                ["-h", host, "-p", &port, "-U", "postgres", "-D", text(&self.data())?].as_slice(),
                &["-X", "stream", "-c", "fast", "--no-sync"],
            ]
            .concat(),
        )?;
        self.follow(primary)
    }

    /// Makes it a streaming standby of that server from its next start on.
    pub fn follow(&self, primary: &Node) -> Result<()> {
        let line = format!("primary_conninfo = '{}'\n", self.conninfo_to(primary));
        self.account.write_file(&self.data().join("standby.conf"), &line)?;
        self.account.write_file(&self.data().join("standby.signal"), "")
    }

    /// How this node connects to that one as its standby.
    pub(crate) fn conninfo_to(&self, primary: &Node) -> String {
        let Place { host, pg_port, .. } = &primary.place;
        let id = self.place.id;
        format!("host={host} port={pg_port} user=postgres application_name=pgraft_{id}")
    }

    /// Lets everybody from these addresses in, as any role, for replication too.
    pub(crate) fn trust(&self, addresses: &str) -> Result<()> {
        let file = self.data().join("pg_hba.conf");
        let mut text = fs::read_to_string(&file)
            .map_err(Failure::while_doing(format!("read \"{}\"", file.display())))?;
        let line = format!("host all,replication all {addresses} trust\n");
        if !text.ends_with(&line) {
            text.push_str(&line);
            self.account.write_file(&file, &text)?;
        }
        Ok(())
    }

    /// Writes Postgres' settings: the node's own, and those given, as lines of postgresql.conf.
    /// They are read at the next start.
    pub fn configure(&self, preload: bool, more: &str) -> Result<()> {
        let mut lines = vec![
            format!("listen_addresses = '{}'", self.place.host),
            format!("port = {}", self.place.pg_port),
            "unix_socket_directories = ''".to_owned(),
            format!("cluster_name = 'node{}'", self.place.id),
            "shared_buffers = 16MB".to_owned(),
            "max_wal_size = 256MB".to_owned(),
            "wal_keep_size = 128MB".to_owned(),
            "wal_log_hints = on".to_owned(),
            "max_parallel_workers = 5".to_owned(),
            "hot_standby_feedback = on".to_owned(),
            "wal_retrieve_retry_interval = 500ms".to_owned(),
            "log_line_prefix = '%m [%p] %b '".to_owned(),
            "include = 'standby.conf'".to_owned(),
        ];
        if preload {
            lines.push("shared_preload_libraries = 'pgraft'".to_owned());
            lines.push(format!("pgraft.config_file = '{}'", self.conf_file().display()));
        }
        lines.push(more.to_owned());
        self.account
            .write_file(&self.data().join("node.conf"), &format!("{}\n", lines.join("\n")))?;
        let standby = self.data().join("standby.conf");
        if !standby.exists() {
            self.account.write_file(&standby, "")?;
        }
        // A base backup brings the primary's node.conf along: it has been replaced above.
        let main = self.data().join("postgresql.conf");
        let mut text = fs::read_to_string(&main)
            .map_err(Failure::while_doing(format!("read \"{}\"", main.display())))?;
        if !text.contains("\ninclude 'node.conf'") {
            text.push_str("\ninclude 'node.conf'\n");
            self.account.write_file(&main, &text)?;
        }
        Ok(())
    }

    /// Writes pgraft.conf in the syntax of the guide, with these addresses as peers, and more
    /// lines after it (a later line for the same key is an error to pgraft, as it should be).
    /// `failover`: whether pgraft moves the primary role.
    pub fn configure_pgraft(&self, peers: &[String], failover: bool, more: &str) -> Result<()> {
        let metrics = self.place.metrics_port.map_or(String::new(), |port| {
            format!("\n# Metrics\nmetrics_enabled = true\nmetrics_port = {port}\n\n")
        });
        self.write_pgraft_conf(&format!(
            "# Raft Configuration\n\
             raft_node_id = {id}\n\
             raft_cluster_id = ram_cluster\n\
             raft_data_dir = {raft}\n\
             raft_log_level = info\n\
             \n\
             # Network Configuration\n\
             raft_port = {port}\n\
             raft_bind_address = {host}\n\
             raft_peer_addresses = {peers}\n\
             \n\
             # PostgreSQL Integration\n\
             postgresql_integration_enabled = {failover}\n\
             postgresql_shmem_key = {key}\n\
             postgresql_shmem_size = 1048576\n\
             {metrics}{more}",
            id = self.place.id,
            raft = self.raft().display(),
            port = self.place.raft_port,
            host = self.place.host,
            peers = peers.join(","),
            key = self.place.shmem_key,
        ))
    }

    /// Writes pgraft.conf as given.
    pub fn write_pgraft_conf(&self, text: &str) -> Result<()> {
        self.account.write_file(&self.conf_file(), text)
    }

    // ---- life ----

    /// The postmaster, if the server runs: the pid of postmaster.pid, working in our directory.
    pub fn postmaster(&self) -> Option<Process> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        Process::in_folder(text.lines().next()?.trim().parse().ok()?, &self.data())
    }

    /// Whether the server runs.
    pub fn is_running(&self) -> bool {
        self.postmaster().is_some()
    }

    /// Every process of the server.
    pub fn processes(&self) -> Vec<Process> {
        Process::all_in_folder(&self.data())
    }

    /// The process of pgraft's worker, by the title that it has in `ps`.
    pub fn worker(&self) -> Option<Process> {
        // The postmaster's own title is its command line, whose paths may hold any word.
        let is_worker =
            |title: String| title.starts_with("postgres: ") && title.trim_end().ends_with("pgraft");
        self.processes().into_iter().find(|process| is_worker(process.title()))
    }

    /// Starts the server and waits until it takes connections. One that runs is left alone.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        self.spawn()?;
        self.await_start()
    }

    /// Waits until a server that was spawned takes connections.
    pub fn await_start(&mut self) -> Result<()> {
        let id = self.place.id;
        let mut exited = None;
        let ready = wait_for(&format!("node {id} takes connections"), START_AT_MOST, || {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                exited = Some(status);
                return Ok(Some(()));
            }
            Ok(self.says_ready().then_some(()))
        });
        if let Some(status) = exited {
            self.child = None;
            return Err(Failure::new(format!(
                "node {id} did not start ({status}), its log ends with:\n{}",
                self.log_tail(15),
            )));
        }
        ready.map_err(|failure| {
            Failure::new(format!("{failure}, its log ends with:\n{}", self.log_tail(15)))
        })
    }

    /// Starts the postmaster and does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        self.await_end_of_children()?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .map_err(Failure::while_doing(format!("open \"{}\"", self.log_file().display())))?;
        self.account.own(&self.log_file())?;
        let err = log.try_clone().map_err(Failure::while_doing("duplicate the log's handle"))?;
        // A session of its own, so that neither Ctrl-C nor a closed terminal reaches it.
        let mut command: Command = self.account.command("/usr/bin/setsid");
        command
            .arg(self.install.program("postgres"))
            .arg("-D")
            .arg(self.data())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(err);
        let doing = format!("start node {}", self.place.id);
        let spawned = match &self.place.namespace {
            Some(namespace) => namespace.enter(|| command.spawn())?,
            None => command.spawn(),
        };
        self.child = Some(spawned.map_err(Failure::while_doing(doing))?);
        Ok(())
    }

    /// Whether postmaster.pid says that connections are taken.
    fn says_ready(&self) -> bool {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        // A killed postmaster leaves its file, which says "ready" until the next one replaces it.
        let pid = file.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
        if self.child.as_ref().is_some_and(|child| Some(child.id()) != pid) {
            return false;
        }
        let status = file.lines().nth(7).unwrap_or_default().trim();
        // "standby": a hot standby that is not consistent yet writes that, too; a connection tells.
        match status {
            "ready" => true,
            "standby" => self.session().is_ok(),
            _ => false,
        }
    }

    /// Whether the server says that it is being shut down.
    pub fn is_stopping(&self) -> bool {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        self.is_running() && file.lines().nth(7).is_some_and(|line| line.trim() == "stopping")
    }

    /// Asks the server to stop and waits until it is gone. One that is down is left so.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        self.begin_stop(how);
        self.await_stop()
    }

    /// Asks the server to stop and does not wait.
    pub fn begin_stop(&self, how: Stop) {
        if let Some(postmaster) = self.postmaster() {
            postmaster.signal(match how {
                Stop::Fast => Signal::INT,
                Stop::Immediate => Signal::QUIT,
            });
        }
    }

    /// Waits until a server that was asked to stop is gone.
    pub fn await_stop(&mut self) -> Result<()> {
        wait_for(&format!("node {} has stopped", self.place.id), STOP_AT_MOST, || {
            self.reap();
            Ok((!self.is_running()).then_some(()))
        })
    }

    /// SIGKILL to the postmaster alone: its children notice by themselves that it is gone.
    pub fn kill(&mut self) {
        if let Some(postmaster) = self.postmaster() {
            postmaster.kill();
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait(); // it was killed: its status says no more
        }
    }

    /// SIGKILL to every process of the server at once.
    pub fn kill_all(&mut self) {
        // The postmaster first: else it begins to clean up after its children.
        self.kill();
        self.processes().into_iter().for_each(Process::kill);
    }

    /// The processes that serve clients which connected from that address.
    pub fn backends_of(&self, client: &str) -> Vec<Process> {
        let is_backend = |process: &Process| process.title().contains(&format!(" {client}("));
        self.processes().into_iter().filter(is_backend).collect()
    }

    /// SIGSTOP to every process of the server: to its peers it is silent, and not gone.
    pub fn pause(&self) {
        self.processes().into_iter().for_each(Process::pause);
    }

    /// SIGCONT to every process of the server.
    pub fn resume(&self) {
        self.processes().into_iter().for_each(Process::resume);
    }

    /// Takes the exit status of a postmaster that has ended, so that it is no zombie.
    fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && matches!(child.try_wait(), Ok(Some(_)))
        {
            self.child = None;
        }
    }

    /// A killed postmaster's children hold its shared memory: the next one has to wait for them.
    pub(crate) fn await_end_of_children(&mut self) -> Result<()> {
        wait_for(
            &format!("node {}'s old processes have ended", self.place.id),
            STOP_AT_MOST,
            || {
                self.reap();
                Ok(self.processes().is_empty().then_some(()))
            },
        )?;
        // Postgres takes any process with the pid in a left lock file for a postmaster, even a
        // killed one that nobody has waited for yet. No process works here: the file is stale.
        match fs::remove_file(self.data().join("postmaster.pid")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(format!("could not remove a stale postmaster.pid: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Ends the server by all means, whatever state its processes are in. For a node whose data
    /// nobody needs any more.
    pub fn end(&mut self) {
        self.resume();
        self.begin_stop(Stop::Immediate); // lets it give back its shared memory
        let ended = wait_for("the server has ended", END_AT_MOST, || {
            self.reap();
            Ok(self.processes().is_empty().then_some(()))
        });
        if ended.is_err() {
            self.processes().into_iter().for_each(Process::kill);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait(); // killed or ended: there is nothing to learn from it
        }
        self.remove_page();
    }

    /// Removes the page for outside processes that a worker without a proper end leaves behind, and
    /// Postgres' own segment, by which a killed postmaster's children are recognised: only one that
    /// nobody has attached and whose creator is gone.
    fn remove_page(&self) {
        let of_postgres = self.postgres_segment();
        let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        for line in segments.lines().skip(1) {
            // key shmid perms size cpid lpid nattch ...
            let fields: Vec<i64> =
                line.split_whitespace().map(|field| field.parse().unwrap_or(-1)).collect();
            let [key, id, _, _, creator, _, attached, ..] = fields[..] else { continue };
            // A process that was killed and not waited for yet has no working directory.
            let alive = fs::read_link(format!("/proc/{creator}/cwd")).is_ok();
            let ours = key == i64::from(self.place.shmem_key) || Some((key, id)) == of_postgres;
            if ours && attached == 0 && !alive {
                // Fails for a segment of another user's: it is not ours then.
                let _ = self.account.run("/usr/bin/ipcrm", &["--shmem-id", &id.to_string()]);
            }
        }
    }

    /// The key and the id of Postgres' segment, from the file that a killed postmaster leaves.
    fn postgres_segment(&self) -> Option<(i64, i64)> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let mut fields = text.lines().nth(6)?.split_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    }

    /// Runs a program of PostgreSQL's under the servers' account: what it printed, or a failure
    /// that quotes it.
    pub fn run_program(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.account.run(self.install.program(name), arguments)
    }

    /// A command that runs under the servers' account.
    pub fn command(&self, program: &str) -> Command {
        self.account.command(program)
    }

    /// A connection as superuser.
    pub fn session(&self) -> Result<Session> {
        Session::connect_at(&self.place.host, self.place.pg_port, "postgres", "postgres")
    }
}

/// A path as text, for arguments of programs.
fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Failure::new(format!("the path \"{}\" is not UTF-8", path.display())))
}
