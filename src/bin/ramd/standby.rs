//! What makes a data directory that of a standby of one primary: `standby.signal`,
//! `primary_conninfo`, `primary_slot_name`. pgraft keeps the last two up to date, but only once the
//! server is consistent, and for that it may need WAL from the primary.

use std::fs;
use std::path::Path;

use pgraft::cluster::Address;
use pgraft::config::Config;
use pgraft::hand::conninfo::{Conninfo, SECRETS};
use pgraft::hand::standby_name;

use crate::auto_conf;
use crate::daemon::Daemon;
use crate::files::{could_not, replace, sync_dir};
use crate::primary::Primary;
use crate::settings::Settings;

const AUTO_CONF: &str = "postgresql.auto.conf";
const CONNINFO: &str = "primary_conninfo";
const SLOT: &str = "primary_slot_name";
/// Where pgraft keeps what `primary_conninfo` had before it was emptied.
const KEPT_CONNINFO: &str = "pgraft.conninfo";

/// Makes `dir`, on which no server runs, that of a standby of the primary. `more`: further
/// settings for postgresql.auto.conf.
pub fn settle(
    daemon: &Daemon,
    dir: &Path,
    primary: &Primary,
    more: &[(&str, String)],
) -> Result<(), String> {
    let name = standby_name(daemon.pgraft.node_id);
    let slot = match primary.has_slot(daemon, &name) {
        Ok(true) => name,
        // pgraft sets it once the slot is there.
        Ok(false) => String::new(),
        Err(why) => {
            log::warn!("could not look at the slots of the primary: {why}");
            name
        }
    };
    let path = dir.join(AUTO_CONF);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let conninfo = upstream(daemon, dir, &primary.address)?.to_string();
    let mut text = auto_conf::set(&text, CONNINFO, &conninfo);
    text = auto_conf::set(&text, SLOT, &slot);
    for (name, value) in more {
        text = auto_conf::set(&text, name, value);
    }
    replace(&path, &text)?;
    replace(&dir.join("standby.signal"), "")?;
    let recovery = dir.join("recovery.signal");
    if recovery.exists() {
        fs::remove_file(&recovery).map_err(could_not("remove", &recovery))?;
    }
    sync_dir(dir)
}

/// How this node connects to that server as its standby: what pgraft.conf says, else what it was
/// before, else as whom ramd.conf says.
fn upstream(daemon: &Daemon, dir: &Path, address: &Address) -> Result<Conninfo, String> {
    Ok(base(daemon, dir)?.to(address, &standby_name(daemon.pgraft.node_id)))
}

/// How a program that ramd starts connects.
pub struct Source {
    /// For its arguments, which everybody on the machine can read: no secret is in it.
    pub conninfo: String,
    /// For its environment.
    pub password: Option<String>,
}

/// How the primary is copied: as this node's standby would connect to it.
pub fn copy_source(daemon: &Daemon, dir: &Path, address: &Address) -> Result<Source, String> {
    let all = upstream(daemon, dir, address)?;
    let password = all.get("password").map(str::to_owned);
    Ok(Source { conninfo: all.without(&SECRETS).to_string(), password })
}

/// The same for one who may rewind: another user, whose password is in the passfile, and a
/// database.
pub fn rewind_conninfo(daemon: &Daemon, dir: &Path, address: &Address) -> Result<String, String> {
    let settings = &daemon.settings;
    let others = upstream(daemon, dir, address)?.without(&SECRETS);
    let mut info = others.with("user", &settings.user).with("dbname", &settings.database);
    if let Some(passfile) = &settings.passfile {
        info = info.with("passfile", &passfile.display().to_string());
    }
    Ok(info.to_string())
}

/// Whether the programs can be given all that `replication_conninfo` says.
pub fn check(settings: &Settings, pgraft: &Config) -> Result<(), String> {
    // One that cannot be read is told of when it is needed, as pgraft does.
    let info = Conninfo::parse(&pgraft.replication_conninfo).unwrap_or_default();
    let mut hidden = SECRETS.into_iter().filter(|keyword| *keyword != "password");
    match hidden.find(|keyword| info.get(keyword).is_some()) {
        None => Ok(()),
        Some(keyword) => Err(format!(
            "\"replication_conninfo\" in file \"{}\" has \"{keyword}\", and pg_basebackup could be \
             told that only where everybody reads it\n\
             hint: Use a passfile, or a key without a passphrase that only the server's user may \
             read.",
            settings.pgraft_config.display()
        )),
    }
}

fn base(daemon: &Daemon, dir: &Path) -> Result<Conninfo, String> {
    let of = |text: &str, source: &str| {
        let read = Conninfo::parse(text).map(|info| info.base());
        read.map_err(|error| format!("{source} cannot be read: {error}"))
    };
    let pgraft = daemon.pgraft_now();
    if !pgraft.replication_conninfo.is_empty() {
        return of(&pgraft.replication_conninfo, "replication_conninfo in pgraft.conf");
    }
    let text = fs::read_to_string(dir.join(AUTO_CONF)).unwrap_or_default();
    let kept = fs::read_to_string(dir.join(KEPT_CONNINFO)).unwrap_or_default();
    let former = auto_conf::get(&text, CONNINFO).filter(|text| !text.is_empty()).unwrap_or(kept);
    let former = of(former.trim_end(), "the former primary_conninfo")?;
    if !former.is_empty() {
        return Ok(former);
    }
    let settings = &daemon.settings;
    let info = Conninfo::default().with("user", &settings.replication_user);
    Ok(match &settings.passfile {
        Some(passfile) => info.with("passfile", &passfile.display().to_string()),
        None => info,
    })
}
