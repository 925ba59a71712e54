//! From the command line to a daemon that runs, and its end.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use pgraft::config::Config;
use pgraft::sys::daemon::{
    SIGHUP, SIGINT, SIGTERM, become_user, effective_uid, go_to_background, is_root,
    signals_as_bytes,
};

use crate::api;
use crate::command::Program;
use crate::daemon::{Daemon, Parts};
use crate::hand;
use crate::health;
use crate::history::History;
use crate::interrupted::put_own_files_back;
use crate::join;
use crate::lock::Lock;
use crate::logging;
use crate::memory::MemoryFile;
use crate::options::Options;
use crate::orders::Orders;
use crate::server::Server;
use crate::settings::Settings;
use crate::standby;

/// How long what is under way is given to end by itself.
const END_AT_MOST: Duration = Duration::from_secs(3);

/// Runs the daemon until it is told to end. `Err`: why it could not.
pub fn run(options: &Options) -> Result<(), String> {
    let settings = load(options)?;
    if options.validate {
        let pgraft = Config::load(&settings.pgraft_config).map_err(|error| with_hint(&error))?;
        check(&settings, &pgraft)?;
        println!(
            "{} and {} are in order: node {} of cluster \"{}\"",
            settings.path.display(),
            settings.pgraft_config.display(),
            pgraft.node_id,
            pgraft.cluster_id,
        );
        return Ok(());
    }
    let pid_file = options.pid_file.as_deref().map(std::path::absolute).transpose();
    let pid_file = pid_file.map_err(|error| format!("could not find the pid file: {error}"))?;
    // Nobody's folder is held; all paths of the configuration are absolute.
    std::env::set_current_dir("/").map_err(|error| format!("could not change to /: {error}"))?;
    become_owner(&settings)?;
    make_state(&settings.state)?;
    let mut lock = Lock::take(&settings.state)?;
    let in_state = |name: &str| settings.state.join(name);
    let unreadable = |path: &Path, error: std::io::Error| {
        format!("could not read \"{}\": {error}", path.display())
    };
    let history = in_state("history.jsonl");
    let history = History::open(&history).map_err(|error| unreadable(&history, error))?;
    let memory = in_state("memory.json");
    let memory = MemoryFile::open(&memory).map_err(|error| unreadable(&memory, error))?;
    // Before pgraft.conf is read, which may be in the data directory.
    put_own_files_back(&settings, &memory)?;
    let pgraft = Config::load(&settings.pgraft_config).map_err(|error| with_hint(&error))?;
    check(&settings, &pgraft)?;
    logging::begin(settings.log_level);
    let log_file = match (&settings.log_file, options.daemonize) {
        (Some(file), _) => Some(file.clone()),
        // A daemon without a terminal has nowhere else to go.
        (None, true) => Some(in_state("ramd.log")),
        (None, false) => None,
    };
    if let Some(file) = &log_file {
        logging::to_file(file)
            .map_err(|error| format!("could not open \"{}\": {error}", file.display()))?;
    }
    // While there is a terminal to complain to.
    let (orders, given) = Orders::channel();
    let daemon = Daemon::new(Parts { settings, pgraft, history, memory, orders });
    daemon.hold_data()?;
    let door = api::Door::open(&daemon.settings)?;
    if options.daemonize {
        go_to_background().map_err(|error| format!("could not go to the background: {error}"))?;
    }
    lock.sign().map_err(|error| format!("could not write the lock file: {error}"))?;
    let _pid_file = PidFile::write(pid_file.as_deref())?;
    let mut signals = signals_as_bytes(&[SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| format!("could not handle signals: {error}"))?;
    let server = daemon.server();
    join::prepare(&daemon, &server)?;
    check_programs(&daemon, &server)?;
    log::info!(
        "ramd {} begins, for node {} in \"{}\"",
        env!("CARGO_PKG_VERSION"),
        daemon.pgraft.node_id,
        daemon.settings.data.display(),
    );
    let no_thread = |error| format!("could not start a thread: {error}");
    health::begin(&daemon).map_err(no_thread)?;
    let hand = hand::begin(&daemon, given).map_err(no_thread)?;
    let _server = door.map(|door| api::begin(&daemon, door)).transpose().map_err(no_thread)?;
    loop {
        let mut signal = [0];
        match signals.read_exact(&mut signal) {
            Ok(()) if i32::from(signal[0]) == SIGHUP => reopen(log_file.as_deref()),
            Ok(()) => break,
            Err(error) => return Err(format!("could not wait for signals: {error}")),
        }
    }
    log::info!("ramd ends; Postgres stays as it is");
    daemon.end();
    hand.await_end(END_AT_MOST);
    Ok(())
}

fn load(options: &Options) -> Result<Settings, String> {
    // Relative paths are of the shell's directory.
    let path = std::path::absolute(&options.config)
        .map_err(|error| format!("{}: {error}", options.config.display()))?;
    let mut settings = Settings::load(&path).map_err(|error| with_hint(&error))?;
    if let Some(join) = &options.join {
        let address = pgraft::cluster::Address::parse(join).map_err(|error| {
            format!("--join \"{join}\" must be the host:port of a member's Postgres: {error}")
        })?;
        settings.join = Some(address);
    }
    if let Some(level) = options.log_level {
        settings.log_level = level;
    }
    Ok(settings)
}

fn with_hint(error: &pgraft::config::ConfigError) -> String {
    use pgraft::config::Problem;
    let hint = match &error.problem {
        // What is said there is for the server's own file.
        Problem::Missing | Problem::NotAFile | Problem::TooLarge | Problem::NotText => {
            String::new()
        }
        Problem::UnknownKey { nearest: None, .. } => {
            "docs/ramd.md and docs/configuration.md list all keys.".to_owned()
        }
        _ => error.hint(),
    };
    if hint.is_empty() { error.to_string() } else { format!("{error}\nhint: {hint}") }
}

/// What only both files together can say.
fn check(settings: &Settings, pgraft: &Config) -> Result<(), String> {
    let key = settings.shmem_key.unwrap_or(pgraft.shmem_key);
    if key == 0 {
        return Err(format!(
            "\"postgresql_shmem_key\" is 0 in file \"{}\": ramd cannot see what pgraft does\n\
             hint: Give the server a key of its own there.",
            settings.pgraft_config.display()
        ));
    }
    if pgraft.shmem_key != key {
        return Err(format!(
            "\"postgresql_shmem_key\" is {key} in file \"{}\" and {} in file \"{}\"\n\
             hint: Remove it from the first.",
            settings.path.display(),
            pgraft.shmem_key,
            settings.pgraft_config.display()
        ));
    }
    standby::check(settings, pgraft)
}

/// Programs of another major version do not run on the data directory: said at once. Where they are
/// is remembered.
fn check_programs(daemon: &Daemon, server: &Server) -> Result<(), String> {
    let program = server.program("postgres");
    let said = Program::new(&program).arg("--version").run(daemon).map_err(|why| {
        format!("{why}\nhint: Set postgresql_bin_directory to where PostgreSQL's programs are.")
    })?;
    // "postgres (PostgreSQL) 18.1".
    let version = said.split_whitespace().nth(2).unwrap_or_default();
    let major = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    if let Some(wanted) = server.version()
        && wanted != major
    {
        return Err(format!(
            "\"{}\" is of PostgreSQL {version}, and the data directory of {wanted}\n\
             hint: Set postgresql_bin_directory to where the programs of {wanted} are.",
            program.display()
        ));
    }
    let found = server.programs().map(Path::to_owned);
    daemon.memory.change(|memory| memory.programs = found)
}

/// Becomes whoever owns the data directory: Postgres runs as nobody else.
fn become_owner(settings: &Settings) -> Result<(), String> {
    let data = &settings.data;
    // One that is to be made, or stands aside for a moment: the state directory is the server's, or
    // the folder that both are in.
    let parent = data.parent().unwrap_or(data);
    let of = [data, &settings.state].into_iter().find(|path| path.exists());
    let of: &Path = of.map_or(parent, |path| path);
    let meta = fs::metadata(of)
        .map_err(|error| format!("could not look at \"{}\": {error}", of.display()))?;
    if is_root() {
        if meta.uid() == 0 {
            return Err(format!(
                "\"{}\" belongs to root, and PostgreSQL does not run as root\n\
                 hint: It must belong to the server's user.",
                of.display()
            ));
        }
        // The state directory is made by whoever may; its parent may be root's.
        own_state(&settings.state, meta.uid(), meta.gid())?;
        return become_user(meta.uid(), meta.gid()).map_err(|error| {
            format!("could not become the owner of \"{}\": {error}", of.display())
        });
    }
    match meta.uid() == effective_uid() {
        true => Ok(()),
        false => Err(format!(
            "\"{}\" belongs to another user\nhint: Run ramd as its owner, or as root.",
            of.display()
        )),
    }
}

fn make_state(state: &Path) -> Result<(), String> {
    match fs::DirBuilder::new().recursive(true).mode(0o750).create(state) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("could not make \"{}\": {error}", state.display())),
    }
}

fn own_state(state: &Path, uid: u32, gid: u32) -> Result<(), String> {
    if state.exists() {
        return Ok(());
    }
    make_state(state)?;
    std::os::unix::fs::chown(state, Some(uid), Some(gid))
        .map_err(|error| format!("could not chown \"{}\": {error}", state.display()))
}

/// The log was moved away: SIGHUP.
fn reopen(file: Option<&Path>) {
    if let Some(file) = file
        && let Err(error) = logging::to_file(file)
    {
        log::warn!("could not open \"{}\" anew: {error}", file.display());
    }
}

/// The file of `--pid-file`, which goes when ramd ends in order.
struct PidFile<'a>(Option<&'a Path>);

impl PidFile<'_> {
    fn write(path: Option<&Path>) -> Result<PidFile<'_>, String> {
        let Some(path) = path else { return Ok(PidFile(None)) };
        let could_not = |error| format!("could not write \"{}\": {error}", path.display());
        fs::write(path, format!("{}\n", std::process::id())).map_err(could_not)?;
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(path, mode).map_err(could_not)?;
        Ok(PidFile(Some(path)))
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = fs::remove_file(path); // whoever reads it later sees that the process is gone
        }
    }
}
