//! What goes wrong in the harness, as one line for a person.

use std::fmt;

/// Why a step of the harness failed, in words. Nobody acts on the kind, so there is none.
pub struct Failure(String);

/// The result of every step of the harness.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure that says this.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure(message.into())
    }

    /// For `map_err`: puts what was being done in front of the error.
    pub fn while_doing<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Failure {
        move |error| Failure(format!("could not {what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// A test that returns an error is reported through Debug: it should read the same.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}
