//! Keys of a file and what they are set to: each known, each set once, with the checks that all
//! files of pgraft share. What a file's keys mean is known where its values are made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use log::LevelFilter;

use super::CONFIG_BYTES_MAX;
use super::error::{ConfigError, Problem};
use super::lines::{self, Setting, Value};

/// A problem and its line.
pub type Fault = (Option<u32>, Problem);

/// The settings of a file by key, each known and set once.
#[derive(Debug)]
pub struct Keys {
    pub(super) set: BTreeMap<&'static str, Setting>,
    /// Whose values no message shows.
    secrets: &'static [&'static str],
}

impl Keys {
    /// Reads a file of which these are all keys, the last ones with values that no message shows,
    /// and has `values` make something of it.
    pub fn load<T>(
        path: &Path,
        known: &'static [&'static str],
        secrets: &'static [&'static str],
        values: impl FnOnce(&Keys) -> Result<T, Fault>,
    ) -> Result<T, ConfigError> {
        let error = |(line, problem)| ConfigError { path: path.to_owned(), line, problem };
        let text = read(path).map_err(|problem| error((None, problem)))?;
        match String::from_utf8(text) {
            Ok(text) => Keys::parse(&text, known, secrets).and_then(|keys| values(&keys)),
            Err(bad) => {
                let good = &bad.as_bytes()[..bad.utf8_error().valid_up_to()];
                let line = good.iter().filter(|byte| **byte == b'\n').count() as u32 + 1;
                Err((Some(line), Problem::NotText))
            }
        }
        .map_err(error)
    }

    /// The same of a text.
    pub fn parse(
        text: &str,
        known: &'static [&'static str],
        secrets: &'static [&'static str],
    ) -> Result<Keys, Fault> {
        if text.len() > CONFIG_BYTES_MAX {
            return Err((None, Problem::TooLarge));
        }
        let settings = lines::settings(text).map_err(|(line, what)| (Some(line), what))?;
        let mut set = BTreeMap::new();
        for setting in settings {
            let line = setting.line;
            let Some(key) = known.iter().find(|key| **key == setting.key) else {
                let nearest = nearest(&setting.key, known);
                return Err((Some(line), Problem::UnknownKey { key: setting.key, nearest }));
            };
            if let Some(first) = set.insert(*key, setting) {
                let first_line = first.line;
                return Err((Some(line), Problem::DuplicateKey { key, first_line }));
            }
        }
        Ok(Keys { set, secrets })
    }

    /// Whether the file sets it.
    pub fn is_set(&self, key: &str) -> bool {
        self.set.contains_key(key)
    }

    /// The word that `key` is set to.
    pub fn word(&self, key: &'static str, allowed: &str) -> Result<Option<&str>, Fault> {
        match self.set.get(key) {
            None => Ok(None),
            Some(Setting { value: Value::One { text, .. }, .. }) => Ok(Some(text)),
            Some(_) => Err(self.bad(key, allowed)),
        }
    }

    /// The number that `key` is set to; its name says its unit.
    pub fn number(&self, key: &'static str, min: i64, max: i64) -> Result<Option<i64>, Fault> {
        let ends = |ends: &[&str]| ends.iter().any(|end| key.ends_with(end));
        let unit = match key {
            _ if ends(&["_ms"]) => " of milliseconds",
            _ if ends(&["_bytes", "_size"]) => " of bytes",
            _ if ends(&["_seconds"]) => " of seconds",
            _ => "",
        };
        let allowed = format!("a whole number{unit} from {min} to {max}");
        let number = match self.set.get(key).map(|setting| &setting.value) {
            None => return Ok(None),
            Some(Value::One { number: Some(number), .. }) => Some(*number),
            // In quotes, or too long for TOML.
            Some(Value::One { text, .. }) => text.parse().ok(),
            Some(Value::Many(_)) => None,
        };
        match number.filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.bad(key, &allowed)),
        }
    }

    /// The truth value that `key` is set to.
    pub fn truth(&self, key: &'static str) -> Result<Option<bool>, Fault> {
        const ALLOWED: &str = "true or false";
        match self.word(key, ALLOWED)?.map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true" | "on" | "yes") => Ok(Some(true)),
            Some("false" | "off" | "no") => Ok(Some(false)),
            Some(_) => Err(self.bad(key, ALLOWED)),
        }
    }

    /// The log level that `key` is set to.
    pub fn level(&self, key: &'static str) -> Result<Option<LevelFilter>, Fault> {
        const ALLOWED: &str = "one of error, warn, info, debug, trace, off";
        match self.word(key, ALLOWED)?.map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("warning") => Ok(Some(LevelFilter::Warn)),
            Some(name) => name.parse().map(Some).map_err(|_| self.bad(key, ALLOWED)),
        }
    }

    /// The absolute path that `key` is set to.
    pub fn path(&self, key: &'static str, bytes_max: usize) -> Result<Option<PathBuf>, Fault> {
        let allowed = format!("an absolute path of at most {bytes_max} bytes");
        let Some(text) = self.word(key, &allowed)? else { return Ok(None) };
        let fits = text.len() <= bytes_max && !text.contains(char::is_control);
        let path = PathBuf::from(text);
        if fits && path.is_absolute() { Ok(Some(path)) } else { Err(self.bad(key, &allowed)) }
    }

    /// `key` has a value that is not allowed.
    pub fn bad(&self, key: &'static str, allowed: &str) -> Fault {
        let setting = self.set.get(key);
        let value = setting
            .filter(|_| !self.secrets.contains(&key))
            .map(|setting| setting.value.as_written());
        let allowed = allowed.to_owned();
        (setting.map(|setting| setting.line), Problem::BadValue { key, value, allowed })
    }
}

/// `key` must be set and is not.
pub fn required(key: &'static str) -> Fault {
    (None, Problem::RequiredKey { key })
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let problem = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Problem::Missing,
        _ => Problem::Unreadable { error: error.to_string() },
    };
    // Before it is opened: opening a named pipe would wait for a writer.
    if !path.metadata().map_err(problem)?.is_file() {
        return Err(Problem::NotAFile);
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(problem)?;
    file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(problem)?;
    if text.len() > CONFIG_BYTES_MAX { Err(Problem::TooLarge) } else { Ok(text) }
}

/// The key that a mistyped one may mean: at most every third character is another.
fn nearest(typed: &str, known: &[&'static str]) -> Option<&'static str> {
    if typed.len() > 64 {
        return None;
    }
    let typed = typed.to_ascii_lowercase();
    let distances = known.iter().map(|key| (edit_distance(&typed, key), *key));
    distances.min().filter(|(distance, key)| *distance <= key.len() / 3).map(|(_, key)| key)
}

/// How many characters must be added, dropped or replaced to get from one to the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
