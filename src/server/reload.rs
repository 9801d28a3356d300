//! From files on disk to a configuration in force: one swap, or nothing.
//!
//! Order: load, compile, bind new listeners, attach live state, probe new endpoints for a while, end listeners that are
//! gone, put limits in force, swap, start listeners that are new, keep the texts as the last good ones. Up to attaching
//! every step can refuse, and then the old configuration serves on, with its own limits.

use std::{fmt, sync::Arc, time::SystemTime};

use serde_json::json;
use tracing::{error, info, warn};

use super::state::{Core, LastReload, Phase, Settings};
use crate::{
    config::{self, Config, Loaded, Report},
    listener::Inherited,
    snapshot::{self, Leniency, Snapshot},
    telemetry::{
        audit::{Actor, Entry},
        metrics::ReloadResult,
    },
    types::{KeyPath, Problems},
};

/// What asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// The files changed.
    Watch,
    /// SIGHUP.
    Signal,
    /// The admin API.
    Api,
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong.
    pub report: Report,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.render(false))
    }
}

impl Core {
    /// Takes the files as they are now.
    ///
    /// # Errors
    /// The old configuration stays in force.
    pub(super) async fn reload(&self, trigger: Trigger, actor: Actor) -> Result<Taken, Refusal> {
        let _one_at_a_time = self.reloading.lock().await;
        let systemd = self.options.systemd;
        // The service manager is told only what changes its view: an edge that serves, and goes on to.
        let is_told = self.phase() == Phase::Ready;
        if is_told {
            systemd.reloading();
        }
        let result = self.try_reload(trigger).await;
        if is_told && self.phase() == Phase::Ready {
            systemd.ready(self.snapshot.load().generation);
        }
        let now = SystemTime::now();
        match &result {
            Ok(Taken { generation, is_new: true }) => {
                self.live.metrics.reloaded(ReloadResult::Taken, now);
                info!(generation, ?trigger, "configuration in force");
            }
            Ok(Taken { generation, .. }) => {
                self.live.metrics.reloaded(ReloadResult::Unchanged, now);
                info!(generation, ?trigger, "configuration unchanged");
            }
            Err(refusal) => self.report_refusal(refusal, trigger, now),
        }
        self.record(actor, &result);
        if let Ok(taken) = &result {
            let result = if taken.is_new { ReloadResult::Taken } else { ReloadResult::Unchanged };
            self.change_in_force(|in_force| {
                in_force.is_in_sync = true;
                in_force.last = Some(LastReload { at: now, result, problems: Vec::new() });
            });
            self.live.metrics.config_in_sync(true);
        }
        result
    }

    /// Writes down who asked for it and what came of it.
    fn record(&self, actor: Actor, result: &Result<Taken, Refusal>) {
        let (outcome, detail) = match result {
            Ok(taken) => {
                let outcome = if taken.is_new { "taken" } else { "unchanged" };
                (outcome, json!({ "generation": taken.generation }))
            }
            Err(Refusal { report }) => {
                let first = report.diagnostics().next().map(|found| found.to_string());
                ("refused", json!({ "errors": report.errors(), "first": first }))
            }
        };
        let file = self.options.config.display().to_string();
        self.live.audit.record(Entry::new(actor, "reload", file, outcome).detail(detail));
    }

    fn report_refusal(&self, refusal: &Refusal, trigger: Trigger, now: SystemTime) {
        self.live.metrics.reloaded(ReloadResult::Refused, now);
        self.live.metrics.config_in_sync(false);
        let problems: Vec<String> =
            refusal.report.diagnostics().map(|diagnostic| diagnostic.to_string()).collect();
        error!(
            ?trigger,
            errors = refusal.report.errors(),
            first = problems.first().map(String::as_str).unwrap_or_default(),
            "configuration refused: the old one stays in force"
        );
        self.change_in_force(|in_force| {
            in_force.is_in_sync = false;
            in_force.last = Some(LastReload { at: now, result: ReloadResult::Refused, problems });
        });
    }

    async fn try_reload(&self, trigger: Trigger) -> Result<Taken, Refusal> {
        if self.phase() == Phase::Draining {
            let message = "the edge is ending and takes no other configuration";
            return Err(Refusal { report: Report::of_message(&self.options.config, message) });
        }
        let path = self.options.config.clone();
        let loaded = match self.builder.run(move || config::load(&path)).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(report)) => return Err(Refusal { report }),
            Err(panicked) => {
                let message = format!("loading it failed: {panicked}");
                return Err(Refusal { report: Report::of_message(&self.options.config, &message) });
            }
        };
        let present = self.in_force();
        // The API and the signal also take changed certificates and bodies, which are not part of the hash.
        if trigger == Trigger::Watch && loaded.hash == present.hash && present.is_in_sync {
            return Ok(Taken { generation: self.snapshot.load().generation, is_new: false });
        }
        let config = loaded.config.clone();
        let mut problems = Problems::new();
        refuse_fixed(&config, &present.settings, &mut problems);
        self.live.rollouts.object(&config.rollouts, &mut problems);
        let compiling = config.clone();
        let compiled = self.builder.run(move || {
            let mut found = Problems::new();
            let blueprint = snapshot::compile(&compiling, Leniency::Strict, &mut found);
            (blueprint, found)
        });
        let blueprint = match compiled.await {
            Ok((blueprint, found)) => {
                problems.extend(found);
                blueprint
            }
            Err(panicked) => {
                problems.error(&KeyPath::root(), format!("compiling it failed: {panicked}"));
                None
            }
        };
        let Some(blueprint) = blueprint.filter(|_| !problems.has_errors()) else {
            return Err(refused(&loaded, problems));
        };
        let plan = match self.listeners.plan(&config.listeners, &mut Inherited::default()) {
            Ok(plan) => plan,
            Err(failures) => {
                report_binds(&failures, &mut problems);
                return Err(refused(&loaded, problems));
            }
        };
        let live = self.live.clone();
        let next = match self.builder.run(move || live.attach(blueprint)).await {
            Ok(Ok(next)) => next,
            Ok(Err(attach)) => {
                problems.error(&KeyPath::root(), attach.to_string());
                return Err(refused(&loaded, problems));
            }
            Err(panicked) => {
                problems.error(&KeyPath::root(), format!("attaching it failed: {panicked}"));
                return Err(refused(&loaded, problems));
            }
        };
        let probed =
            futures_util::future::join_all(next.upstreams.iter().map(|upstream| upstream.probed()));
        // An endpoint that was not probed in time serves where none is healthy.
        drop(tokio::time::timeout(config.reload.warm_up, probed).await);
        let generation = next.generation;
        self.listeners.retire(&plan, present.settings.server.drain, &self.snapshot.load_full());
        self.live.put_in_force(&next, &config);
        let before = self.snapshot.swap(Arc::new(next));
        self.listeners.start(plan);
        self.live.metrics.generation(generation);
        if let Some(logging) = &self.options.logging {
            logging.configure(config.log_level);
        }
        for diagnostic in
            loaded.report.diagnostics().chain(loaded.report_of(problems).diagnostics())
        {
            warn!("{diagnostic}");
        }
        self.change_in_force(|in_force| {
            in_force.settings = Settings::of(&config);
            in_force.hash = loaded.hash;
            in_force.since = SystemTime::now();
        });
        drop((config, present));
        self.keep_as_last_good(loaded, Some(before)).await;
        Ok(Taken { generation, is_new: true })
    }

    /// The first listeners of an edge; its snapshot is in force already.
    pub(super) fn bind_first(
        &self,
        config: &Config,
        loaded: &Loaded,
        inherited: &mut Inherited,
    ) -> Result<(), Report> {
        match self.listeners.plan(&config.listeners, inherited) {
            Ok(plan) => {
                self.listeners.start(plan);
                Ok(())
            }
            Err(failures) => {
                let mut problems = Problems::new();
                report_binds(&failures, &mut problems);
                Err(loaded.report_of(problems))
            }
        }
    }

    /// Writes the texts to the state directory, and forgets what was in force before, beside the request path.
    pub(super) async fn keep_as_last_good(&self, loaded: Loaded, before: Option<Arc<Snapshot>>) {
        let state_dir = self.settings().server.state_dir.clone();
        let keep = move || {
            drop(before);
            if let Err(error) = config::save_last_good(&state_dir, &loaded) {
                warn!(%error, "the last good configuration can't be kept");
            }
        };
        if self.builder.start_work(keep).await.is_err() {
            warn!("the last good configuration can't be kept");
        }
    }
}

/// A reload that was not refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// The generation in force.
    pub(super) generation: u64,
    /// Whether it came into force by this.
    pub(super) is_new: bool,
}

fn refused(loaded: &Loaded, problems: Problems) -> Refusal {
    Refusal { report: loaded.report_of(problems) }
}

fn report_binds(failures: &[(crate::types::Name, std::io::Error)], problems: &mut Problems) {
    for (name, error) in failures {
        let path = KeyPath::of(&["listeners", name, "address"]);
        let problem = problems.error(&path, format!("the address can't be bound: {error}"));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => problem.help("another process listens there"),
            std::io::ErrorKind::PermissionDenied => problem.help(
                "ports under 1024 need CAP_NET_BIND_SERVICE, or root; or choose a higher one",
            ),
            _ => problem,
        };
    }
}

/// What a running edge can't change.
fn refuse_fixed(new: &Config, old: &Settings, problems: &mut Problems) {
    let fixed = [
        ("server", "threads", new.server.threads != old.server.threads),
        ("server", "workers", new.server.workers != old.server.workers),
        ("server", "state_dir", new.server.state_dir != old.server.state_dir),
        ("admin", "address", new.admin.address != old.admin.address),
        ("reload", "watch", new.reload.watch != old.reload.watch),
        ("admin", "token", new.admin.token != old.admin.token),
    ];
    for (section, key, is_changed) in fixed {
        if is_changed {
            problems
                .error(
                    &KeyPath::of(&[section, key]),
                    format!("`{section}.{key}` can't change while the edge runs"),
                )
                .help("restart the edge, or take the change back");
        }
    }
}
