//! ramd beside a node: configured, started, killed, and what it wrote down.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Cluster, Failure, Node, Result, wait_for};

/// Who has it may change something through a ramd's API.
pub const API_TOKEN: &str = "everybody-knows-this-token";
/// In a cluster's ports those of ramd's API come after those for clients and for Raft.
const API_PORTS: u16 = 16;

/// One ramd. Dropped, it is killed, and the end of its log shown to whoever looks.
#[derive(Debug)]
pub struct Ramd {
    /// Its node.
    pub id: u32,
    child: Option<Child>,
    log: PathBuf,
}

impl Node {
    /// The node's ramd.conf.
    pub fn ramd_conf(&self) -> PathBuf {
        self.place.folder.join("ramd.conf")
    }

    /// Where its ramd keeps what it remembers.
    pub fn ramd_state(&self) -> PathBuf {
        self.place.folder.join("ramd")
    }

    /// The port of its ramd's API.
    pub fn api_port(&self) -> u16 {
        self.place.api_port.unwrap_or(self.place.pg_port + API_PORTS)
    }

    /// `host:port` of the API: where the server is, so that a cut network cuts both.
    pub fn api_address(&self) -> String {
        format!("{}:{}", self.place.host, self.api_port())
    }

    /// Where the API is.
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api_address())
    }

    /// The file with [`API_TOKEN`].
    pub fn token_file(&self) -> PathBuf {
        self.place.folder.join("token")
    }

    /// Writes ramd.conf, with more lines after what is needed; times are short, so that tests are.
    pub fn configure_ramd(&self, more: &str) -> Result<()> {
        let text = format!(
            "postgresql_data_directory = {data}\n\
             pgraft_config_file = {pgraft}\n\
             postgresql_log_file = {log}\n\
             ramd_state_directory = {state}\n\
             monitor_interval_ms = 200\n\
             retry_interval_ms = 500\n\
             retry_interval_max_ms = 3000\n\
             ramd_log_level = debug\n\
             http_bind_address = {host}\n\
             http_port = {port}\n\
             http_token_file = {token}\n\
             {more}\n",
            data = self.data().display(),
            pgraft = self.conf_file().display(),
            log = self.log_file().display(),
            state = self.ramd_state().display(),
            host = self.place.host,
            port = self.api_port(),
            token = self.token_file().display(),
        );
        self.account.write_file(&self.token_file(), API_TOKEN)?;
        fs::set_permissions(self.token_file(), fs::Permissions::from_mode(0o600))
            .map_err(Failure::while_doing("close the token to others"))?;
        self.account.write_file(&self.ramd_conf(), &text)
    }

    /// Writes a file of passwords that only the server's account may read.
    pub fn write_passfile(&self, text: &str) -> Result<PathBuf> {
        let file = self.place.folder.join("passfile");
        self.account.write_file(&file, text)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).map_err(Failure::while_doing("close a passfile"))?;
        Ok(file)
    }

    /// A command that runs ramd as the server's account, with that ramd.conf.
    fn ramd_command(&self, conf: &Path) -> Command {
        let mut command = self.account.command(self.install.program("ramd"));
        command.arg(format!("--config={}", conf.display()));
        command
    }

    /// Runs ramd with these options to its end.
    pub fn run_ramd(&self, options: &[&str]) -> Result<Output> {
        self.run_ramd_with(&self.ramd_conf(), options)
    }

    /// The same with another ramd.conf.
    pub fn run_ramd_with(&self, conf: &Path, options: &[&str]) -> Result<Output> {
        let mut command = self.ramd_command(conf);
        command.args(options).output().map_err(Failure::while_doing("run ramd"))
    }

    /// Starts the node's ramd.
    pub fn start_ramd(&self) -> Result<Ramd> {
        self.start_ramd_with(&[])
    }

    /// The same with options.
    pub fn start_ramd_with(&self, options: &[&str]) -> Result<Ramd> {
        self.start_ramd_in(Path::new("/"), options)
    }

    /// The same from within a folder, as a shell would that stands there.
    pub fn start_ramd_in(&self, folder: &Path, options: &[&str]) -> Result<Ramd> {
        let log = self.place.folder.join("ramd.log");
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(Failure::while_doing(format!("open \"{}\"", log.display())))?;
        let again = file.try_clone().map_err(Failure::while_doing("duplicate a handle"))?;
        let mut command = self.ramd_command(&self.ramd_conf());
        // Those of the server: it starts that, and its own wall clock is the same one.
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(folder);
        command.args(options).stdin(Stdio::null()).stdout(file).stderr(again);
        let spawned = match &self.place.namespace {
            Some(namespace) => namespace.enter(|| command.spawn())?,
            None => command.spawn(),
        };
        let child = spawned.map_err(Failure::while_doing("start ramd"))?;
        Ok(Ramd { id: self.id(), child: Some(child), log })
    }

    fn ramd_pid_file(&self) -> PathBuf {
        self.place.folder.join("ramd.pid")
    }

    /// The process of its ramd, if that runs by itself.
    fn ramd_process(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.ramd_pid_file()).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Pid::from_raw(pid).filter(|_| name.trim() == "ramd")
    }

    /// Sees to it that its ramd runs, by itself, until it is told to end.
    pub fn daemonize_ramd(&self) -> Result<()> {
        if self.ramd_process().is_some() {
            return Ok(());
        }
        self.configure_ramd("")?;
        let pid_file = format!("--pid-file={}", self.ramd_pid_file().display());
        let output = self.run_ramd(&["--daemonize", &pid_file])?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "ramd of node {}: {}",
                self.id(),
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
        }
    }

    /// Ends such a ramd, and waits until it has.
    pub fn end_ramd(&self) -> Result<()> {
        let Some(pid) = self.ramd_process() else { return Ok(()) };
        let _ = kill_process(pid, Signal::TERM); // it has ended by itself: seen below
        wait_for(&format!("ramd of node {} has ended", self.id()), Duration::from_secs(30), || {
            Ok(self.ramd_process().is_none().then_some(()))
        })
    }

    /// The lines of ramd's history, each a JSON object.
    pub fn ramd_history(&self) -> Vec<String> {
        let text = fs::read_to_string(self.ramd_state().join("history.jsonl")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How often ramd did this, or saw it change, with `part` in the line.
    pub fn ramd_did(&self, what: &str, part: &str) -> usize {
        let what = format!("\"what\":\"{what}\"");
        let lines = self.ramd_history();
        lines.iter().filter(|line| line.contains(&what) && line.contains(part)).count()
    }

    /// What ramd remembers.
    pub fn ramd_memory(&self) -> String {
        fs::read_to_string(self.ramd_state().join("memory.json")).unwrap_or_default()
    }

    /// The data directories that were replaced.
    pub fn old_data(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.place.folder).into_iter().flatten().flatten();
        let is_old = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("data.old-"))
        };
        entries.map(|entry| entry.path()).filter(|path| is_old(path)).collect()
    }
}

impl Ramd {
    /// Its process id.
    ///
    /// # Panics
    /// When it has been killed.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a ramd that was not killed").id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // it has ended by itself: as wanted
            let _ = child.wait(); // its status says no more
        }
    }

    /// SIGTERM, and waits until it has ended; whether its status was 0.
    pub fn terminate(&mut self) -> Result<bool> {
        let Some(mut child) = self.child.take() else { return Ok(false) };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM); // it has ended by itself: seen below
        }
        let status = child.wait().map_err(Failure::while_doing("wait for ramd"))?;
        Ok(status.success())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Ramd {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(30)..].join("\n");
        println!("---- ramd of node {}, end of its log\n{end}", self.id);
    }
}

impl Cluster {
    /// A ramd beside each node.
    pub fn start_ramds(&self, more: &str) -> Result<Vec<Ramd>> {
        let start = |node: &Node| {
            node.configure_ramd(more)?;
            node.start_ramd()
        };
        self.nodes().iter().map(start).collect()
    }

    /// What happens to a node whose machine loses its power: ramd and server are gone.
    pub fn kill_node(&mut self, ramd: &mut Ramd) {
        // First: it would start the server.
        ramd.kill();
        self.node_mut(ramd.id).kill_all();
    }
}
