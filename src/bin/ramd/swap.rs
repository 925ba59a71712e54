//! The end of a copy: it takes the data directory's place by two renames, and what was there stays
//! aside. Both may be repeated from anywhere in between.

use std::fs;
use std::path::{Path, PathBuf};

use crate::clock::unix_ms;
use crate::files::{remove_tree, rename};
use crate::settings::{Settings, beside};

/// What a former data directory is called, before its time.
const OLD: &str = "old-";

/// Where a copy is made.
pub fn clone_dir(settings: &Settings) -> PathBuf {
    beside(&settings.data, "ramd-clone")
}

/// Where this node's own files are kept while a rewind replaces them.
pub fn kept_dir(settings: &Settings) -> PathBuf {
    settings.state.join("own-files")
}

/// Puts the complete copy in the place of the data directory, on which no server runs.
pub fn swap(settings: &Settings) -> Result<(), String> {
    let clone = clone_dir(settings);
    if !clone.exists() {
        // The second rename has happened before.
        return Ok(());
    }
    if settings.data.exists() {
        let aside = beside(&settings.data, &format!("{OLD}{}", unix_ms() / 1000));
        if aside.exists() {
            return Err(format!("\"{}\" is there already", aside.display()));
        }
        rename(&settings.data, &aside)?;
        log::info!("the old data directory is \"{}\" now", aside.display());
    }
    rename(&clone, &settings.data)
}

/// Removes all former data directories but the newest.
pub fn prune(settings: &Settings) -> Result<(), String> {
    let mut old = former(&settings.data);
    old.pop();
    old.iter().try_for_each(|dir| remove_tree(dir))
}

/// The former data directories, oldest first.
fn former(data: &Path) -> Vec<PathBuf> {
    let (Some(parent), Some(name)) = (data.parent(), data.file_name()) else { return Vec::new() };
    let prefix = format!("{}.{OLD}", name.to_string_lossy());
    let of_time = |name: &str| name.strip_prefix(&prefix).and_then(|time| time.parse::<u64>().ok());
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| Some((of_time(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_called_so_with_a_time_is_a_former_data_directory() {
        let dir = std::env::temp_dir().join(format!("ramd-swap-{}", std::process::id()));
        remove_tree(&dir).unwrap();
        for name in ["data.old-20", "data.old-3", "data.old-mine", "data.older", "x.old-1", "data"]
        {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let found = former(&dir.join("data"));
        assert_eq!(found, ["data.old-3", "data.old-20"].map(|name| dir.join(name)));
        remove_tree(&dir).unwrap();
    }
}
