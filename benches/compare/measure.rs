//! What a run costs: CPU and memory of a proxy with all its threads and child processes, and how busy the cores were.
//!
//! From /proc: `stat` (user and system time, in ticks of 10 ms), `smaps_rollup` (PSS: pages that several processes share
//! are counted once), `/proc/stat` for the cores.

use std::{collections::HashMap, fs};

use serde::Serialize;

use crate::cores::Cores;

/// The process and all its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if let Some(parent) = stat_field(process, 1) {
            children.entry(parent as u32).or_default().push(process);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(process) = found.get(at) {
        found.extend(children.remove(process).unwrap_or_default());
        at += 1;
    }
    found
}

/// A number of `/proc/PID/stat`; 0 is the field after the name of the command, which may hold anything.
fn stat_field(process: u32, index: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(index)?.parse().ok()
}

/// Reads what one proxy and the cores have used.
pub(crate) struct Meter {
    proxy: Vec<u32>,
    cores: Cores,
    ticks_per_second: f64,
}

/// A reading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    proxy_ticks: u64,
    proxy_core: CoreTicks,
    load_core: CoreTicks,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    /// CPU of the proxy, user and system.
    pub(crate) proxy_cpu_seconds: f64,
    /// Part of the time that the client's core was busy; at 1 the client or the origin is the bottleneck.
    pub(crate) load_core_busy: f64,
    /// Part of the time that the proxy's core was busy with something else than the proxy, or was taken from the
    /// machine.
    pub(crate) disturbed: f64,
}

/// Ticks of a core since the machine started.
#[derive(Clone, Copy, Debug, Default)]
struct CoreTicks {
    all: u64,
    idle: u64,
}

impl Meter {
    /// For a proxy, or for nothing but the cores.
    pub(crate) fn new(proxy: Option<u32>, cores: Cores) -> Self {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        Self { proxy: proxy.map(tree).unwrap_or_default(), cores, ticks_per_second }
    }

    pub(crate) fn read(&self) -> Reading {
        let ticks = |process: &u32| {
            let user = stat_field(*process, 11).unwrap_or_default();
            user + stat_field(*process, 12).unwrap_or_default()
        };
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Reading {
            proxy_ticks: self.proxy.iter().map(ticks).sum(),
            proxy_core: CoreTicks::of(&text, self.cores.proxy),
            load_core: CoreTicks::of(&text, self.cores.load),
        }
    }

    pub(crate) fn used(&self, from: Reading, to: Reading) -> Usage {
        let proxy = (to.proxy_ticks - from.proxy_ticks) as f64;
        let core = to.proxy_core.since(from.proxy_core);
        let busy = (core.all - core.idle) as f64;
        Usage {
            proxy_cpu_seconds: proxy / self.ticks_per_second,
            load_core_busy: to.load_core.since(from.load_core).busy(),
            disturbed: (busy - proxy).max(0.0) / (core.all as f64).max(1.0),
        }
    }

    /// MiB of the proxy's processes.
    pub(crate) fn memory_mib(&self) -> f64 {
        let kib = |process: &u32| -> Option<f64> {
            let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        // A sum of nothing is -0.
        self.proxy.iter().filter_map(kib).sum::<f64>().abs() / 1024.0
    }
}

impl CoreTicks {
    fn of(stat: &str, core: usize) -> Self {
        let name = format!("cpu{core} ");
        let Some(fields) = stat.lines().find_map(|line| line.strip_prefix(name.as_str())) else {
            return Self::default();
        };
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
        let fields: Vec<u64> = fields
            .split_ascii_whitespace()
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        Self { all: fields.iter().sum(), idle: fields.iter().skip(3).take(2).sum() }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            all: self.all.saturating_sub(earlier.all),
            idle: self.idle.saturating_sub(earlier.idle),
        }
    }

    fn busy(self) -> f64 {
        1.0 - self.idle as f64 / (self.all as f64).max(1.0)
    }
}
