//! A connection to one server: SQL in, text out, as `psql` would show it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::{Failure, Result};

/// A server that stands still accepts a connection and never answers on it.
const CONNECT_AT_MOST: Duration = Duration::from_secs(10);

/// A message of the server's beside the result.
#[derive(Clone, Debug)]
pub struct Notice {
    /// `NOTICE`, `WARNING` ...
    pub severity: String,
    /// The five characters.
    pub sqlstate: String,
    /// The message itself.
    pub message: String,
    /// The hint, if there is one.
    pub hint: Option<String>,
}

/// An error that the server raised, or a connection that broke.
#[derive(Clone)]
pub struct SqlError {
    /// The five characters; none when the connection broke.
    pub sqlstate: Option<String>,
    /// The message itself.
    pub message: String,
    /// The detail, if there is one.
    pub detail: Option<String>,
    /// The hint, if there is one.
    pub hint: Option<String>,
    /// The statement that was sent.
    pub sql: String,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.sqlstate.as_deref().unwrap_or("no sqlstate");
        write!(f, "{} ({state})", self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " DETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " HINT: {hint}")?;
        }
        write!(f, " in: {}", self.sql)
    }
}

impl fmt::Debug for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for SqlError {}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Failure {
        Failure::new(error.to_string())
    }
}

/// A row of a result: each column's value as text, by the column's name.
pub type Row = BTreeMap<String, Option<String>>;

/// Where to connect, and as whom.
struct Endpoint<'a> {
    host: &'a str,
    port: u16,
    user: &'a str,
    database: &'a str,
}

/// One connection.
pub struct Session {
    client: Client,
    notices: Receiver<Notice>,
}

impl Session {
    /// Connects to a server on this machine as the superuser `postgres`.
    pub fn connect(port: u16) -> Result<Session> {
        Session::connect_as(port, "postgres")
    }

    /// The same as another role.
    pub fn connect_as(port: u16, user: &str) -> Result<Session> {
        Session::connect_to(port, user, "postgres")
    }

    /// The same to another database.
    pub fn connect_to(port: u16, user: &str, database: &str) -> Result<Session> {
        Session::connect_at("127.0.0.1", port, user, database)
    }

    /// The same to another address.
    pub fn connect_at(host: &str, port: u16, user: &str, database: &str) -> Result<Session> {
        let to = Endpoint { host, port, user, database };
        Session::connect_until(CONNECT_AT_MOST, to)
    }

    /// As that role to the database `postgres`, with another deadline.
    pub fn connect_within(at_most: Duration, host: &str, port: u16, user: &str) -> Result<Session> {
        Session::connect_until(at_most, Endpoint { host, port, user, database: "postgres" })
    }

    fn connect_until(at_most: Duration, to: Endpoint<'_>) -> Result<Session> {
        let Endpoint { host, port, user, database } = to;
        let (done, outcome) = channel();
        let address = format!("{host}:{port}");
        let (host, user, database) = (host.to_owned(), user.to_owned(), database.to_owned());
        // In a thread: the client's own timeout ends with the TCP handshake, which the kernel of a
        // server that stands still completes. The thread is given up then.
        std::thread::spawn(move || {
            let (notice, notices) = channel();
            let connected = postgres::Config::new()
                .host(&host)
                .port(port)
                .user(&user)
                .dbname(&database)
                .application_name("pgraft-cluster")
                .connect_timeout(at_most)
                .notice_callback(move |error| {
                    let _ = notice.send(Notice {
                        severity: error.severity().to_owned(),
                        sqlstate: error.code().code().to_owned(),
                        message: error.message().to_owned(),
                        hint: error.hint().map(str::to_owned),
                    }); // nobody listens any more: the session is gone
                })
                .connect(NoTls);
            let _ = done.send(connected.map(|client| Session { client, notices })); // likewise
        });
        let failed = |error: String| {
            Failure::new(format!("could not connect to the server on {address}: {error}"))
        };
        match outcome.recv_timeout(at_most) {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(failed(in_words(&error))),
            Err(_) => Err(failed("it does not answer".to_owned())),
        }
    }

    /// Every row of the statement's result, each value as text.
    pub fn rows(&mut self, sql: &str) -> std::result::Result<Vec<Vec<Option<String>>>, SqlError> {
        let messages = self.client.simple_query(sql).map_err(|error| sql_error(&error, sql))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The rows with the columns' names: for results of which a few columns matter.
    pub fn named_rows(&mut self, sql: &str) -> std::result::Result<Vec<Row>, SqlError> {
        let messages = self.client.simple_query(sql).map_err(|error| sql_error(&error, sql))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let columns = row.columns().iter().enumerate();
                let value = |i: usize| row.get(i).map(str::to_owned);
                Some(columns.map(|(i, c)| (c.name().to_owned(), value(i))).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first value of the first row, as text. No row counts as NULL.
    pub fn value(&mut self, sql: &str) -> std::result::Result<Option<String>, SqlError> {
        Ok(self.rows(sql)?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Whether the first value of the first row is true.
    pub fn is_true(&mut self, sql: &str) -> std::result::Result<bool, SqlError> {
        Ok(self.value(sql)?.as_deref() == Some("t"))
    }

    /// Runs statements whose result does not matter.
    pub fn run(&mut self, sql: &str) -> std::result::Result<(), SqlError> {
        self.client.batch_execute(sql).map_err(|error| sql_error(&error, sql))
    }

    /// The error that the statement raises; a failure if it raises none.
    pub fn error(&mut self, sql: &str) -> Result<SqlError> {
        match self.rows(sql) {
            Err(error) => Ok(error),
            Ok(rows) => Err(Failure::new(format!("no error but {rows:?} from: {sql}"))),
        }
    }

    /// The notices since the last call, oldest first.
    pub fn notices(&mut self) -> Vec<Notice> {
        self.notices.try_iter().collect()
    }

    /// The client itself, for what is not covered here: parameters, prepared statements.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

fn sql_error(error: &postgres::Error, sql: &str) -> SqlError {
    let from_server = error.as_db_error();
    SqlError {
        sqlstate: from_server.map(|e| e.code().code().to_owned()),
        message: in_words(error),
        detail: from_server.and_then(|e| e.detail().map(str::to_owned)),
        hint: from_server.and_then(|e| e.hint().map(str::to_owned)),
        sql: sql.to_owned(),
    }
}

/// The server's words, else the client's with what caused them.
fn in_words(error: &postgres::Error) -> String {
    if let Some(from_server) = error.as_db_error() {
        return from_server.message().to_owned();
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
