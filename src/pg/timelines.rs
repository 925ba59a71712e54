//! Timeline history files in `pg_wal`: what a position is measured by, and the placeholders that
//! make a promotion take the number which the log gave it (`hand/timeline.rs`).

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::cluster::Switch;
use crate::hand::timeline::{
    HISTORY_BYTES_MAX, file_name, is_placeholder, of_file_name, parse, placeholder, stray,
};
use crate::storage::replace_file;

use super::guc;

fn folder() -> PathBuf {
    guc::data_directory().join("pg_wal")
}

fn read(timeline: u32) -> Option<String> {
    let file = File::open(folder().join(file_name(timeline))).ok()?;
    let mut text = String::new();
    file.take(HISTORY_BYTES_MAX + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= HISTORY_BYTES_MAX).then_some(text)
}

/// What `timeline` descends from; `None`: that cannot be read.
pub(super) fn history(timeline: u32) -> Option<Vec<Switch>> {
    if timeline == 1 {
        return Some(Vec::new());
    }
    parse(&read(timeline)?)
}

/// The history files there are: number, and whether it is a placeholder.
fn files() -> Vec<(u32, bool)> {
    let entries = std::fs::read_dir(folder()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let numbers = names.filter_map(|name| of_file_name(&name));
    numbers.map(|number| (number, read(number).is_some_and(|text| is_placeholder(&text)))).collect()
}

/// Sees to it that a promotion of a server on `current` takes exactly `wanted`. `Err`: it cannot.
pub(super) fn prepare(current: u32, wanted: u32) -> Result<(), String> {
    if wanted <= current {
        return Err(format!("it is on timeline {current} and cannot be promoted to {wanted}"));
    }
    let files = files();
    if let Some((taken, _)) =
        files.iter().find(|(number, stands_in)| *number >= wanted && !stands_in)
    {
        return Err(format!("timeline {taken} exists already, so it cannot take {wanted}"));
    }
    for number in current + 1..wanted {
        if !files.iter().any(|(there, _)| *there == number) {
            let path = folder().join(file_name(number));
            replace_file(&path, &placeholder(number, wanted), 0o600)
                .map_err(|error| error.to_string())?;
        }
    }
    for (number, _) in files.iter().filter(|(number, _)| *number >= wanted) {
        remove(*number);
    }
    Ok(())
}

/// In the postmaster, before recovery looks at them: placeholders of promotions that did not happen.
pub(super) fn remove_strays() {
    for number in stray(&files(), 0) {
        remove(number);
    }
}

fn remove(timeline: u32) {
    let path = folder().join(file_name(timeline));
    if let Err(error) = std::fs::remove_file(&path) {
        log::warn!("could not remove \"{}\": {error}", path.display());
    }
}
