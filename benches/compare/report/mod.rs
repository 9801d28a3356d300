//! The report: what was measured on what, the series, and what the figures say of the goals. As text for the terminal, as
//! JSON for programs, as a chart for the documentation.

mod chart;
mod goals;
pub(crate) mod text;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::Serialize;

use crate::{
    contestants::Contestant,
    cores::Cores,
    machine::Machine,
    options::Options,
    series::{Bench, SeriesResult},
};
use goals::Verdict;

#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// When it began, UTC.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) cores: Cores,
    pub(crate) versions: Vec<(Contestant, String)>,
    pub(crate) options: &'a Options,
    pub(crate) rounds: u32,
    pub(crate) window_seconds: f64,
    pub(crate) series: Vec<SeriesResult>,
    pub(crate) verdicts: Vec<Verdict>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(options: &'a Options, bench: &Bench<'_>) -> Result<Self> {
        let mut versions = Vec::new();
        for contestant in Contestant::value_variants() {
            if let Some(version) = contestant.version()? {
                versions.push((*contestant, version));
            }
        }
        Ok(Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            machine: Machine::look(),
            cores: bench.cores,
            versions,
            options,
            rounds: options.rounds(),
            window_seconds: options.window().as_secs_f64(),
            series: Vec::new(),
            verdicts: Vec::new(),
        })
    }

    pub(crate) fn heading(&self) -> String {
        text::heading(self)
    }

    /// Compares the figures with the goals.
    pub(crate) fn judge(&mut self) {
        self.verdicts = goals::verdicts(&self.series);
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
        };
        write("compare.txt", text::whole(self))?;
        write("compare.json", serde_json::to_string_pretty(self)? + "\n")?;
        write("compare.svg", chart::draw(self)?)
    }
}
