//! The envelope of `/api/v1`: status, code, message, data, timestamp.

use pgraft::http::Response;
use serde_json::{Value, json};

use super::time::iso8601;
use crate::clock::unix_ms;

/// An answer of ours, in JSON.
pub fn json(status: u16, body: &Value) -> Response {
    Response::new(status, "application/json", body.to_string() + "\n")
}

/// It went well, or was begun.
pub fn ok(status: u16, message: &str, data: Value) -> Response {
    envelope("success", status, message, data)
}

/// It did not.
pub fn error(status: u16, message: &str, data: Value) -> Response {
    envelope("error", status, message, data)
}

fn envelope(status: &str, code: u16, message: &str, data: Value) -> Response {
    let timestamp = iso8601(unix_ms());
    let body = json!({
        "status": status,
        "code": code,
        "message": message,
        "data": data,
        "timestamp": timestamp,
    });
    json(code, &body)
}

/// Why a request is not carried out. Nothing was changed, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400: it is malformed. 409: not in this state. 412: what it takes for given is not so.
    pub status: u16,
    /// A word for programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What to do; or empty.
    pub hint: String,
}

impl Refusal {
    /// Without a hint.
    pub fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, reason, message: message.into(), hint: String::new() }
    }

    /// With one.
    pub fn hint(mut self, hint: &str) -> Refusal {
        hint.clone_into(&mut self.hint);
        self
    }

    /// As an answer.
    pub fn response(&self) -> Response {
        let hint = (!self.hint.is_empty()).then_some(self.hint.as_str());
        error(self.status, &self.message, json!({ "reason": self.reason, "hint": hint }))
    }
}
