//! Files that must survive a power cut, and this node's own among those that a rewind or a copy
//! replaces by the primary's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use pgraft::sys::daemon::effective_uid;

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

/// The names of the files in a data directory that say how *this* node is set up, and of links that
/// are called so.
fn own_files(data: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data).map_err(could_not("read", data))? {
        let name = entry.map_err(could_not("read", data))?.file_name();
        let text = name.to_string_lossy();
        let own = text.starts_with(OWN_BEGINNING) || OWN_ENDINGS.iter().any(|e| text.ends_with(e));
        let path = data.join(&name);
        if own && (path.is_symlink() || is_small_file(&path)) {
            found.push(PathBuf::from(name));
        }
    }
    Ok(found)
}

/// Whether there is a file of a size that may be copied, behind links, too.
fn is_small_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= OWN_BYTES_MAX)
}

/// Copies this node's own files, durably. Links stay links: packages put certificates behind them,
/// and renew them there.
pub fn copy_own(from: &Path, to: &Path) -> Result<(), String> {
    let names = own_files(from)?;
    for name in &names {
        let (source, target) = (from.join(name), to.join(name));
        let link = link_to_keep(from, &names, name);
        if link.is_none() && !is_small_file(&source) {
            continue;
        }
        // A link there is this node's, or the primary's: another one, or a file, takes its place.
        let _ = fs::remove_file(&target); // not there, or writing fails in words
        match link {
            Some(place) => symlink(place, &target).map_err(could_not("make", &target))?,
            None => copy_file(&source, &target)?,
        }
    }
    sync_dir(to)
}

/// Where a link of this node's leads, valid from any folder. `None`: it is none, or leads to what
/// is in the data directory and goes with it: then there is a file instead.
fn link_to_keep(from: &Path, names: &[PathBuf], name: &Path) -> Option<PathBuf> {
    let target = fs::read_link(from.join(name)).ok()?;
    if names.contains(&target) {
        return Some(target);
    }
    let folder = from.canonicalize().ok()?;
    let mut place = folder.clone();
    let mut parts = target.components().peekable();
    while let Some(part) = parts.next_if(|p| matches!(p, Component::ParentDir | Component::CurDir))
    {
        if part == Component::ParentDir {
            place.pop();
        }
    }
    // An absolute path takes the place of all before it.
    place.push(parts.collect::<PathBuf>());
    (!place.starts_with(&folder)).then_some(place)
}

/// Makes a file that is like another one, and this user's. What its owner gave a group does not
/// hold for another owner's: of keys PostgreSQL lets root's be read by a group, and no others.
fn copy_file(source: &Path, target: &Path) -> Result<(), String> {
    let text = fs::read(source).map_err(could_not("read", source))?;
    let meta = fs::metadata(source).map_err(could_not("read", source))?;
    let own = meta.uid() == effective_uid();
    let mode = meta.mode() & if own { 0o7777 } else { 0o700 };
    let write = || {
        // Nobody else reads it in between.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
        file.write_all(&text)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(could_not("write", target))
}

/// Puts what this node's links lead to in their places, for `pg_rewind`: to it a link is of another
/// kind than the file that the primary has there, also if that one is a link as well. What leads to
/// no file goes. The links themselves are kept with [`keep_own`].
pub fn follow_links(data: &Path) -> Result<(), String> {
    for name in own_files(data)? {
        let link = data.join(&name);
        if !link.is_symlink() {
            continue;
        }
        if !is_small_file(&link) {
            fs::remove_file(&link).map_err(could_not("remove", &link))?;
            continue;
        }
        let new = link.with_added_extension("ramd");
        let _ = fs::remove_file(&new); // of an attempt that was interrupted
        copy_file(&link, &new)?;
        rename(&new, &link)?;
    }
    Ok(())
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

    #[test]
    fn links_stay_links_and_lead_to_the_same_place() {
        let dir = std::env::temp_dir().join(format!("ramd-links-{}", std::process::id()));
        remove_tree(&dir).unwrap();
        let (data, kept) = (dir.join("data"), dir.join("state/kept"));
        for folder in [data.join("sub"), dir.join("state"), dir.join("etc")] {
            fs::create_dir_all(folder).unwrap();
        }
        let outside = dir.canonicalize().unwrap().join("etc/server.crt");
        for (file, text) in [
            (outside.clone(), "outside"),
            (data.join("node1.crt"), "node 1"),
            (data.join("sub/inside.crt"), "inside"),
        ] {
            fs::write(file, text).unwrap();
        }
        let links = [
            ("absolute.crt", outside.to_str().unwrap()),
            ("relative.crt", "../etc/server.crt"),
            ("own.crt", "node1.crt"),
            ("inside.crt", "sub/inside.crt"),
            ("missing.crt", "../etc/missing.crt"),
            ("lost.crt", "sub/missing.crt"),
            ("folder.conf", "../etc"),
        ];
        for (name, target) in links {
            symlink(target, data.join(name)).unwrap();
        }
        keep_own(&data, &kept).unwrap();
        // As pg_rewind needs it.
        follow_links(&data).unwrap();
        for (name, text) in [("absolute.crt", "outside"), ("own.crt", "node 1")] {
            assert!(!data.join(name).is_symlink());
            assert_eq!(fs::read_to_string(data.join(name)).unwrap(), text);
        }
        assert!(fs::symlink_metadata(data.join("missing.crt")).is_err());
        remove_tree(&data.join("sub")).unwrap();
        copy_own(&kept, &data).unwrap();
        let read = |name: &str| fs::read_to_string(data.join(name)).unwrap();
        for (name, target) in [
            ("absolute.crt", outside.clone()),
            ("relative.crt", outside.clone()),
            ("own.crt", PathBuf::from("node1.crt")),
            ("missing.crt", outside.with_file_name("missing.crt")),
            ("folder.conf", outside.parent().unwrap().to_owned()),
        ] {
            assert_eq!(fs::read_link(data.join(name)).unwrap(), target, "{name}");
        }
        // What is renewed there is seen here, and what was in the data directory is not lost.
        fs::write(&outside, "renewed").unwrap();
        assert_eq!((read("relative.crt"), read("own.crt")), ("renewed".into(), "node 1".into()));
        assert_eq!(read("inside.crt"), "inside");
        assert!(!data.join("inside.crt").is_symlink());
        remove_tree(&dir).unwrap();
    }

    #[test]
    fn a_key_that_was_another_users_is_its_new_owners_alone() {
        let dir = std::env::temp_dir().join(format!("ramd-mode-{}", std::process::id()));
        remove_tree(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
        for name in ["own.key", "others.key"] {
            fs::write(from.join(name), "secret").unwrap();
            fs::set_permissions(from.join(name), fs::Permissions::from_mode(0o640)).unwrap();
        }
        // Only root may give it away.
        let given = std::os::unix::fs::chown(from.join("others.key"), Some(65_534), None).is_ok();
        copy_own(&from, &to).unwrap();
        assert_eq!(mode(to.join("own.key")), 0o640);
        assert_eq!(mode(to.join("others.key")), if given { 0o600 } else { 0o640 });
        remove_tree(&dir).unwrap();
    }
}
