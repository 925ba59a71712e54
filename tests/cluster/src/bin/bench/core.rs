//! Proposals a second through three Raft cores, and through those of raft-rs: a program of its own
//! (`tests/raft_bench`), so that this crate, which tests are built with, does not pull in another
//! Raft.

use std::process::{Command, Stdio};

use pgraft_cluster::{Failure, Result};

use crate::report::Row;

/// Cargo names itself to what it runs.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

pub fn measure() -> Result<Vec<Row>> {
    let output = Command::new(cargo())
        .args(["run", "--release", "--locked", "--quiet", "-p", "pgraft-raft-bench"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::while_doing("run pgraft-raft-bench"))?;
    if !output.status.success() {
        return Err(Failure::new(format!("pgraft-raft-bench failed ({})", output.status)));
    }
    String::from_utf8_lossy(&output.stdout).lines().map(row).collect()
}

/// `figure TAB measured TAB ratio`
fn row(line: &str) -> Result<Row> {
    let mut fields = line.split('\t');
    let mut field = || fields.next().map(str::to_owned);
    let (Some(figure), Some(measured), Some(ratio)) = (field(), field(), field()) else {
        return Err(Failure::new(format!("pgraft-raft-bench printed \"{line}\"")));
    };
    let ratio: f64 = ratio.parse().map_err(Failure::while_doing("read a ratio"))?;
    Ok(Row::aimed(figure, measured, ">= 1 times", ratio >= 1.0))
}
