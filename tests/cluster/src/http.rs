//! A small HTTP client: one request a connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::{Failure, Result};

/// An answer from memory takes a millisecond; a busy machine may stand still for seconds.
const AT_MOST: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// As in RFC 9110.
    pub status: u16,
    /// Names and values as they were sent.
    pub headers: Vec<(String, String)>,
    /// Text; what is none is replaced.
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Asks for a path at `host:port`.
pub fn get(address: &str, path: &str) -> Result<Answer> {
    request(address, "GET", path, &[], "")
}

/// The same with another method, more headers and a body.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let doing = format!("{method} {path} at {address}");
    let failed = || Failure::while_doing(doing.clone());
    let mut stream = TcpStream::connect(address).map_err(failed())?;
    stream.set_read_timeout(Some(AT_MOST)).map_err(failed())?;
    stream.set_write_timeout(Some(AT_MOST)).map_err(failed())?;
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{lines}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).map_err(failed())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(failed())?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = || Failure::new(format!("{doing}: not an answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_owned(), value.to_owned()))
    };
    let headers = lines.map(pair).collect::<Option<_>>().ok_or_else(cut)?;
    Ok(Answer { status, headers, body: body.to_owned() })
}
