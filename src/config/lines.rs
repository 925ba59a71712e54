//! A text to settings: which lines set which key to what. What the keys mean is not known here.
//!
//! Each line is `key = value`. A value that is TOML is read by the `toml` crate; any other is taken
//! as bare words up to the end of the line or a ` #`. So the guide's file works, and a strict TOML
//! file as well. A TOML array may go on over several lines.

use toml::de::{DeTable, DeValue};

use super::error::Problem;

/// How many lines an array may go on for: one address a line, with room for comments.
const ARRAY_LINES_MAX: usize = 256;

/// One `key = value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    /// Counted from 1.
    pub line: u32,
    pub key: String,
    pub value: Value,
}

/// What stands behind the `=`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    /// A word, bare or quoted. `number` is set if TOML takes it for an integer, as in `1_000`.
    One { text: String, number: Option<i64> },
    /// A TOML array.
    Many(Vec<String>),
}

impl Value {
    /// As the file has it, more or less, for messages.
    pub fn as_written(&self) -> String {
        match self {
            Value::One { text, .. } => text.clone(),
            Value::Many(items) => format!("[{}]", items.join(", ")),
        }
    }
}

/// All settings of a text, or the first line that is none.
pub(super) fn settings(text: &str) -> Result<Vec<Setting>, (u32, Problem)> {
    // Editors of another system put this mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut settings = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let number = at as u32 + 1;
        let line = lines[at].trim();
        at += 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            return Err((number, Problem::Section));
        }
        let (key, rest) = line.split_once('=').ok_or((number, Problem::NoEquals))?;
        let key = unquoted(key.trim());
        if key.is_empty() {
            return Err((number, Problem::NoEquals));
        }
        let mut source = rest.trim().to_owned();
        let mut value = read_value(&source);
        // An array whose end is on a later line.
        let last = lines.len().min(at + ARRAY_LINES_MAX);
        while value.is_none() && source.starts_with('[') && at < last {
            source.push('\n');
            source.push_str(lines[at]);
            at += 1;
            // Only where it may end is it worth another try.
            if lines[at - 1].contains(']') {
                value = read_value(&source);
            }
        }
        let value = value.ok_or_else(|| (number, Problem::BadSyntax { key: key.to_owned() }))?;
        settings.push(Setting { line: number, key: key.to_owned(), value });
    }
    Ok(settings)
}

fn unquoted(key: &str) -> &str {
    let inner = key.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(key)
}

fn read_value(source: &str) -> Option<Value> {
    read_toml(source).or_else(|| read_bare(source))
}

fn read_toml(source: &str) -> Option<Value> {
    let document = format!("v = {source}");
    let table = DeTable::parse(&document).ok()?;
    let value = table.get_ref().get("v")?;
    match value.get_ref() {
        DeValue::String(text) => Some(one(text, None)),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
            Some(one(document.get(value.span())?, number))
        }
        DeValue::Array(items) => {
            let items = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            items.collect::<Option<Vec<String>>>().map(Value::Many)
        }
        DeValue::Table(_) => None,
        // A truth value, or a cluster named like a date: as it is written.
        _ => Some(one(document.get(value.span())?, None)),
    }
}

fn read_bare(source: &str) -> Option<Value> {
    let comment = source
        .match_indices('#')
        .map(|(at, _)| at)
        .find(|at| *at == 0 || source[..*at].ends_with([' ', '\t']));
    let text = source[..comment.unwrap_or(source.len())].trim();
    // What looks like TOML and is none is a slip of the pen, not a word.
    let slip = |c: char| matches!(c, '"' | '\'') || c.is_control();
    let bracket = text.starts_with('[') && !begins_with_ipv6(text);
    if bracket || text.starts_with('{') || text.contains(slip) {
        return None;
    }
    Some(one(text, None))
}

/// Whether it is `[::1]` and so on, rather than an array.
fn begins_with_ipv6(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    inside.is_some_and(|(host, _)| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '%' | '-');
        host.contains(':') && host.chars().all(known)
    })
}

fn one(text: &str, number: Option<i64>) -> Value {
    Value::One { text: text.to_owned(), number }
}
