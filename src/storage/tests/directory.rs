//! Identity, lock and place of the directory, on the real file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::cluster::Uuid;

/// A directory of the test's own, removed at its end.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(what: &str) -> TempDir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgraft-test-{}-{what}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A test that failed may have left it unreadable: it is in the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn identity() -> Identity {
    Identity {
        node: NodeId::new(7).unwrap(),
        cluster_id: "a = b, \"c\"".to_owned(),
        directory: Uuid::from_bytes([0xab; 16]),
        cluster: None,
        system_identifier: Some(u64::MAX),
        boots: 7,
        started: true,
    }
}

#[test]
fn an_identity_is_read_as_it_was_stored() {
    let dir = TempDir::new("identity");
    assert_eq!(Identity::load(dir.path()).unwrap(), None);
    identity().store(dir.path()).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity()));
    let later = Identity {
        cluster: Some(Uuid::from_bytes([1; 16])),
        system_identifier: None,
        started: false,
        ..identity()
    };
    later.store(dir.path()).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), Some(later));
    let mode = fs::metadata(dir.path().join("identity")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_half_written_new_identity_leaves_the_old_one() {
    let dir = TempDir::new("aside");
    identity().store(dir.path()).unwrap();
    fs::write(dir.path().join("identity.new"), "# pgra").unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity()));
    identity().store(dir.path()).unwrap();
    assert!(!dir.path().join("identity.new").exists());
}

#[test]
fn a_changed_or_shortened_identity_is_refused() {
    let dir = TempDir::new("damaged");
    identity().store(dir.path()).unwrap();
    let file = dir.path().join("identity");
    let good = fs::read(&file).unwrap();
    let check = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        match Identity::load(dir.path()) {
            Err(error @ StorageError::Damaged { .. }) => {
                assert!(error.to_string().contains("/identity\" is damaged"), "{error}");
            }
            loaded => panic!("{what}: {loaded:?}"),
        }
    };
    for at in 0..good.len() - 1 {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        check(&bad, &format!("byte {at} changed"));
        check(&good[..at], &format!("cut at {at}"));
    }
    check(&[&good[..], b"started = true\n"].concat(), "a line more");
    check(&vec![b'#'; 1 << 20], "a megabyte");
    check(b"\xff\xfe", "no text");
}

#[test]
fn an_identity_that_was_lost_is_not_made_anew_over_its_log() {
    let dir = TempDir::new("lost");
    drop(FileDisk::open(dir.path()).unwrap());
    assert_eq!(Identity::load(dir.path()).unwrap(), None, "an empty log is nobody's");
    Storage::open(FileDisk::open(dir.path()).unwrap()).unwrap();
    let error = Identity::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn a_directory_is_locked_once_and_the_holder_named() {
    let dir = TempDir::new("lock");
    fs::write(dir.path().join("LOCK"), "4294967295 a former holder's pid, longer\n").unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let error = DirLock::acquire(dir.path()).unwrap_err();
    let pid = std::process::id();
    assert!(error.to_string().ends_with(&format!("is in use by process {pid}")), "{error}");
    assert!(!error.hint().is_empty());
    drop(lock);
    DirLock::acquire(dir.path()).unwrap();
}

#[test]
fn the_log_is_for_the_server_user_only() {
    let dir = TempDir::new("modes");
    let (storage, _) = Storage::open(FileDisk::open(dir.path()).unwrap()).unwrap();
    let (meta, data) = snapshot(id(1, 1), 10);
    storage.snapshots().store(&meta, &data).unwrap();
    let mode =
        |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("log"), mode("snapshot")), (0o700, 0o700));
    assert_eq!(mode("log/0000000001.log"), 0o600);
    assert_eq!(mode("snapshot/current"), 0o600);
}

#[test]
fn a_real_file_is_replaced_at_once_and_removed() {
    let dir = TempDir::new("replace");
    let mut disk = FileDisk::open(dir.path()).unwrap();
    for (name, text) in [("snapshot/current", "old"), ("snapshot/new", "newer")] {
        disk.create(name).unwrap();
        disk.append(name, text.as_bytes()).unwrap();
        disk.sync(name).unwrap();
    }
    // Who reads the old one goes on reading it.
    let mut reader = fs::File::open(dir.path().join("snapshot/current")).unwrap();
    disk.rename("snapshot/new", "snapshot/current").unwrap();
    disk.sync_names("snapshot").unwrap();
    // The old name is free for another file, and what is appended to that goes there.
    disk.create("snapshot/new").unwrap();
    disk.append("snapshot/new", b"another").unwrap();
    assert_eq!(disk.read("snapshot/new", 9).unwrap(), b"another");
    disk.remove("snapshot/new").unwrap();
    let mut read = String::new();
    std::io::Read::read_to_string(&mut reader, &mut read).unwrap();
    assert_eq!(read, "old");
    assert_eq!(disk.list("snapshot").unwrap(), ["current"]);
    assert_eq!(disk.read("snapshot/current", 9).unwrap(), b"newer");
    assert_eq!(disk.read_at("snapshot/current", 1, 3).unwrap(), b"ewe");
    assert_eq!(disk.read_at("snapshot/current", 3, 9).unwrap(), b"er");
    assert_eq!(disk.read_at("snapshot/current", 5, 9).unwrap(), b"");
    assert!(disk.read("snapshot/current", 4).is_err(), "longer than it may be");

    // What is appended goes to the file that has the name now.
    disk.append("snapshot/current", b"!").unwrap();
    assert_eq!(disk.read("snapshot/current", 9).unwrap(), b"newer!");
    disk.remove("snapshot/current").unwrap();
    disk.sync_names("snapshot").unwrap();
    assert!(disk.list("snapshot").unwrap().is_empty());
    let gone = disk.append("snapshot/current", b"!").unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    let gone = disk.remove("snapshot/current").unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn snapshots_and_compaction_work_on_real_files() {
    let dir = TempDir::new("snapshots");
    let open = || Storage::open_with(FileDisk::open(dir.path()).unwrap(), SEGMENT_BYTES).unwrap();
    let files = |folder: &str| fs::read_dir(dir.path().join(folder)).unwrap().count();
    let (mut storage, _) = open();
    for index in 1..=20 {
        storage.save(Some(&hard_state(1, 1, index)), &[entry(1, index, 150)], true).unwrap();
        if index % 5 == 0 {
            let (meta, data) = snapshot(id(1, index), 90_000);
            storage.snapshots().store(&meta, &data).unwrap();
            storage.compact(id(1, index - 2)).unwrap();
        }
    }
    assert_eq!(files("snapshot"), 1);
    assert!(files("log") <= 3, "{} segments are left", files("log"));
    drop(storage);
    let (mut storage, recovered) = open();
    assert_eq!(recovered.snapshot, Some(snapshot(id(1, 20), 90_000)));
    assert!(recovered.base.index >= LogIndex(14) && recovered.base.index <= LogIndex(18));
    assert_eq!(recovered.entries.last(), Some(&entry(1, 20, 150)));

    let (meta, data) = snapshot(id(2, 500), 70_000);
    storage.install(&meta, &data, Some(&hard_state(2, 0, 500))).unwrap();
    assert_eq!((files("snapshot"), files("log")), (1, 1));
    storage.save(None, &[entry(2, 501, 10)], true).unwrap();
    let part = storage.snapshots().read(&meta, 65_000, 1000).unwrap();
    assert_eq!(part.as_deref(), Some(&data[65_000..66_000]));
    drop(storage);
    let (_, recovered) = open();
    assert_eq!(recovered.snapshot, Some((meta, data)));
    assert_eq!((recovered.base, recovered.hard_state), (id(2, 500), hard_state(2, 0, 500)));
    assert_eq!(recovered.entries, [entry(2, 501, 10)]);
}

fn refused_as_inside(dir: &Path, pgdata: &Path) {
    match check_location(dir, pgdata) {
        Err(StorageError::InsidePgData { .. }) => {}
        other => panic!("{}: {other:?}", dir.display()),
    }
}

#[test]
fn a_place_inside_the_data_directory_is_refused_by_whatever_name() {
    let top = TempDir::new("inside");
    let pgdata = top.path().join("pgdata");
    fs::create_dir_all(pgdata.join("base")).unwrap();
    fs::create_dir(top.path().join("other")).unwrap();
    symlink(&pgdata, top.path().join("link")).unwrap();
    symlink("../pgdata/base", top.path().join("other/up")).unwrap();
    for inside in
        ["pgdata", "pgdata/raft", "pgdata/a/b/c", "other/../pgdata/raft", "link/raft", "other/up/x"]
    {
        refused_as_inside(&top.path().join(inside), &pgdata);
        refused_as_inside(&top.path().join(inside), &top.path().join("link"));
    }
    assert!(!pgdata.join("raft").exists(), "what is refused is not made");
    // Names that only begin alike.
    check_location(&top.path().join("pgdata-raft"), &pgdata).unwrap();
    check_location(&pgdata.join("../raft"), &pgdata).unwrap();
}

#[test]
fn a_link_that_leads_nowhere_makes_nothing_in_the_data_directory() {
    let top = TempDir::new("dangling");
    let pgdata = top.path().join("pgdata");
    fs::create_dir(&pgdata).unwrap();
    symlink(pgdata.join("later"), top.path().join("link")).unwrap();
    for dir in ["link", "link/raft"] {
        assert!(check_location(&top.path().join(dir), &pgdata).is_err(), "{dir}");
    }
    assert!(!pgdata.join("later").exists());
}

#[test]
fn a_missing_place_is_made_for_the_server_user_only() {
    let top = TempDir::new("made");
    let dir = top.path().join("a/b");
    check_location(&dir, &pgdata(&top)).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "the trial file is gone");
}

#[test]
fn a_place_for_temporary_files_is_accepted_with_a_warning() {
    let top = TempDir::new("tmp");
    let warnings = check_location(&top.path().join("raft"), &pgdata(&top)).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("temporary files"), "{}", warnings[0]);
}

#[test]
fn a_place_that_is_no_directory_or_cannot_be_written_is_refused() {
    let top = TempDir::new("refused");
    let pgdata = pgdata(&top);
    let file = top.path().join("file");
    fs::write(&file, "").unwrap();
    for dir in [file.clone(), file.join("raft"), PathBuf::from("/proc/pgraft")] {
        let error = check_location(&dir, &pgdata).unwrap_err();
        assert!(matches!(error, StorageError::Io { .. }), "{error}");
        assert!(error.to_string().contains(&*dir.to_string_lossy()), "{error}");
    }
}

fn pgdata(top: &TempDir) -> PathBuf {
    let pgdata = top.path().join("pgdata");
    fs::create_dir_all(&pgdata).unwrap();
    pgdata
}
