//! The local server, as its files and processes show it, without its help. A process is the
//! server's if it is a `postgres` that works in the data directory: pids are used again, and others
//! may stand there, too.

use std::fs;
use std::path::{Path, PathBuf};

use pgraft::sys::own_pid;

use crate::settings::Settings;
use crate::sql::Target;

/// The local server.
#[derive(Clone, Debug)]
pub struct Server {
    data: PathBuf,
    /// Where PostgreSQL's programs are; `None`: in PATH.
    bin: Option<PathBuf>,
}

/// What `postmaster.pid` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postmaster {
    /// Its process.
    pub pid: i32,
    /// Where it listens, if the file is complete.
    pub port: Option<u16>,
    /// Its first socket directory; empty: none.
    pub socket: String,
    /// The first address that it listens on; empty: none, `*`: all.
    pub listen: String,
    /// Whether it says that it takes connections.
    pub ready: bool,
}

impl Server {
    /// The one that the settings name, with its programs where they say, else where the server was
    /// last started from, else where they last were, else where ramd is, else in PATH.
    pub fn new(settings: &Settings, remembered: Option<PathBuf>) -> Server {
        let data = settings.data.clone();
        let bin = settings.bin.clone().or_else(|| started_from(&data)).or(remembered);
        let bin = bin.or_else(beside_ramd);
        Server { data, bin }
    }

    /// Where its programs are; `None`: in PATH.
    pub fn programs(&self) -> Option<&Path> {
        self.bin.as_deref()
    }

    /// The postmaster; `None`: none runs.
    pub fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let found = read_pid_file(&text)?;
        self.is_own(found.pid).then_some(found)
    }

    /// Every process of the server.
    pub fn processes(&self) -> Vec<i32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.is_own(*pid)).collect()
    }

    /// Whether this process is one of the server's.
    fn is_own(&self, pid: i32) -> bool {
        pid != own_pid() && works_in(pid, &self.data) && runs_postgres(pid)
    }

    /// Whether there is a data directory with something in it.
    pub fn has_data(&self) -> bool {
        self.data.join("global/pg_control").exists()
    }

    /// One of PostgreSQL's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.as_ref().map_or_else(|| name.into(), |bin| bin.join(name))
    }

    /// The major version that the data directory is of.
    pub fn version(&self) -> Option<String> {
        Some(fs::read_to_string(self.data.join("PG_VERSION")).ok()?.trim().to_owned())
    }

    /// Where the server is asked.
    pub fn target(&self, settings: &Settings, postmaster: &Postmaster) -> Option<Target> {
        let host = match &settings.host {
            Some(host) => host,
            None if !postmaster.socket.is_empty() => &postmaster.socket,
            None => match postmaster.listen.as_str() {
                "" => return None,
                "*" | "0.0.0.0" => "127.0.0.1",
                "::" => "::1",
                listen => listen,
            },
        };
        Some(Target::of(settings, host, postmaster.port?))
    }
}

/// Whether the process works in that folder. A zombie works nowhere.
pub fn works_in(pid: i32, folder: &Path) -> bool {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}

/// Whether the program of the process is `postgres`, also if an upgrade has replaced it since.
fn runs_postgres(pid: i32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program.file_name().unwrap_or_default();
    name == "postgres" || name == "postgres (deleted)"
}

/// The folder of the program that `postmaster.opts` names.
fn started_from(data: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(data.join("postmaster.opts")).ok()?;
    // Arguments after the program are in quotes.
    let program = text.split(" \"").next()?.trim();
    let folder = Path::new(program).parent()?;
    folder.join("pg_ctl").exists().then(|| folder.to_owned())
}

/// `make install` puts ramd among them.
fn beside_ramd() -> Option<PathBuf> {
    let folder = std::env::current_exe().ok()?.parent()?.to_owned();
    folder.join("pg_ctl").exists().then_some(folder)
}

/// Lines: pid, data directory, start time, port, socket directory, listen address, shared memory,
/// status (miscadmin.h).
fn read_pid_file(text: &str) -> Option<Postmaster> {
    let line = |n: usize| text.lines().nth(n).unwrap_or_default().trim();
    Some(Postmaster {
        // A server that runs by itself for recovery has its number negative.
        pid: line(0).parse().ok().filter(|pid| *pid > 0)?,
        port: line(3).parse().ok().filter(|port| *port > 0),
        socket: line(4).to_owned(),
        listen: line(5).to_owned(),
        ready: matches!(line(7), "ready" | "standby"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_stands_in_the_data_directory_is_not_the_servers() {
        let data = std::env::temp_dir().join(format!("ramd-server-{}", std::process::id()));
        fs::create_dir(&data).unwrap();
        let server = Server { data: data.clone(), bin: None };
        let start = |program: &Path| {
            let mut command = std::process::Command::new(program);
            command.arg("600").current_dir(&data).spawn().unwrap()
        };
        // What runs is told by its file, whatever it calls itself.
        let named = data.join("postgres");
        fs::copy("/bin/sleep", &named).unwrap();
        let (mut other, mut own) = (start(Path::new("/bin/sleep")), start(&named));
        let pid = own.id() as i32;
        assert!(works_in(other.id() as i32, &data));
        assert_eq!(server.processes(), [pid]);
        fs::remove_file(&named).unwrap();
        assert_eq!(server.processes(), [pid], "replaced by an upgrade");
        for child in [&mut other, &mut own] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(server.processes().is_empty());
        fs::remove_dir(&data).unwrap();
    }

    #[test]
    fn a_pid_file_is_read_also_when_it_is_not_complete() {
        let text = "77\n/data\n1764251000\n5501\n/tmp\nlocalhost\n  20480001   3\nready   \n";
        let found = read_pid_file(text).unwrap();
        assert_eq!((found.pid, found.port, found.ready), (77, Some(5501), true));
        assert_eq!((found.socket.as_str(), found.listen.as_str()), ("/tmp", "localhost"));
        let half = read_pid_file("77\n/data\n1764251000\n").unwrap();
        assert_eq!((half.pid, half.port, half.ready), (77, None, false));
        assert_eq!(read_pid_file(""), None);
        assert_eq!(read_pid_file("-77\n/data\n"), None);
    }
}
