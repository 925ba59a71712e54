//! Where servers keep their files: below `target/` of the checkout, or aside when their account
//! cannot get there (a checkout below `/root`, say).

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::account::{checkout, remove_folder};
use crate::{Account, Failure, Result};

/// A folder for servers, and the account that they run under.
#[derive(Clone, Debug)]
pub struct Home {
    /// The account of the servers.
    pub account: Account,
    /// The folder, which that account can enter.
    pub folder: PathBuf,
    /// Where the folder should have been, when it had to be put aside.
    pub aside_of: Option<PathBuf>,
}

impl Home {
    /// The folder `target/NAME`. When the account cannot enter the checkout the files go below
    /// `/var/tmp` instead, and `target/NAME` is a link to them.
    pub fn open(name: &str) -> Result<Home> {
        let account = Account::choose()?;
        let wanted = checkout().join("target").join(name);
        let parent = wanted.parent().unwrap_or(&wanted).to_owned();
        fs::create_dir_all(&parent)
            .map_err(Failure::while_doing(format!("make \"{}\"", parent.display())))?;
        if account.can_enter(&parent) {
            // A link of an earlier time, when it could not be entered.
            if wanted.is_symlink() {
                let _ = fs::remove_file(&wanted); // making the folder reports what matters
            }
            fs::create_dir_all(&wanted)
                .map_err(Failure::while_doing(format!("make \"{}\"", wanted.display())))?;
            return Ok(Home { account, folder: wanted, aside_of: None });
        }
        let folder = aside().join(name);
        fs::create_dir_all(&folder)
            .map_err(Failure::while_doing(format!("make \"{}\"", folder.display())))?;
        if !account.can_enter(&folder) {
            return Err(Failure::new(format!(
                "the user \"{}\" can enter neither \"{}\" nor \"{}\": \
                 open one of them, or move the checkout",
                account.name,
                parent.display(),
                folder.display(),
            )));
        }
        if !wanted.is_symlink() {
            remove_folder(&wanted)?;
            std::os::unix::fs::symlink(&folder, &wanted)
                .map_err(Failure::while_doing(format!("link \"{}\"", wanted.display())))?;
        }
        Ok(Home { account, folder, aside_of: Some(wanted) })
    }

    /// Removes the folder, and the link to it.
    pub fn remove(&self) -> Result<()> {
        remove_folder(&self.folder)?;
        match &self.aside_of {
            Some(link) => fs::remove_file(link)
                .map_err(Failure::while_doing(format!("remove \"{}\"", link.display()))),
            None => Ok(()),
        }
    }
}

/// The folder below `/var/tmp` that stands in for this checkout.
pub fn aside() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    checkout().hash(&mut hasher);
    Path::new("/var/tmp").join(format!("pgraft-{:016x}", hasher.finish()))
}
