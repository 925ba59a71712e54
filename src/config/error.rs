//! What can be wrong with a configuration file, in words.

use std::fmt;
use std::path::PathBuf;

use super::CONFIG_BYTES_MAX;
use crate::shmem::cut;

/// How much of a bad value a message repeats.
const VALUE_BYTES_SHOWN: usize = 80;

/// Why a configuration file is of no use. Displays as one line without a full stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Where in it, counted from 1; `None`: nowhere in particular.
    pub line: Option<u32>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The file does not exist.
    Missing,
    /// It cannot be opened or read.
    Unreadable {
        /// What the system said.
        error: String,
    },
    /// It is a directory or a device.
    NotAFile,
    /// It is longer than a configuration file can sensibly be.
    TooLarge,
    /// It is not UTF-8.
    NotText,
    /// A `[section]`.
    Section,
    /// A line without `key =`.
    NoEquals,
    /// Quotes or brackets do not match.
    BadSyntax {
        /// The key.
        key: String,
    },
    /// No such key.
    UnknownKey {
        /// The key.
        key: String,
        /// The key that may be meant.
        nearest: Option<&'static str>,
    },
    /// A key set twice.
    DuplicateKey {
        /// The key.
        key: &'static str,
        /// Where it was set first.
        first_line: u32,
    },
    /// A key that must be set and is not.
    RequiredKey {
        /// The key.
        key: &'static str,
    },
    /// A value outside what is allowed.
    BadValue {
        /// The key.
        key: &'static str,
        /// The value; `None` if it is a secret.
        value: Option<String>,
        /// What is allowed: goes after "must be".
        allowed: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Missing => {
                return write!(f, "configuration file \"{path}\" does not exist");
            }
            Problem::Unreadable { error } => {
                return write!(f, "could not read configuration file \"{path}\": {error}");
            }
            Problem::NotAFile => {
                return write!(f, "configuration file \"{path}\" is not a regular file");
            }
            Problem::TooLarge => {
                return write!(
                    f,
                    "configuration file \"{path}\" is longer than {CONFIG_BYTES_MAX} bytes"
                );
            }
            Problem::NotText => f.write_str("text is not UTF-8")?,
            Problem::Section => f.write_str("sections are not supported")?,
            Problem::NoEquals => f.write_str("line is not of the form key = value")?,
            Problem::BadSyntax { key } => write!(f, "cannot read the value of \"{}\"", shown(key))?,
            Problem::UnknownKey { key, .. } => write!(f, "unknown key \"{}\"", shown(key))?,
            Problem::DuplicateKey { key, first_line } => {
                write!(f, "key \"{key}\" is already set in line {first_line}")?;
            }
            Problem::RequiredKey { key } => write!(f, "key \"{key}\" is not set")?,
            Problem::BadValue { key, value, allowed } => {
                write!(f, "\"{key}\" must be {allowed}")?;
                if let Some(value) = value {
                    write!(f, ", not \"{}\"", shown(value))?;
                }
            }
        }
        write!(f, " in file \"{path}\"")?;
        match self.line {
            Some(line) => write!(f, " line {line}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// What to do about it: a sentence, or empty.
    pub fn hint(&self) -> String {
        match &self.problem {
            Problem::Missing => "Copy pgraft's conf/pgraft.conf there and adapt it, or set \
                                 \"pgraft.config_file\" in postgresql.conf."
                .to_owned(),
            Problem::Unreadable { .. } => {
                "Check that the server's user may read the file.".to_owned()
            }
            Problem::NotAFile | Problem::TooLarge | Problem::NotText => {
                "Check \"pgraft.config_file\" in postgresql.conf.".to_owned()
            }
            Problem::Section => "Remove the line; all keys stand side by side.".to_owned(),
            Problem::NoEquals => "Comments begin with #.".to_owned(),
            Problem::BadSyntax { .. } => {
                "Put a value that holds quotes or brackets in double quotes, as in TOML.".to_owned()
            }
            Problem::UnknownKey { nearest: Some(key), .. } => {
                format!("Perhaps you meant \"{key}\".")
            }
            Problem::UnknownKey { nearest: None, .. } => {
                "docs/configuration.md lists all keys.".to_owned()
            }
            Problem::DuplicateKey { .. } => "Remove one of the two lines.".to_owned(),
            Problem::RequiredKey { key } => format!("Add a line \"{key} = ...\"."),
            Problem::BadValue { .. } => String::new(),
        }
    }
}

/// A piece of the file as a message may show it: short, on one line.
fn shown(text: &str) -> String {
    let short = cut(text, VALUE_BYTES_SHOWN);
    let clean: String = short.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if short.len() < text.len() { clean + "..." } else { clean }
}
