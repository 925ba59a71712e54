//! SQL with a hard deadline, whatever state the server is in. A server that stands still takes a
//! connection and never says a word on it, so each question is asked in a thread of its own, which
//! is waited for only so long; a [`Line`] has at most one of them.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use pgraft::cluster::Address;
use sql_client::{Client, NoTls, SimpleQueryMessage};

use crate::settings::Settings;
use crate::threads;

/// The longest passfile that is read.
const PASSFILE_BYTES_MAX: u64 = 1 << 20;

/// A row: each column as text.
pub type Row = Vec<Option<String>>;

/// Where a server is asked, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A host name, an address, or a socket directory.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As whom.
    pub user: String,
    /// Where.
    pub database: String,
    /// libpq's file of passwords.
    pub passfile: Option<PathBuf>,
}

impl Target {
    /// The server at an address, as the settings say.
    pub fn at(settings: &Settings, address: &Address) -> Target {
        Target::of(settings, address.host(), address.port())
    }

    /// The same in two parts.
    pub fn of(settings: &Settings, host: &str, port: u16) -> Target {
        Target {
            host: host.to_owned(),
            port,
            user: settings.user.clone(),
            database: settings.database.clone(),
            passfile: settings.passfile.clone(),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlError {
    /// None within the deadline, or the one before has had none yet: the server hangs.
    Late,
    /// There was no connection to ask over: nobody is there.
    NoConnection(String),
    /// The connection broke once the question was under way: it may or may not take effect.
    Broke(String),
    /// The server itself answered with an error: it lives.
    Server {
        /// The five characters.
        sqlstate: String,
        /// The message.
        message: String,
        /// Its detail and its hint; empty: it has none.
        hint: String,
    },
    /// What one would ask with is not in order here: the passfile.
    Here(String),
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlError::Late => f.write_str("no answer within the deadline"),
            SqlError::NoConnection(why) | SqlError::Broke(why) | SqlError::Here(why) => {
                f.write_str(why)
            }
            SqlError::Server { sqlstate, message, .. } => write!(f, "{message} ({sqlstate})"),
        }
    }
}

impl std::error::Error for SqlError {}

/// A way to ask one server: at most one question is under way, and one that has had no answer in
/// time keeps the next from being asked. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Line {
    busy: Arc<AtomicBool>,
}

impl Line {
    /// Asks, over a connection of its own; all rows of all statements in `sql`.
    pub fn ask(&self, target: &Target, sql: &str, at_most: Duration) -> Result<Vec<Row>, SqlError> {
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(SqlError::Late);
        }
        let (done, outcome) = channel();
        let (target, sql, busy) = (target.clone(), sql.to_owned(), self.busy.clone());
        let spawned = threads::spawn("ramd asks", move || {
            let answer = ask(&target, &sql, at_most);
            busy.store(false, Ordering::SeqCst);
            let _ = done.send(answer); // nobody waits any longer: it was late
        });
        if let Err(error) = spawned {
            self.busy.store(false, Ordering::SeqCst);
            return Err(SqlError::Here(format!("could not start a thread: {error}")));
        }
        outcome.recv_timeout(at_most).unwrap_or(Err(SqlError::Late))
    }
}

/// Asks once, for calls that are rare: as a [`Line`] of their own.
pub fn ask_once(target: &Target, sql: &str, at_most: Duration) -> Result<Vec<Row>, SqlError> {
    Line::default().ask(target, sql, at_most)
}

fn ask(target: &Target, sql: &str, at_most: Duration) -> Result<Vec<Row>, SqlError> {
    let mut client = connect(target, at_most)?;
    let messages = client.simple_query(sql).map_err(|error| in_words(&error, SqlError::Broke))?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

fn connect(target: &Target, at_most: Duration) -> Result<Client, SqlError> {
    let mut config = sql_client::Config::new();
    config
        .host(&target.host)
        .port(target.port)
        .user(&target.user)
        .dbname(&target.database)
        .application_name("ramd")
        .connect_timeout(at_most)
        // A host that vanished must not hold the thread for ever.
        .keepalives_idle(Duration::from_secs(10))
        .tcp_user_timeout(at_most.max(Duration::from_secs(10)))
        .options(&format!("-c statement_timeout={}", at_most.as_millis()));
    if let Some(password) = password(target)? {
        config.password(password);
    }
    config.connect(NoTls).map_err(|error| in_words(&error, SqlError::NoConnection))
}

/// `other`: what it is unless the server itself said something.
fn in_words(error: &sql_client::Error, other: fn(String) -> SqlError) -> SqlError {
    if let Some(server) = error.as_db_error() {
        let more: Vec<&str> = [server.detail(), server.hint()].into_iter().flatten().collect();
        return SqlError::Server {
            sqlstate: server.code().code().to_owned(),
            message: server.message().to_owned(),
            hint: more.join(" "),
        };
    }
    other(match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// What the passfile has for this target.
fn password(target: &Target) -> Result<Option<String>, SqlError> {
    let Some(path) = &target.passfile else { return Ok(None) };
    let text = read_passfile(path)
        .map_err(|why| SqlError::Here(format!("passfile \"{}\": {why}", path.display())))?;
    // As libpq: a socket directory is looked up as localhost.
    let host = if target.host.starts_with('/') { "localhost" } else { &target.host };
    let wanted = [host, &target.port.to_string(), &target.database, &target.user];
    Ok(text.lines().find_map(|line| password_in(line, wanted)))
}

fn read_passfile(path: &Path) -> Result<String, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > PASSFILE_BYTES_MAX {
        return Err("it is not a file of passwords".to_owned());
    }
    if meta.mode() & 0o077 != 0 {
        return Err("others may read it; its permissions must be 0600 or less".to_owned());
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The password in a line `host:port:database:user:password`, if the others match.
fn password_in(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let number = fields.len();
        let last = fields.last_mut()?;
        match c {
            '\\' => last.extend(characters.next()),
            ':' if number < 5 => fields.push(String::new()),
            c => last.push(c),
        }
    }
    let password = fields.pop().filter(|_| fields.len() == 4)?;
    let matches = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    matches.then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    #[test]
    fn a_passfile_is_read_as_libpq_reads_it() {
        let wanted = ["db1", "5432", "postgres", "ramd"];
        let find = |line: &str| password_in(line, wanted);
        assert_eq!(find("db1:5432:postgres:ramd:se:cret"), Some("se:cret".into()));
        assert_eq!(find("*:*:*:ramd:a\\:b\\\\"), Some("a:b\\".into()));
        assert_eq!(find("*:*:*:other:x"), None);
        assert_eq!(find("#*:*:*:*:x"), None);
        assert_eq!(find("*:*:*:ramd"), None);
        assert_eq!(find(""), None);
    }

    /// A server that lets everybody in, and is gone once it was asked something.
    fn breaks(listener: &TcpListener) {
        let (mut client, _) = listener.accept().unwrap();
        let mut bytes = [0; 1024];
        assert!(client.read(&mut bytes).unwrap() > 0, "the startup message");
        // AuthenticationOk, BackendKeyData, ReadyForQuery.
        client.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x01").unwrap();
        client.write_all(b"Z\0\0\0\x05I").unwrap();
        assert!(client.read(&mut bytes).unwrap() > 0, "the question");
    }

    #[test]
    fn a_connection_that_breaks_after_the_question_is_not_one_that_never_was() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            user: "postgres".into(),
            database: "postgres".into(),
            passfile: None,
        };
        let server = std::thread::spawn(move || breaks(&listener));
        let at_most = Duration::from_secs(60);
        let broke = ask_once(&target, "SELECT 1", at_most);
        assert!(matches!(broke, Err(SqlError::Broke(_))), "{broke:?}");
        // And now nobody listens any more.
        server.join().unwrap();
        let none = ask_once(&target, "SELECT 1", at_most);
        assert!(matches!(none, Err(SqlError::NoConnection(_))), "{none:?}");
    }

    #[test]
    fn a_server_that_says_nothing_is_late_and_is_not_asked_again() {
        // The kernel takes the connection; nobody ever answers on it.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target {
            host: "127.0.0.1".into(),
            port: silent.local_addr().unwrap().port(),
            user: "postgres".into(),
            database: "postgres".into(),
            passfile: None,
        };
        let line = Line::default();
        let began = Instant::now();
        assert_eq!(line.ask(&target, "SELECT 1", Duration::from_millis(100)), Err(SqlError::Late));
        // The second thread would sit there as well; it is never started.
        assert_eq!(line.ask(&target, "SELECT 1", Duration::from_secs(60)), Err(SqlError::Late));
        assert!(began.elapsed() < Duration::from_secs(50));
        // Once it is gone the line is free again.
        drop(silent);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match line.ask(&target, "SELECT 1", Duration::from_millis(500)) {
                Err(SqlError::NoConnection(_)) => break,
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
