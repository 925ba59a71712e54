//! A file system of a node's own that is small enough to be filled: a tmpfs. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Cluster, Failure, Result};

/// One, mounted until dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
    mounted: bool,
}

impl Cluster {
    /// Puts the folder of a node that does not run onto a file system of so many MB.
    pub fn small_disk(&self, id: u32, mb: u32) -> Result<SmallDisk> {
        let node = self.node(id);
        let mount = node.place.folder.clone();
        let aside = mount.with_extension("aside");
        fs::rename(&mount, &aside).map_err(Failure::while_doing("put a node's folder aside"))?;
        node.account.make_folder(&mount)?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mb}m"), "tmpfs"], &mount)?;
        let disk = SmallDisk { mount: mount.clone(), mounted: true };
        node.account.make_folder(&mount)?;
        let from = aside.join(".").display().to_string();
        run("cp", &["--archive", &from], &mount)?;
        fs::remove_dir_all(&aside).map_err(Failure::while_doing("remove a folder"))?;
        Ok(disk)
    }
}

impl SmallDisk {
    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }

    /// Fills it but for so many MB.
    pub fn fill_but(&self, mb: u64) -> Result<()> {
        let doing = "look at a file system";
        let stat = rustix::fs::statvfs(&self.mount).map_err(Failure::while_doing(doing))?;
        let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(mb << 20);
        let size = bytes.to_string();
        run("fallocate", &["--length", &size], &self.filler())
    }

    /// Takes that back.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(self.filler()).map_err(Failure::while_doing("remove what fills a disk"))
    }

    /// Unmounts it; nothing must work there any more.
    pub fn remove(mut self) -> Result<()> {
        self.mounted = false;
        run("umount", &[], &self.mount)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted {
            // After a failure servers may work there: it goes when they do.
            let _ = run("umount", &["--lazy"], &self.mount);
        }
    }
}

fn run(program: &str, arguments: &[&str], last: &Path) -> Result<()> {
    let output = Command::new(program).args(arguments).arg(last).output();
    let output = output.map_err(Failure::while_doing(format!("run {program}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(Failure::new(format!("{program} failed: {said}")))
        }
    }
}
