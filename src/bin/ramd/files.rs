//! Files that must survive a power cut, and this node's own among those that a rewind or a copy
//! replaces by the primary's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Larger files are nobody's configuration.
const OWN_BYTES_MAX: u64 = 1 << 20;
/// What this node's own files end with, and what they begin with.
const OWN_ENDINGS: [&str; 6] = [".conf", ".crt", ".key", ".pem", ".crl", ".p12"];
const OWN_BEGINNING: &str = "pgraft.";

/// An error about a path, in words.
pub fn could_not<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> String + 'a {
    move |error| format!("could not {what} \"{}\": {error}", path.display())
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), String> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(could_not("sync", dir))
}

/// The names of the files in a data directory that say how *this* node is set up.
pub fn own_files(data: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data).map_err(could_not("read", data))? {
        let name = entry.map_err(could_not("read", data))?.file_name();
        let text = name.to_string_lossy();
        let own = text.starts_with(OWN_BEGINNING) || OWN_ENDINGS.iter().any(|e| text.ends_with(e));
        // Behind links, too: that is where packages put certificates.
        let is_small = |meta: fs::Metadata| meta.is_file() && meta.len() <= OWN_BYTES_MAX;
        if own && fs::metadata(data.join(&name)).is_ok_and(is_small) {
            found.push(PathBuf::from(name));
        }
    }
    Ok(found)
}

/// Copies this node's own files, durably.
pub fn copy_own(from: &Path, to: &Path) -> Result<(), String> {
    for name in own_files(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        let text = fs::read(&source).map_err(could_not("read", &source))?;
        // A link there is this node's, or the primary's: a file takes its place either way.
        let _ = fs::remove_file(&target); // not there, or writing fails in words
        fs::write(&target, text).map_err(could_not("write", &target))?;
        let mode = fs::metadata(&source).map_err(could_not("read", &source))?.permissions();
        fs::set_permissions(&target, mode).map_err(could_not("write", &target))?;
        let synced = File::open(&target).and_then(|file| file.sync_all());
        synced.map_err(could_not("sync", &target))?;
    }
    sync_dir(to)
}

/// Keeps copies of this node's own files in the folder `kept`, complete or not at all.
pub fn keep_own(data: &Path, kept: &Path) -> Result<(), String> {
    let aside = kept.with_extension("new");
    remove_tree(&aside)?;
    fs::create_dir(&aside).map_err(could_not("make", &aside))?;
    copy_own(data, &aside)?;
    remove_tree(kept)?;
    rename(&aside, kept)
}

/// Renames, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), String> {
    fs::rename(from, to).map_err(could_not("rename", from))?;
    sync_dir(to.parent().unwrap_or(Path::new("/")))
}

/// Removes a folder with all in it; none there is fine.
pub fn remove_tree(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(could_not("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Writes a file that is there as a whole, or as it was.
pub fn replace(path: &Path, text: &str) -> Result<(), String> {
    pgraft::storage::replace_file(path, text, 0o600).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_are_kept_and_put_back_and_no_others() {
        let dir = std::env::temp_dir().join(format!("ramd-files-{}", std::process::id()));
        remove_tree(&dir).unwrap();
        let (data, kept) = (dir.join("data"), dir.join("kept"));
        fs::create_dir_all(data.join("dir.conf")).unwrap();
        for name in ["postgresql.conf", "pgraft.member", "server.key", "PG_VERSION"] {
            fs::write(data.join(name), format!("own {name}")).unwrap();
        }
        fs::write(data.join("huge.conf"), vec![b'x'; OWN_BYTES_MAX as usize + 1]).unwrap();
        keep_own(&data, &kept).unwrap();
        // Again, as after a failure in between: what is kept is replaced.
        keep_own(&data, &kept).unwrap();
        fs::write(data.join("postgresql.conf"), "the primary's").unwrap();
        fs::remove_file(data.join("server.key")).unwrap();
        copy_own(&kept, &data).unwrap();
        let read = |name: &str| fs::read_to_string(data.join(name)).unwrap();
        assert_eq!(read("postgresql.conf"), "own postgresql.conf");
        assert_eq!(read("server.key"), "own server.key");
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 3);
        remove_tree(&dir).unwrap();
    }
}
