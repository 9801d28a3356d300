//! Which core does what: the proxy has one for itself, the client another, the origin a third where there is one.

use anyhow::{Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// The highest core number that is looked at.
const MOST_CORES: usize = 1024;

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cores {
    pub(crate) proxy: usize,
    pub(crate) load: usize,
    pub(crate) origin: usize,
}

impl Cores {
    /// Takes the last of the cores that this process may use for the proxy, and pins this process, which is the client.
    ///
    /// # Errors
    /// There is one core only: the proxy would be measured together with its client.
    pub(crate) fn take(wanted: Option<usize>) -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut free: Vec<usize> =
            (0..CpuSet::MAX_CPU.min(MOST_CORES)).filter(|core| allowed.is_set(*core)).collect();
        let proxy = match wanted {
            Some(core) if free.contains(&core) => core,
            Some(core) => bail!("core {core} is not among those that this process may use"),
            None => free.last().copied().unwrap_or_default(),
        };
        free.retain(|core| *core != proxy);
        let Some(&load) = free.first() else {
            bail!("two cores are needed: one for the proxy, one for its client and its origin")
        };
        let origin = free.get(1).copied().unwrap_or(load);
        let mut own = CpuSet::new();
        own.set(load);
        sched_setaffinity(None, &own)?;
        Ok(Self { proxy, load, origin })
    }
}
