//! From bytes to a request. The syntax is `httparse`'s; here is what it leaves open: which bodies,
//! paths and versions are served, and how long things may be.

use std::net::SocketAddr;

use super::{Limits, Response};

/// Headers of one request.
pub const HEADERS_MAX: usize = 64;

/// What is asked for. All other methods are refused with 405.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The resource.
    Get,
    /// The same, whose body the server leaves out.
    Head,
    /// What some load balancers send to see whether the status is 200.
    Options,
    /// A change.
    Post,
}

/// For the header of this name.
const ALLOW: &str = "GET, HEAD, OPTIONS, POST";

impl Method {
    fn read(name: &str) -> Option<Method> {
        match name {
            "GET" => Some(Method::Get),
            "HEAD" => Some(Method::Head),
            "OPTIONS" => Some(Method::Options),
            "POST" => Some(Method::Post),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Options => "OPTIONS",
            Method::Post => "POST",
        }
    }
}

/// A request, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// Begins with "/", decoded, without control characters; "*" of OPTIONS is "/", too.
    pub path: String,
    /// Names and values behind "?", decoded, in their order; a name without "=" has the value "".
    pub query: Vec<(String, String)>,
    /// Names in lower case. Values that are no UTF-8 have replacement characters.
    headers: Vec<(String, String)>,
    /// Empty where none came.
    pub body: Vec<u8>,
    /// Who asks.
    pub from: Option<SocketAddr>,
    /// Whether the connection goes on.
    pub(super) keep_alive: bool,
}

impl Request {
    /// The value of a header; `name` in lower case. The first, if it came several times.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a name in the query; the first, if it came several times.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Why a request is refused, and as what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bad {
    /// The answer's status.
    pub status: u16,
    /// For people.
    pub why: &'static str,
}

impl Bad {
    pub(super) fn new(status: u16, why: &'static str) -> Bad {
        Bad { status, why }
    }

    /// What the client is told.
    pub(super) fn response(&self) -> Response {
        match self.status {
            405 => Response::method_not_allowed(ALLOW),
            status => Response::text(status, self.why),
        }
    }
}

/// A request but for its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// With an empty body.
    pub request: Request,
    /// What the head took.
    pub head_bytes: usize,
    /// What follows and belongs to this request.
    pub body_bytes: usize,
    /// The client sends the body only when told so.
    pub expects_continue: bool,
}

/// Reads the head of the request that `bytes` begin with. `None`: it has not come to its end.
pub fn read_head(bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Bad> {
    let too_long = Bad::new(431, "the head of the request is too long");
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let head_bytes = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= limits.head_bytes_max => len,
        Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes_max => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(too_long),
        Err(httparse::Error::Version) => {
            return Err(Bad::new(505, "this server speaks HTTP/1.1"));
        }
        Err(_) => return Err(Bad::new(400, "this is not HTTP")),
    };
    let unread = || Bad::new(400, "this is not HTTP");
    let (name, target) = (parsed.method.ok_or_else(unread)?, parsed.path.ok_or_else(unread)?);
    let is_1_1 = parsed.version == Some(1);
    let headers: Vec<(String, String)> = parsed
        .headers
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value);
            (header.name.to_ascii_lowercase(), value.trim_ascii().to_owned())
        })
        .collect();

    let all = |name: &'static str| {
        headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    };
    let hosts = all("host").count();
    if hosts > 1 || (hosts == 0 && is_1_1) {
        return Err(Bad::new(400, "a request has one Host header"));
    }
    let body_bytes = body_length(all("content-length"), all("transfer-encoding"), limits)?;
    let expects_continue = match all("expect").next() {
        Some(what) if what.eq_ignore_ascii_case("100-continue") => is_1_1,
        Some(_) => return Err(Bad::new(417, "what is expected is not known here")),
        None => false,
    };
    let method = Method::read(name).ok_or(Bad::new(405, ""))?;
    let (path, query) = read_target(target, method)
        .ok_or(Bad::new(400, "the path or the query of the request is malformed"))?;
    let connection = || all("connection").flat_map(|value| value.split(',')).map(str::trim);
    let keep_alive = is_1_1 && !connection().any(|option| option.eq_ignore_ascii_case("close"));
    let request =
        Request { method, path, query, headers, body: Vec::new(), from: None, keep_alive };
    Ok(Some(Head { request, head_bytes, body_bytes, expects_continue }))
}

/// How long the body is. Whatever could be read in two ways is refused.
fn body_length<'a>(
    mut lengths: impl Iterator<Item = &'a str>,
    mut encodings: impl Iterator<Item = &'a str>,
    limits: &Limits,
) -> Result<usize, Bad> {
    let malformed = Bad::new(400, "the Content-Length of the request is malformed");
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(malformed);
    }
    if encodings.next().is_some() {
        return Err(match length {
            Some(_) => malformed,
            None => Bad::new(411, "a body needs a Content-Length here"),
        });
    }
    let Some(length) = length else { return Ok(0) };
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed);
    }
    // A number too large for a usize is above the limit, too.
    match length.parse::<usize>() {
        Ok(length) if length <= limits.body_bytes_max => Ok(length),
        _ => Err(Bad::new(413, "the body of the request is too long")),
    }
}

/// Path and query of a request's target, which may name the server, too.
fn read_target(target: &str, method: Method) -> Option<(String, Vec<(String, String)>)> {
    if target == "*" && method == Method::Options {
        return Some(("/".to_owned(), Vec::new()));
    }
    let target = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            let behind = &target[7..];
            let host_ends = behind.find(['/', '?']).unwrap_or(behind.len());
            &behind[host_ends..]
        }
        _ if target.starts_with('/') => target,
        _ => return None,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if path.is_empty() { "/".to_owned() } else { percent_decoded(path)? };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
        Some((decoded(name)?, decoded(value)?))
    });
    Some((path, query.collect::<Option<_>>()?))
}

/// `None` where "%" has no two digits behind it, or what comes out is no text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        decoded.push((digit(0)? * 16 + digit(1)?) as u8);
        rest = behind;
    }
    let decoded = String::from_utf8(decoded).ok()?;
    (!decoded.contains(char::is_control)).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, Bad> {
        read_head(text.as_bytes(), &Limits::default())
    }

    fn request(text: &str) -> Request {
        head(text).expect("a request").expect("a whole one").request
    }

    fn status(text: &str) -> u16 {
        head(text).expect_err("not one to serve").status
    }

    /// With a Host header.
    fn get(target: &str) -> String {
        format!("GET {target} HTTP/1.1\r\nHost: db1\r\n\r\n")
    }

    #[test]
    fn a_request_is_read_as_it_was_meant() {
        let text = "POST /api/v1/a%20b/%C3%BC?lag=10MB&dry_run=true&x&y=%26+z HTTP/1.1\r\n\
            hOST: db1:8008\r\nAuthorization:  Bearer s3cret \r\nContent-Length: 3\r\n\r\nabcGET";
        let read = head(text).unwrap().unwrap();
        assert_eq!((read.body_bytes, &text[read.head_bytes..]), (3, "abcGET"));
        let request = read.request;
        assert_eq!((request.method, request.path.as_str()), (Method::Post, "/api/v1/a b/ü"));
        assert_eq!(request.param("lag"), Some("10MB"));
        assert_eq!(request.param("x"), Some(""));
        assert_eq!(request.param("y"), Some("& z"));
        assert_eq!(request.param("z"), None);
        assert_eq!(request.header("authorization"), Some("Bearer s3cret"));
        assert_eq!(request.header("host"), Some("db1:8008"));
        assert!(request.keep_alive);
    }

    #[test]
    fn every_beginning_of_a_request_waits_for_the_rest() {
        let text = get("/metrics?a=b");
        for end in 0..text.len() {
            assert_eq!(head(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
    }

    #[test]
    fn load_balancers_old_requests_are_served() {
        let request = request("OPTIONS / HTTP/1.0\r\n\r\n");
        assert_eq!((request.method, request.path.as_str()), (Method::Options, "/"));
        assert!(!request.keep_alive);
    }

    #[test]
    fn targets_may_name_the_server() {
        for (target, path) in [
            ("http://db1:8008/primary?x=1", "/primary"),
            ("HTTP://db1", "/"),
            ("http://db1?x=1", "/"),
            ("/", "/"),
            ("//x", "//x"),
        ] {
            assert_eq!(request(&get(target)).path, path, "{target}");
        }
        assert_eq!(request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path, "/");
    }

    #[test]
    fn a_connection_goes_on_unless_its_client_says_otherwise() {
        for (line, goes_on) in
            [("keep-alive", true), ("close", false), ("Upgrade,  CLOSE", false), ("closed", true)]
        {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {line}\r\n\r\n");
            assert_eq!(request(&text).keep_alive, goes_on, "{line}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused_as_what_it_is() {
        let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        let long = "x".repeat(9000);
        let many = "a: b\r\n".repeat(65);
        for (text, expected) in [
            ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned(), 400),
            ("GET /\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            (with("Host: b"), 400),
            (with("a b: c"), 400),
            (get("x"), 400),
            (get("*"), 400),
            (get("ftp://x/"), 400),
            (get("/%zz"), 400),
            (get("/%2"), 400),
            (get("/%00"), 400),
            (get("/?a=%ff"), 400),
            (get("/?a=%0d%0a"), 400),
            (with("Content-Length: -1"), 400),
            (with("Content-Length: +1"), 400),
            (with("Content-Length: 1, 1"), 400),
            (with("Content-Length:"), 400),
            (with("Content-Length: 1\r\nContent-Length: 1"), 400),
            (with("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400),
            (with("Transfer-Encoding: chunked"), 411),
            (with("Content-Length: 65537"), 413),
            (with("Content-Length: 99999999999999999999999"), 413),
            (with("Expect: miracles"), 417),
            ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
            ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
            (get(&format!("/{long}")), 431),
            (format!("GET /{long}"), 431),
            (with(&format!("a: {long}")), 431),
            (with(&many), 431),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        ] {
            assert_eq!(status(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let limits = Limits { head_bytes_max: 40, body_bytes_max: 5, ..Limits::default() };
        let of_length = |len: usize| {
            let text = format!("GET / HTTP/1.0\r\nA: {}\r\n\r\n", "x".repeat(len - 23));
            assert_eq!(text.len(), len);
            text
        };
        assert!(read_head(of_length(40).as_bytes(), &limits).is_ok_and(|head| head.is_some()));
        assert_eq!(read_head(of_length(41).as_bytes(), &limits).unwrap_err().status, 431);
        let body = |len| format!("POST / HTTP/1.0\r\nContent-Length: {len}\r\n\r\n");
        let limits = Limits { body_bytes_max: 5, ..Limits::default() };
        assert!(read_head(body(5).as_bytes(), &limits).is_ok_and(|head| head.is_some()));
        assert_eq!(read_head(body(6).as_bytes(), &limits).unwrap_err().status, 413);
    }
}
