//! What a ramd that was killed has left: before anything else is looked at, the data directory is
//! in its place, and this node's own files are in it.

use crate::files::copy_own;
use crate::memory::{MemoryFile, Step};
use crate::settings::Settings;
use crate::swap::{clone_dir, kept_dir, remove_kept, swap, swapped};

/// A copy or a rewind may have been interrupted: this node's own files are put where they belong.
/// Whatever comes of it, the next attempt goes on from there.
pub fn put_own_files_back(settings: &Settings, memory: &MemoryFile) -> Result<(), String> {
    let kept = kept_dir(settings);
    let is_there = settings.data.exists();
    match memory.get().step {
        // One rename was made, or both.
        Step::Swapping if !is_there || !clone_dir(settings).exists() => {
            // Nothing is set aside any more.
            swap(settings, false)?;
            swapped(settings, memory)
        }
        // Nothing was renamed yet, and how the world has changed since is unknown: the copy is made
        // again, if it is still needed.
        Step::Swapping => {
            let begun = kept.exists();
            let step = if begun { Step::Rewinding } else { Step::None };
            memory.change(|memory| memory.step = step)?;
            if begun { copy_own(&kept, &settings.data) } else { Ok(()) }
        }
        Step::Rewinding | Step::Settling if kept.exists() => copy_own(&kept, &settings.data),
        Step::Rewinding | Step::Settling => Ok(()),
        // Killed just before a rewind began, or when it was done.
        Step::None => remove_kept(settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{keep_own, remove_tree, rename};
    use crate::settings::beside;
    use std::fs;
    use std::path::{Path, PathBuf};

    const OWN: [(&str, &str); 2] = [("postgresql.conf", "own settings"), ("server.key", "own key")];
    const PRIMARYS: &str = "the primary's";

    /// A node's folder, with a data directory that holds its own files.
    struct Place {
        folder: PathBuf,
        settings: Settings,
    }

    impl Place {
        fn make(name: &str) -> Place {
            let folder = format!("ramd-interrupted-{}-{name}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            remove_tree(&folder).unwrap();
            fs::create_dir_all(folder.join("state")).unwrap();
            let text = format!(
                "postgresql_data_directory = {0}/data\nramd_state_directory = {0}/state\n",
                folder.display()
            );
            fs::write(folder.join("ramd.conf"), text).unwrap();
            let settings = Settings::load(&folder.join("ramd.conf")).unwrap();
            let place = Place { folder, settings };
            place.fill(&place.settings.data, "former");
            place
        }

        /// Makes a data directory that holds this node's own files, and is known by its mark.
        fn fill(&self, dir: &Path, mark: &str) {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("PG_VERSION"), mark).unwrap();
            OWN.iter().for_each(|(name, text)| fs::write(dir.join(name), text).unwrap());
        }

        fn memory(&self) -> MemoryFile {
            MemoryFile::open(&self.settings.state.join("memory.json")).unwrap()
        }

        fn remember(&self, step: Step) {
            self.memory().change(|memory| memory.step = step).unwrap();
        }

        fn keep(&self) {
            keep_own(&self.settings.data, &kept_dir(&self.settings)).unwrap();
        }

        /// As after half a rewind: the primary's files are there, and one of them is missing.
        fn overwrite(&self) {
            fs::write(self.settings.data.join("postgresql.conf"), PRIMARYS).unwrap();
            fs::remove_file(self.settings.data.join("server.key")).unwrap();
        }

        /// Which data directory is in place, if any.
        fn mark(&self) -> Option<String> {
            fs::read_to_string(self.settings.data.join("PG_VERSION")).ok()
        }

        fn aside(&self) -> PathBuf {
            beside(&self.settings.data, "old-1")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            remove_tree(&self.folder).unwrap();
        }
    }

    /// What a rewind does before it is killed at that point.
    fn rewind_until(place: &Place, point: usize) {
        let kept = kept_dir(&place.settings);
        let steps: [&dyn Fn(); 7] = [
            &|| place.fill(&kept.with_extension("new"), "half of them"),
            &|| place.keep(),
            &|| place.remember(Step::Rewinding),
            &|| place.overwrite(),
            &|| place.remember(Step::Settling),
            &|| copy_own(&kept, &place.settings.data).unwrap(),
            &|| place.remember(Step::None),
        ];
        steps[..point].iter().for_each(|step| step());
    }

    /// What a copy does, from where it begins to be made.
    fn copy_until(place: &Place, point: usize) {
        let settings = &place.settings;
        let steps: [&dyn Fn(); 5] = [
            &|| place.fill(&clone_dir(settings), "copy"),
            &|| place.remember(Step::Swapping),
            &|| rename(&settings.data, &place.aside()).unwrap(),
            &|| rename(&clone_dir(settings), &settings.data).unwrap(),
            &|| {
                let swapped = |memory: &mut crate::memory::Memory| {
                    (memory.step, memory.untried) = (Step::None, true);
                };
                place.memory().change(swapped).unwrap();
            },
        ];
        steps[..point].iter().for_each(|step| step());
    }

    /// Starts ramd, twice, and checks what holds wherever it was killed.
    fn start(place: &Place, why: &str) {
        for _ in 0..2 {
            put_own_files_back(&place.settings, &place.memory()).unwrap();
            for (name, text) in OWN {
                let found = fs::read_to_string(place.settings.data.join(name));
                assert_eq!(found.ok().as_deref(), Some(text), "{why}: {name}");
            }
            // A server is started on it only if nothing is to be done any more; and what is kept,
            // keys among it, stays only while it is needed.
            let step = place.memory().get().step;
            let kept = kept_dir(&place.settings);
            assert_ne!(step, Step::Swapping, "{why}");
            assert_eq!(kept.exists(), step != Step::None, "{why}");
            assert!(!kept.with_extension("new").exists(), "{why}");
        }
    }

    #[test]
    fn a_rewind_killed_anywhere_goes_on_with_the_nodes_own_files() {
        use Step::{None, Rewinding, Settling};
        let steps = [None, None, None, Rewinding, Rewinding, Settling, Settling, None];
        for (point, step) in steps.into_iter().enumerate() {
            let place = Place::make(&format!("rewind-{point}"));
            rewind_until(&place, point);
            start(&place, &format!("rewind, point {point}"));
            assert_eq!(place.memory().get().step, step, "point {point}");
            assert_eq!(place.mark().as_deref(), Some("former"), "point {point}");
        }
    }

    #[test]
    fn a_copy_killed_anywhere_has_taken_the_place_or_has_not() {
        // By itself, and after a rewind that was begun and failed.
        for (rewound, begun) in [(0, Step::None), (4, Step::Rewinding)] {
            for point in 0..=5 {
                let why = format!("copy, point {point}, {begun:?}");
                let place = Place::make(&format!("copy-{rewound}-{point}"));
                rewind_until(&place, rewound);
                copy_until(&place, point);
                start(&place, &why);
                let (clone, aside) = (clone_dir(&place.settings), place.aside());
                let memory = place.memory().get();
                if point <= 2 {
                    assert_eq!(place.mark().as_deref(), Some("former"), "{why}");
                    assert_eq!((memory.step, memory.untried), (begun, false), "{why}");
                    assert_eq!((clone.exists(), aside.exists()), (point > 0, false), "{why}");
                } else {
                    assert_eq!(place.mark().as_deref(), Some("copy"), "{why}");
                    assert_eq!((memory.step, memory.untried), (Step::None, true), "{why}");
                    assert_eq!((clone.exists(), aside.exists()), (false, true), "{why}");
                }
            }
        }
    }
}
