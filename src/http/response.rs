//! Answers, and their bytes.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// An answer. The server adds the headers that frame it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// As in RFC 9110.
    pub status: u16,
    /// Beside Date, Content-Length, Connection and Cache-Control.
    pub headers: Vec<(&'static str, String)>,
    /// Left out where HEAD was asked.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer with a body of this media type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        let headers = vec![("Content-Type", content_type.to_owned())];
        Response { status, headers, body: body.into() }
    }

    /// A line of text for people.
    pub fn text(status: u16, line: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{line}\n"))
    }

    /// Nothing lives at this path.
    pub fn not_found() -> Response {
        Response::text(404, "there is nothing at this path")
    }

    /// The path is right, the method is not; `allow` as in the header of that name.
    pub fn method_not_allowed(allow: &str) -> Response {
        let line = format!("this path takes {allow}");
        Response::text(405, &line).with("Allow", allow)
    }

    /// Not now.
    pub(super) fn unavailable(why: &str) -> Response {
        Response::text(503, why).with("Retry-After", "1")
    }

    /// With one more header. What could end the header early is replaced in its value.
    pub fn with(mut self, name: &'static str, value: &str) -> Response {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        self.headers.push((name, value.chars().map(plain).collect()));
        self
    }

    /// What goes to the client.
    pub(super) fn encode(&self, head_only: bool, close: bool) -> Vec<u8> {
        let mut head = String::with_capacity(256);
        // Writing to a string cannot fail.
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = head.write_fmt(text);
            head.push_str("\r\n");
        };
        line(format_args!("HTTP/1.1 {} {}", self.status, reason(self.status)));
        line(format_args!("Date: {}", http_date(SystemTime::now())));
        for (name, value) in &self.headers {
            line(format_args!("{name}: {value}"));
        }
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("cache-control")) {
            // What a node says is true for an instant.
            line(format_args!("Cache-Control: no-store"));
        }
        // These two never have a body.
        let bodiless = matches!(self.status, 204 | 304);
        if !bodiless {
            line(format_args!("Content-Length: {}", self.body.len()));
        }
        if close {
            line(format_args!("Connection: close"));
        }
        line(format_args!(""));
        let mut bytes = head.into_bytes();
        if !head_only && !bodiless {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// As HTTP writes a time: "Sun, 06 Nov 1994 08:49:37 GMT".
fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = seconds / 86_400;
    let (year, month, day) = crate::calendar::date(days);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }

    #[test]
    fn a_header_cannot_be_ended_by_its_value() {
        let bytes = Response::text(200, "x").with("X", "a\r\nSet-Cookie: b").encode(false, false);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\r\nX: a  Set-Cookie: b\r\n"), "{text}");
    }

    #[test]
    fn what_never_has_a_body_is_sent_without_one() {
        for status in [204, 304] {
            let bytes = Response::text(status, "x").encode(false, false);
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.ends_with("\r\n\r\n") && !text.contains("Content-Length"), "{text}");
        }
    }

    #[test]
    fn head_says_the_length_and_leaves_the_body_out() {
        let response = Response::text(200, "four");
        let text = |head_only| String::from_utf8(response.encode(head_only, true)).unwrap();
        assert_eq!(format!("{}four\n", text(true)), text(false));
        assert!(text(true).contains("\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"));
    }
}
