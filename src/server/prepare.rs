//! Before a start: the configuration is found, compiled, and watched.

use std::{path::Path, sync::Arc};

use tokio::sync::Notify;
use tracing::{error, warn};

use super::{Options, StartError, builder::Builder};
use crate::{
    config::{self, Config, LastGoodError, Loaded, Report, Watcher},
    listener::Inherited,
    snapshot::{self, Blueprint, Leniency},
    telemetry::logging::Logging,
    types::Problems,
};

/// A configuration that is ready to be started with.
#[derive(Debug)]
pub struct Prepared {
    pub(super) options: Options,
    pub(super) compiled: Compiled,
    /// Why the last good configuration stands in for the file.
    pub(super) broken: Option<Report>,
    pub(super) builder: Builder,
    pub(super) changed: Arc<Notify>,
    pub(super) watcher: Option<Watcher>,
    pub(super) inherited: Inherited,
}

/// A configuration with which an edge can start.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) loaded: Loaded,
    pub(super) blueprint: Blueprint,
    /// What compiling it warns of.
    warnings: Report,
}

impl Compiled {
    /// The files that a configuration refers to may be missing: that shows here.
    fn new(loaded: Loaded, leniency: Leniency) -> Result<Self, Report> {
        let mut problems = Problems::new();
        let blueprint = snapshot::compile(&loaded.config, leniency, &mut problems);
        let report = loaded.report_of(problems);
        match blueprint {
            Some(blueprint) => Ok(Self { loaded, blueprint, warnings: report }),
            None => Err(report),
        }
    }
}

impl Prepared {
    /// Finds it: the file's, or the last good one where the file is broken.
    pub(super) fn find(options: Options) -> Result<Self, StartError> {
        let changed = Arc::new(Notify::new());
        let builder = Builder::start().map_err(StartError::Runtime)?;
        let notify = changed.clone();
        // An upgrade is not to make anything worse: the edge that runs has a configuration that is good.
        let strict = options.strict_start || options.upgrade;
        let leniency = if options.upgrade { Leniency::Strict } else { Leniency::DisableSites };
        let path = options.config.clone();
        let found = builder.run_blocking(move || {
            // It is started first: what changes while the files are read is seen.
            let watcher = Watcher::start(&path, move || notify.notify_one())
                .inspect_err(|error| warn!(%error, "the configuration files can't be watched; reload by SIGHUP or the API"))
                .ok();
            (find_configuration(&path, strict, leniency), watcher)
        });
        let (found, watcher) = found.map_err(|panicked| {
            let message = format!("loading it failed: {panicked}");
            StartError::Configuration(Box::new(Report::of_message(&options.config, &message)))
        })?;
        let (compiled, broken) =
            found.map_err(|report| StartError::Configuration(Box::new(report)))?;
        let watcher = watcher.filter(|_| broken.is_some() || compiled.loaded.config.reload.watch);
        let inherited = Inherited::default();
        Ok(Self { options, compiled, broken, builder, changed, watcher, inherited })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.compiled.loaded.config
    }

    /// The process's log, whose level a reload may change.
    pub fn set_logging(&mut self, logging: Logging) {
        self.options.logging = Some(logging);
    }

    /// Sockets that listeners of their address or name use instead of binding their own.
    pub fn set_inherited(&mut self, inherited: Inherited) {
        self.inherited = inherited;
    }
}

/// The configuration to start with: the file's, or the last good one with a report of what is wrong with the file.
fn find_configuration(
    path: &Path,
    strict: bool,
    leniency: Leniency,
) -> Result<(Compiled, Option<Report>), Report> {
    let compile = |loaded| Compiled::new(loaded, leniency);
    let report = match config::load(path).and_then(compile) {
        Ok(compiled) => return Ok((compiled, None)),
        Err(report) => report,
    };
    if strict {
        return Err(report);
    }
    let last_good = config::load_last_good(&config::state_dir_of(path))
        .and_then(|loaded| loaded.map(compile).transpose().map_err(LastGoodError::Refused));
    match last_good {
        Ok(Some(compiled)) => Ok((compiled, Some(report))),
        Ok(None) => Err(report),
        Err(error) => {
            warn!(%error, "there is no last good configuration to serve instead");
            Err(report)
        }
    }
}

/// What a start has to say of its configuration.
pub(super) fn tell(options: &Options, compiled: &Compiled, broken: Option<&Report>) {
    if let Some(report) = broken {
        error!(
            file = %options.config.display(),
            "the configuration file is broken: serving the last good one from the state directory; mend the file and it is taken"
        );
        for diagnostic in report.diagnostics() {
            error!("{diagnostic}");
        }
    }
    for diagnostic in compiled.loaded.report.diagnostics().chain(compiled.warnings.diagnostics()) {
        warn!("{diagnostic}");
    }
}
