//! The timeline history files in `pg_wal` (`hand/timeline.rs` says what they are).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::cluster::Switch;
use crate::hand::timeline::{self, HISTORY_BYTES_MAX};
use crate::storage::replace_file;

use super::guc;

fn folder() -> PathBuf {
    guc::data_directory().join("pg_wal")
}

/// What a timeline descends from; `None`: that cannot be read.
pub(super) fn history(number: u32) -> Option<Vec<Switch>> {
    match number {
        0 => None,
        1 => Some(Vec::new()),
        _ => timeline::parse(&read(&folder().join(timeline::file_name(number))).ok()?),
    }
}

/// Sees to it that a server on timeline `current` that is promoted takes exactly `wanted`: the
/// placeholders it needs. `Err`: why it cannot.
pub(super) fn make_way(current: u32, wanted: u32) -> Result<Vec<u32>, String> {
    if wanted <= current {
        return Err(format!(
            "timeline {wanted} cannot be begun: this server is on timeline {current} already"
        ));
    }
    let files = files(&folder())
        .map_err(|error| format!("could not read the folder \"pg_wal\": {error}"))?;
    if let Some((taken, _)) = files.iter().find(|&&(n, placeholder)| n >= wanted && !placeholder) {
        return Err(format!(
            "timeline {wanted} cannot be begun: pg_wal has the history of timeline {taken}"
        ));
    }
    // Of a promotion that did not happen.
    for (stray, _) in files.iter().filter(|&&(number, _)| number >= wanted) {
        let path = folder().join(timeline::file_name(*stray));
        fs::remove_file(&path)
            .map_err(|error| format!("could not remove \"{}\": {error}", path.display()))?;
    }
    let between = current + 1..wanted;
    let missing = between.filter(|number| !files.iter().any(|(there, _)| there == number));
    let missing: Vec<u32> = missing.collect();
    for &number in &missing {
        let path = folder().join(timeline::file_name(number));
        replace_file(&path, &timeline::placeholder(number, wanted), 0o600)
            .map_err(|error| error.to_string())?;
    }
    let placeholders = files.iter().filter(|(n, placeholder)| *placeholder && *n < wanted);
    Ok(placeholders.map(|&(number, _)| number).chain(missing).collect())
}

/// Removes placeholders that nothing came of, before recovery looks. The postmaster calls this.
/// `Err`: a line for the log.
pub(super) fn remove_stray() -> Result<(), String> {
    let remove = || -> io::Result<()> {
        for number in timeline::stray(&files(&folder())?, 0) {
            fs::remove_file(folder().join(timeline::file_name(number)))?;
        }
        Ok(())
    };
    remove().map_err(|error| format!("could not remove a placeholder in pg_wal: {error}"))
}

/// Each history file's timeline, and whether it is a placeholder.
fn files(folder: &Path) -> io::Result<Vec<(u32, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().and_then(timeline::of_file_name) {
            // One that cannot be read counts as real: it is not for us to remove.
            let text = read(&folder.join(&name)).unwrap_or_default();
            found.push((number, timeline::is_placeholder(&text)));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(HISTORY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > HISTORY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Reasons may hold anything; what counts is ASCII.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
