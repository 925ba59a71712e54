//! Which test process something belongs to, such that what a dead one left can be told from what
//! a living one needs, even if its pid was given out again.

use std::fs;

/// This process: its pid and when it started, with this between them.
pub fn this_process(between: char) -> String {
    let pid = std::process::id();
    format!("{pid}{between}{}", start_time(pid).unwrap_or_default())
}

/// Whether the process that called itself so is there.
pub fn is_alive(pid: Option<&str>, started: Option<&str>) -> bool {
    let pid = pid.and_then(|pid| pid.parse().ok());
    pid.and_then(start_time).as_deref() == started
}

/// When a process started, in clock ticks since boot: field 22 of its stat, after the name.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19).map(str::to_owned)
}
