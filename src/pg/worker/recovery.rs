//! Consensus that should run on this node and cannot: a full or failing disk, a port in use. It is
//! tried again by itself, first after a second, then ever more rarely (`runtime/retry.rs`).
//!
//! Each attempt opens the directory anew: it reads the whole log back, cuts off a write that was
//! cut short, and writes the last record once more. A failed fsync is never merely repeated, which
//! would report success for pages that the kernel has given up.

use std::path::Path;

use crate::cluster::{Failure, FailureKind};
use crate::runtime::failures::failure;
use crate::shmem::NodeState;
use crate::sys;

use super::Worker;
use super::node::{Found, look_into};

impl Worker {
    /// When the worker begins, and at each reload while consensus does not run: pgraft.conf is read
    /// anew.
    pub(super) fn start_if_wanted(&mut self) {
        let found = self.look_around();
        self.start_found(found);
    }

    /// Makes the attempt that is due now, with the settings in force: only a reload or
    /// `pgraft_start()` takes in what pgraft.conf says by now.
    pub(super) fn start_if_due(&mut self) {
        let is_due = |due_ns| due_ns <= sys::now_boottime_ns();
        if self.retry.due_ns().is_some_and(is_due)
            && let Some(config) = self.config.clone()
        {
            // What it warns of was said at the first attempt.
            let found = look_into(config).map(|found| Found { warnings: Vec::new(), ..found });
            self.start_found(found);
        }
    }

    fn start_found(&mut self, found: Result<Found, Failure>) {
        let outcome = found.and_then(|Found { config, identity, warnings }| match identity {
            Some(identity) if identity.started => self.start_consensus(config, identity, &warnings),
            None if self.retry.due_ns().is_some() => Err(identity_is_gone(&config.data_dir)),
            _ => {
                self.retry.give_up();
                self.show(NodeState::Stopped, "");
                Ok(())
            }
        });
        if let Err(failure) = outcome {
            self.try_later(&failure);
        }
    }

    /// Consensus should run and does not. Shows why, and when it is tried again.
    pub(super) fn try_later(&mut self, why: &Failure) {
        if matches!(why.kind, FailureKind::Config | FailureKind::Corrupt) {
            // Another attempt would find the same: this takes a person.
            self.retry.give_up();
            return self.show_failure(why);
        }
        let pause = self.retry.failed(sys::now_boottime_ns());
        let message = format!("{}; trying again in {} s", why.message, pause.as_secs());
        self.show_failure(&Failure { message, ..why.clone() });
    }

    /// The log could not be written: this node must not promise anything before it has been started
    /// anew and its log read again.
    pub(super) fn storage_failed(&mut self, text: &str) {
        log::error!("{text}; consensus stops on this node");
        if self.stopping.is_some() {
            return self.finish_stop("consensus ended without handing leadership over".to_owned());
        }
        // None: it is being stopped anyway.
        if self.runtime.is_some() {
            self.stop_runtime("the log could not be written");
            self.try_later(&failure(FailureKind::Io, text, "", ""));
        }
    }
}

/// A directory that another attempt, or the node itself, has used before.
fn identity_is_gone(dir: &Path) -> Failure {
    failure(
        FailureKind::Io,
        format!("raft_data_dir \"{}\" has lost its identity", dir.display()),
        "",
        "Is its file system mounted?",
    )
}
