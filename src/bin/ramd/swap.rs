//! The end of a copy: it takes the data directory's place by two renames, and what was there stays
//! aside, unless it was a copy itself that never was of use. Both may be repeated from anywhere in
//! between.

use std::fs;
use std::path::{Path, PathBuf};

use crate::clock::unix_ms;
use crate::files::{remove_tree, rename};
use crate::memory::{MemoryFile, Step};
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

/// Where a copy goes that was never of use, to be removed.
fn failed_dir(settings: &Settings) -> PathBuf {
    beside(&settings.data, "ramd-failed")
}

/// Removes what is kept of them: there may be keys among them.
pub fn remove_kept(settings: &Settings) -> Result<(), String> {
    let kept = kept_dir(settings);
    // Not complete yet.
    remove_tree(&kept.with_extension("new"))?;
    remove_tree(&kept)
}

/// Puts the complete copy in the place of the data directory, on which no server runs. `untried`:
/// what is there now is a copy that was never well.
pub fn swap(settings: &Settings, untried: bool) -> Result<(), String> {
    let clone = clone_dir(settings);
    if !clone.exists() {
        // The second rename has happened before.
        return Ok(());
    }
    if settings.data.exists() {
        // A server that was promoted on it has written something.
        let failed = untried && settings.data.join("standby.signal").exists();
        let aside = match failed {
            true => failed_dir(settings),
            false => beside(&settings.data, &format!("{OLD}{}", unix_ms() / 1000)),
        };
        if failed {
            remove_tree(&aside)?;
        }
        if aside.exists() {
            return Err(format!("\"{}\" is there already", aside.display()));
        }
        rename(&settings.data, &aside)?;
        log::info!("the old data directory is \"{}\" now", aside.display());
    }
    rename(&clone, &settings.data)
}

/// The copy has taken its place: nothing is left to do of that.
pub fn swapped(settings: &Settings, memory: &MemoryFile) -> Result<(), String> {
    memory.change(|memory| (memory.step, memory.untried) = (Step::None, true))?;
    remove_kept(settings)
}

/// Removes a copy that was never of use, and has been replaced.
pub fn remove_failed(settings: &Settings) -> Result<(), String> {
    remove_tree(&failed_dir(settings))
}

/// Removes what copies have left: all former data directories but the newest, and what is neither
/// that nor in use.
pub fn prune(settings: &Settings) -> Result<(), String> {
    let mut old = former(&settings.data);
    old.pop();
    old.extend([failed_dir(settings), clone_dir(settings)]);
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
    fn only_a_copy_that_was_never_of_use_is_not_kept() {
        let dir = std::env::temp_dir().join(format!("ramd-untried-{}", std::process::id()));
        remove_tree(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        let conf = dir.join("ramd.conf");
        let text = format!("postgresql_data_directory = {}\n", dir.join("data").display());
        fs::write(&conf, text).unwrap();
        let settings = Settings::load(&conf).unwrap();
        let mark = |dir: &Path| fs::read_to_string(dir.join("mark")).unwrap();
        let make = |dir: &Path, what: &str| {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("mark"), what).unwrap();
            fs::write(dir.join("standby.signal"), "").unwrap();
        };
        let old = || former(&settings.data).iter().map(|dir| mark(dir)).collect::<Vec<_>>();
        make(&settings.data, "original");
        for (untried, next) in [(false, "first"), (true, "second"), (true, "third")] {
            make(&clone_dir(&settings), next);
            swap(&settings, untried).unwrap();
            assert_eq!((mark(&settings.data).as_str(), old()), (next, vec!["original".into()]));
        }
        assert_eq!(mark(&failed_dir(&settings)), "second");
        // One that was promoted may have what nobody else has.
        fs::remove_file(settings.data.join("standby.signal")).unwrap();
        make(&clone_dir(&settings), "fourth");
        let first = former(&settings.data).remove(0);
        rename(&first, &dir.join("data.old-1")).unwrap();
        swap(&settings, true).unwrap();
        assert_eq!(old(), ["original", "third"]);
        prune(&settings).unwrap();
        assert_eq!(old(), ["third"]);
        assert!(!failed_dir(&settings).exists());
        remove_tree(&dir).unwrap();
    }

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
