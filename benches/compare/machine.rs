//! What the results were measured on, for the report.

use std::fs;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) system: String,
    /// Whether it is a virtual machine, which others may take time from.
    pub(crate) is_virtual: bool,
    /// Processes that were running or waiting for a core, on average of the last minute before the start.
    pub(crate) load_average: f64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let cpu = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.trim_start_matches(name).trim_matches([' ', '\t', ':', '=', '"']).to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| {
            text.split_ascii_whitespace().next().and_then(|kib| kib.parse::<f64>().ok())
        });
        let load = read("/proc/loadavg");
        Self {
            processor: field(&cpu, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: cpu.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: memory.unwrap_or_default() / f64::from(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME").unwrap_or_default(),
            is_virtual: cpu.contains(" hypervisor"),
            load_average: load
                .split_ascii_whitespace()
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or_default(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
