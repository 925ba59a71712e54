//! PostgreSQL's programs as ramd calls them, with a say in what two of them do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::{Failure, Node, Result};

const WRAPPED: [&str; 2] = ["pg_rewind", "pg_basebackup"];

impl Node {
    /// Makes a folder with PostgreSQL's programs in which `pg_rewind` and `pg_basebackup` are shell
    /// scripts: `script` writes one for a name, with the paths of the real program and of the
    /// folder, in which the server's account may write.
    pub fn wrap_programs(&self, script: impl Fn(&str, &Path, &Path) -> String) -> Result<PathBuf> {
        let here = self.place.folder.join("bin");
        fs::create_dir(&here).map_err(Failure::while_doing("make a folder"))?;
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(Failure::while_doing("set a mode"))
        };
        let bin = self.postgres_program("postgres");
        let bin = bin.parent().unwrap_or(&bin);
        for entry in fs::read_dir(bin).map_err(Failure::while_doing("read a folder"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let place = here.join(&name);
            if WRAPPED.contains(&name.as_str()) {
                let text = format!("#!/bin/sh\n{}", script(&name, &entry.path(), &here));
                fs::write(&place, text).map_err(Failure::while_doing("write a script"))?;
                open(&place, 0o755)?;
            } else {
                symlink(entry.path(), place).map_err(Failure::while_doing("make a link"))?;
            }
        }
        open(&here, 0o777)?;
        Ok(here)
    }
}
