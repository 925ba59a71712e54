//! Who the servers run as. PostgreSQL refuses to run as root, so root hands them to someone else.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Failure, Result};

/// Names another account than the default ones when root runs the harness.
const VARIABLE: &str = "PGRAFT_RUN_AS";

/// The account that the servers run under.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name, for messages.
    pub name: String,
    /// The ids to switch to; `None` when nothing is to be switched, because we are not root.
    ids: Option<(u32, u32)>,
}

impl Account {
    /// For root: `$PGRAFT_RUN_AS`, else `postgres`, else `nobody`. For anyone else: that user.
    pub fn choose() -> Result<Account> {
        if !rustix::process::geteuid().is_root() {
            let name = std::env::var("USER").unwrap_or_else(|_| "this user".to_owned());
            return Ok(Account { name, ids: None });
        }
        let asked = std::env::var(VARIABLE).ok();
        let names: Vec<&str> = match &asked {
            Some(name) => vec![name],
            None => vec!["postgres", "nobody"],
        };
        let passwd =
            fs::read_to_string("/etc/passwd").map_err(Failure::while_doing("read /etc/passwd"))?;
        for name in &names {
            if let Some(ids) = look_up(&passwd, name).filter(|(uid, _)| *uid != 0) {
                return Ok(Account { name: (*name).to_owned(), ids: Some(ids) });
            }
        }
        Err(Failure::new(format!(
            "PostgreSQL does not run as root, and there is no other user {}: run \
             \"useradd --system postgres\", or name one in {VARIABLE}",
            names.join(" or "),
        )))
    }

    /// A command that runs under this account, from `/`, untouched by PG* variables of the caller.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some((uid, gid)) = self.ids {
            // Setting a uid as root makes the standard library drop the other groups, too.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a command to its end; what it printed, or a failure that quotes the end of it.
    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
        let program = program.as_ref();
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .map_err(Failure::while_doing(format!("run \"{}\"", program.display())))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stdout));
        let said: Vec<&str> = said.lines().collect();
        Err(Failure::new(format!(
            "{} failed ({}): {}",
            program.file_name().unwrap_or_default().to_string_lossy(),
            output.status,
            said[said.len().saturating_sub(12)..].join("\n"),
        )))
    }

    /// Whether this account can read and enter a folder, all the way from the root. Asked of the
    /// kernel by trying, so that it holds for whatever decides there.
    pub fn can_enter(&self, folder: &Path) -> bool {
        let inside = folder.join(".");
        self.command("/usr/bin/test")
            .arg("-x")
            .arg(inside)
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Makes a folder, and the ones above it, that belongs to this account and is closed to others.
    pub fn make_folder(&self, folder: &Path) -> Result<()> {
        let doing = || format!("make the folder \"{}\"", folder.display());
        fs::create_dir_all(folder).map_err(Failure::while_doing(doing()))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(folder, mode).map_err(Failure::while_doing(doing()))?;
        self.own(folder)
    }

    /// Writes a file that belongs to this account.
    pub fn write_file(&self, file: &Path, text: &str) -> Result<()> {
        let doing = format!("write \"{}\"", file.display());
        fs::write(file, text).map_err(Failure::while_doing(doing))?;
        self.own(file)
    }

    /// Hands a file or folder to this account.
    pub fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.ids else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(Failure::while_doing(format!("chown \"{}\"", path.display())))
    }
}

/// The uid and gid of a name in the text of /etc/passwd.
fn look_up(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

/// Removes a folder with everything in it; none there is fine.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("could not remove \"{}\": {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// The top of the checkout that this crate was built in.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).into()
}
