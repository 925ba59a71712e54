//! `make bench`: the figures of docs/performance.md, measured on servers of its own.
//!
//! Each figure but `core` makes a cluster, measures, and removes it. What it is doing goes to
//! stderr; the table, at the end, to stdout. Arguments name the figures to run; none: all of them.
//! `moves=N`: how often each thing is done to a primary.

mod core;
mod failover;
mod fence;
mod idle;
mod machine;
mod moves;
mod pgbench;
mod primary;
mod proposal;
mod ramd;
mod read;
mod report;
mod samples;
mod setup;
mod store;
mod tpcb;

use std::fs;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use pgraft_cluster::{Account, Install, Result};
use report::Row;

/// Makes a cluster, measures, removes it.
type Measure = fn() -> Result<Vec<Row>>;

/// The figures, in the order of the table. The idle one comes first: it wants a quiet machine,
/// and what the others write is still on its way to the disk for a while.
const FIGURES: [(&str, Measure); 12] = [
    ("idle", idle::measure),
    ("core", core::measure),
    ("proposal", proposal::measure),
    ("store", store::measure),
    ("failover", failover::measure),
    ("read", read::measure),
    ("tpcb", tpcb::measure),
    ("kills", primary::all_kills),
    ("partitions", primary::partitions),
    ("switchovers", primary::switchovers),
    ("fence", fence::measure),
    ("ramd", ramd::measure),
];

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    wanted.retain(|argument| {
        let moves = argument.strip_prefix("moves=").and_then(|count| count.parse().ok());
        moves.is_none_or(|count| primary::COUNT_ASKED.set(count).is_err())
    });
    let is_known = |name: &String| FIGURES.iter().any(|(known, _)| known == name);
    if !wanted.iter().all(is_known) {
        eprintln!("usage: bench [{}] ... [moves=N]", FIGURES.map(|(name, _)| name).join("|"));
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    let load_before = machine::load();
    let library = library();
    let mut rows = Vec::new();
    let mut failed = false;
    for (name, measure) in FIGURES {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("bench: {name} (load {}) ...", machine::load());
        match measure() {
            Ok(measured) => rows.extend(measured),
            Err(failure) => {
                eprintln!("bench: {name}: {failure}");
                failed = true;
                rows.push(Row::failed(name));
            }
        }
    }
    if self::library() != library {
        eprintln!("bench: pgraft was installed anew during the run: the figures are of two builds");
        failed = true;
    }
    print!("{}", report::table(&rows));
    println!("\n{}", machine::describe());
    println!(
        "The run took {} s. Load average when it began: {load_before}; when it ended: {}.",
        began.elapsed().as_secs(),
        machine::load(),
    );
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// When the extension was installed.
fn library() -> Option<SystemTime> {
    let install = Install::find(&Account::choose().ok()?).ok()?;
    fs::metadata(install.library).ok()?.modified().ok()
}
