//! Where `raft_data_dir` may be.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::StorageError;

/// The room that a node wants to begin with. One that starts with less, on a disk that is all but
/// full, is down again with its next entries, which disturbs the others more than its absence.
const PROBE_BYTES: usize = 1 << 20;

/// Checks that `dir` may hold a node's data, makes it (mode 0700) if it does not exist, and tries
/// to write into it. What the operator should know at each start comes back as warnings.
pub fn check_location(dir: &Path, pgdata: &Path) -> Result<Vec<String>, StorageError> {
    let real_pgdata = fs::canonicalize(pgdata).map_err(StorageError::io("resolve", pgdata))?;
    let real = resolve(dir).map_err(StorageError::io("resolve", dir))?;
    if real.starts_with(&real_pgdata) {
        return Err(StorageError::InsidePgData { path: dir.to_owned() });
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(StorageError::io("create directory", dir))?;
    let probe = dir.join("write.test");
    // Some file systems find room, or that there is none, only when they must write.
    let written = File::create(&probe)
        .and_then(|mut file| file.write_all(&[0; PROBE_BYTES]).and_then(|()| file.sync_all()));
    // A full disk leaves a part of it behind; if it cannot go, the next start tries again.
    let _ = fs::remove_file(&probe);
    written.map_err(StorageError::io("write", &probe))?;
    let mut warnings = Vec::new();
    if ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|tmp| real.starts_with(tmp)) {
        warnings.push(format!(
            "raft_data_dir \"{}\" is in a directory for temporary files; a node whose data is \
             cleaned away must be removed from the cluster and added again",
            dir.display()
        ));
    }
    Ok(warnings)
}

/// The real path of `dir`, of which the last parts may not exist yet.
fn resolve(dir: &Path) -> io::Result<PathBuf> {
    let mut existing = dir.to_owned();
    let mut missing = Vec::new();
    loop {
        match fs::canonicalize(&existing) {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = existing.file_name().ok_or(error)?.to_owned();
                missing.push(name);
                existing.pop();
            }
            Err(error) => return Err(error),
        }
    }
}
