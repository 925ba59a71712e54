//! What the figures were measured on.

use std::fs;

fn line_of(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
}

/// `2.10 1.50 1.20`, of the last one, five and fifteen minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Cores, model, memory, kernel.
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = line_of("/proc/cpuinfo", "model name");
    let memory: u64 = line_of("/proc/meminfo", "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .map_or(0, |kilobytes: u64| kilobytes >> 20);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let hypervisor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let guest = if hypervisor.contains(" hypervisor") { ", a virtual machine" } else { "" };
    format!(
        "Machine: {cores} cores, {model}, {memory} GB of memory, Linux {}{guest}.",
        kernel.trim()
    )
}
