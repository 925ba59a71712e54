//! Making this server a standby of the primary, whatever it was: by `pg_rewind`, else by a new copy
//! that replaces it once it is complete. May be killed anywhere: `memory::Step` says, durably and
//! before it happens, what the data directory is good for, and the next attempt goes on from there.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use crate::command::Program;
use crate::control::{self, How};
use crate::control_data::ControlData;
use crate::daemon::Daemon;
use crate::files::{copy_own, follow_links, keep_own, remove_tree};
use crate::join::settings_of_new;
use crate::memory::Step;
use crate::primary::{Primary, ask, fork};
use crate::server::Server;
use crate::sql::Line;
use crate::standby::{self, Source};
use crate::swap::{clone_dir, kept_dir, prune, remove_failed, remove_kept, swap, swapped};

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By rewinding it, or by a copy if that cannot be.
    Rewind,
    /// By a copy.
    Clone,
}

/// What it works on.
pub struct Rejoin<'a> {
    /// The daemon.
    pub daemon: &'a Daemon,
    /// Its server.
    pub server: &'a Server,
    /// Whose standby it is to be.
    pub primary: Primary,
    /// Why.
    pub why: &'a str,
}

impl Rejoin<'_> {
    /// Does all that is left to do, but the start.
    pub fn run(&mut self, way: Way) -> Result<(), String> {
        self.is_of_our_system()?;
        self.primary.complete_promotion(self.daemon)?;
        if self.daemon.memory.get().step == Step::Settling {
            return self.timed("rewind", Rejoin::settle);
        }
        if way == Way::Rewind || self.daemon.memory.get().step == Step::Rewinding {
            match self.timed("rewind", Rejoin::rewind) {
                Ok(()) => return Ok(()),
                Err(why) if self.daemon.is_ending() || !self.daemon.settings.auto_clone => {
                    return Err(why);
                }
                // It is rewound; only the last part is to be done again.
                Err(why) if self.daemon.memory.get().step == Step::Settling => return Err(why),
                Err(why) => log::warn!("{why}; a new copy of the primary is made instead"),
            }
        }
        if !self.daemon.settings.auto_clone {
            return Err("auto_clone_enabled is off, and nothing else would help".to_owned());
        }
        self.timed("clone", Rejoin::clone)
    }

    /// Before anything is stopped or replaced.
    fn is_of_our_system(&self) -> Result<(), String> {
        let outcome = self.primary.is_of_our_system(self.daemon, self.server);
        if let Err(why) = &outcome {
            self.daemon.history.action("rejoin", self.why, why, 0);
        }
        outcome
    }

    /// Does one thing and writes it down.
    fn timed(
        &mut self,
        what: &str,
        body: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let began = Instant::now();
        let node = self.primary.id;
        self.daemon.doing(what, self.why);
        let outcome = body(self);
        let took_ms = began.elapsed().as_millis() as u64;
        let words = match &outcome {
            Ok(()) => format!("ok, from node {node}"),
            Err(why) => why.clone(),
        };
        self.daemon.history.action(what, self.why, &words, took_ms);
        outcome
    }

    fn remember(&self, step: Step) -> Result<(), String> {
        self.daemon.memory.change(|memory| memory.step = step)
    }

    // ---- pg_rewind ----

    fn rewind(&mut self) -> Result<(), String> {
        let untouched = self.daemon.memory.get().step == Step::None;
        if untouched {
            // Before the server is stopped: it may answer queries until a copy is complete.
            self.look_for_wal()?;
        }
        control::stop(self.daemon, self.server, How::Fast)?;
        let data = &self.daemon.settings.data;
        if untouched {
            let kept = kept_dir(&self.daemon.settings);
            keep_own(data, &kept)?;
            if let Err(why) = self.look_ahead() {
                // Links are links again.
                copy_own(&kept, data)?;
                remove_tree(&kept)?;
                return Err(why);
            }
            // From here on no server may be started on it.
            self.remember(Step::Rewinding)?;
        }
        follow_links(data)?;
        // What was interrupted must not recover by itself first: on a directory that is already the
        // primary's that would write WAL which the primary does not have.
        self.pg_rewind(if untouched { &[] } else { &["--no-ensure-shutdown"] })?;
        self.remember(Step::Settling)?;
        self.settle()
    }

    /// Whether the primary has the WAL from where the histories part.
    fn look_for_wal(&self) -> Result<(), String> {
        let control = ControlData::read(self.daemon, self.server)?;
        if let Some(at) = self.fork(control.timeline)
            && !self.primary.has_wal_from(self.daemon, at).unwrap_or(true)
        {
            return Err(format!(
                "node {} has no longer the WAL from where the histories part, {}",
                self.primary.id,
                crate::probe::show_lsn(at)
            ));
        }
        Ok(())
    }

    /// Whether a rewind can work, found out while nothing was changed but links.
    fn look_ahead(&self) -> Result<(), String> {
        match ControlData::read(self.daemon, self.server)?.is_shut_down() {
            true => {
                follow_links(&self.daemon.settings.data)?;
                self.pg_rewind(&["--dry-run"])
            }
            // pg_rewind lets it recover by itself first; then it has changed something.
            false => Ok(()),
        }
    }

    /// Where the primary's history and one on this timeline part; `None`: unknown.
    fn fork(&self, timeline: u32) -> Option<u64> {
        match self.primary.history(self.daemon) {
            Ok(history) => fork(timeline, u64::MAX, &history),
            Err(why) => {
                log::warn!("could not read the primary's timeline history: {why}");
                None
            }
        }
    }

    fn pg_rewind(&self, more: &[&str]) -> Result<(), String> {
        let settings = &self.daemon.settings;
        // Its own files: those of the data directory may be the primary's by now.
        let kept = kept_dir(settings);
        let own: &Path = if kept.exists() { &kept } else { &settings.data };
        let source = standby::rewind_conninfo(self.daemon, own, &self.primary.address)?;
        let program = self.server.program("pg_rewind");
        let mut program = Program::client(&program, settings.passfile.as_deref())
            .untranslated()
            .arg("-D")
            .arg(&settings.data)
            .arg("--source-server")
            .arg(source);
        if let Some(file) = &settings.config_file {
            program = program.arg("--config-file").arg(file);
        }
        program.args(more).run(self.daemon).map(drop)
    }

    fn settle(&mut self) -> Result<(), String> {
        let settings = &self.daemon.settings;
        let kept = kept_dir(settings);
        copy_own(&kept, &settings.data)?;
        standby::settle(self.daemon, &settings.data, &self.primary, &[])?;
        self.remember(Step::None)?;
        remove_kept(settings)
    }

    // ---- pg_basebackup ----

    fn clone(&mut self) -> Result<(), String> {
        let settings = &self.daemon.settings;
        can_be_replaced(&settings.data)?;
        let clone = clone_dir(settings);
        if let Err(why) = prune(settings) {
            log::warn!("{why}");
        }
        // Of an attempt that was interrupted: nobody else calls anything so.
        remove_tree(&clone)?;
        if self.daemon.memory.get().step == Step::None {
            // Of a rewind that is done: they would pass for those of one that was interrupted.
            remove_kept(settings)?;
        }
        let own = self.own_files_dir();
        let source = standby::copy_source(self.daemon, &own, &self.primary.address)?;
        let made = self.copy(&clone, &source, &own);
        if let Err(why) = made {
            // It may be what fills the disk.
            if let Err(left) = remove_tree(&clone) {
                log::warn!("{left}");
            }
            return Err(why);
        }
        self.is_still_primary()?;
        self.remember(Step::Swapping)?;
        finish_clone(self.daemon, self.server)
    }

    /// A copy takes its time, in which this server, which runs, may have become the primary itself:
    /// it has not if the other one still is.
    fn is_still_primary(&self) -> Result<(), String> {
        let address = self.primary.address.clone();
        match ask(self.daemon, &Line::default(), self.primary.id, address) {
            Ok(now) if now.system_identifier == self.primary.system_identifier => Ok(()),
            Ok(_) => Err(format!("another cluster answers for node {} now", self.primary.id)),
            Err(why) => Err(format!(
                "node {}, which was copied, is no open primary any more: {why}",
                self.primary.id
            )),
        }
    }

    /// Makes a complete copy that is a standby of the primary.
    fn copy(&self, clone: &Path, source: &Source, own: &Path) -> Result<(), String> {
        let settings = &self.daemon.settings;
        let program = self.server.program("pg_basebackup");
        Program::client(&program, settings.passfile.as_deref())
            .untranslated()
            .args(["-X", "stream", "-c", "fast", "--no-password"])
            .args(["-d", &source.conninfo, "-D"])
            .arg(clone)
            .password(source.password.as_deref())
            .run(self.daemon)?;
        let new = self.daemon.memory.get().joining.is_some();
        let more = if new { settings_of_new(settings) } else { Vec::new() };
        if !new {
            copy_own(own, clone)?;
        }
        standby::settle(self.daemon, clone, &self.primary, &more)
    }

    /// Where this node's own files are now.
    fn own_files_dir(&self) -> std::path::PathBuf {
        let settings = &self.daemon.settings;
        match self.daemon.memory.get().step {
            Step::Rewinding | Step::Settling => kept_dir(settings),
            _ => settings.data.clone(),
        }
    }
}

/// A complete copy is there: it takes the data directory's place.
pub fn finish_clone(daemon: &Daemon, server: &Server) -> Result<(), String> {
    control::stop(daemon, server, How::Fast)?;
    let settings = &daemon.settings;
    // Of a new member: an empty one is nothing to keep. What is not empty stays.
    let _ = std::fs::remove_dir(&settings.data);
    swap(settings, daemon.memory.get().untried)?;
    daemon.hold_data()?;
    swapped(settings, &daemon.memory)?;
    if let Err(why) = remove_failed(settings) {
        log::warn!("{why}");
    }
    Ok(())
}

/// A data directory that something is mounted on cannot be renamed.
pub fn can_be_replaced(data: &Path) -> Result<(), String> {
    let (Ok(own), Some(parent)) = (std::fs::metadata(data), data.parent()) else { return Ok(()) };
    match std::fs::metadata(parent) {
        Ok(parent) if parent.dev() != own.dev() => Err(format!(
            "\"{}\" is a file system of its own, so that no copy can take its place: \
             make the data directory a folder in it",
            data.display()
        )),
        _ => Ok(()),
    }
}
