//! Experiments as the admin listener shows and switches them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::{error, info};

use super::state::Core;
use crate::{
    admin::{ExperimentStatus, ExperimentSwitch, ExperimentsStatus, SwitchOutcome, VariantStatus},
    policy::{ExperimentConfig, Switched},
    telemetry::{metrics::ExperimentSample, rfc3339},
    types::{Name, did_you_mean},
};

impl Core {
    /// All of the configuration in force.
    pub(super) fn experiments(&self) -> ExperimentsStatus {
        let snapshot = self.snapshot.load();
        ExperimentsStatus {
            experiments: snapshot
                .experiments
                .iter()
                .map(|(name, config)| self.experiment_status(name, config))
                .collect(),
            problem: self.live.policies.experiments.problem(),
        }
    }

    /// What a scrape is told of them.
    pub(super) fn experiment_samples(&self) -> Vec<ExperimentSample> {
        let snapshot = self.snapshot.load();
        let sample = |(name, config): &(Name, Arc<ExperimentConfig>)| {
            let is_on = self.is_on(name, config);
            let file_differs = is_on != config.enabled;
            ExperimentSample { experiment: name.clone(), is_on, file_differs }
        };
        snapshot.experiments.iter().map(sample).collect()
    }

    /// Switches one. Blocks: what was switched is written to the disk.
    pub(super) fn switch_experiment(&self, name: &str, to: ExperimentSwitch) -> SwitchOutcome {
        let snapshot = self.snapshot.load_full();
        let known = snapshot.experiments.iter().find(|(known, _)| **known == *name);
        let Some((name, config)) = known else {
            let names = snapshot.experiments.iter().map(|(known, _)| &**known);
            return SwitchOutcome::Unknown { near: did_you_mean(name, names).map(str::to_owned) };
        };
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at = at.map_or(0, |since| since.as_secs());
        let to = match to {
            ExperimentSwitch::On => Some(Switched { on: true, at }),
            ExperimentSwitch::Off => Some(Switched { on: false, at }),
            ExperimentSwitch::Reset => None,
        };
        let is_in_force = |name: &Name| snapshot.experiments.iter().any(|(known, _)| known == name);
        let kept = self.live.policies.experiments.switch(name, to, is_in_force);
        let now = self.experiment_status(name, config);
        info!(
            experiment = %name,
            on = now.on,
            is_reset = to.is_none(),
            "experiment switched by the API"
        );
        if let Err(error) = &kept {
            error!(
                experiment = %name,
                %error,
                "what was switched can't be kept: it ends with this process"
            );
        }
        let not_kept = kept.err().and_then(|_| self.live.policies.experiments.problem());
        SwitchOutcome::Switched { now, not_kept }
    }

    fn is_on(&self, name: &Name, config: &ExperimentConfig) -> bool {
        let switched = self.live.policies.experiments.switched(name);
        switched.map_or(config.enabled, |switched| switched.on)
    }

    fn experiment_status(&self, name: &Name, config: &ExperimentConfig) -> ExperimentStatus {
        let switched = self.live.policies.experiments.switched(name);
        let on = self.is_on(name, config);
        ExperimentStatus {
            name: name.to_string(),
            on,
            enabled_in_file: config.enabled,
            file_differs: on != config.enabled,
            switched_at: switched
                .map(|switched| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(switched.at))),
            header: config.header.to_string(),
            cookie: config.cookie().map(str::to_owned),
            variants: config
                .variants
                .iter()
                .map(|(variant, share)| VariantStatus {
                    name: variant.to_string(),
                    share: share.to_string(),
                    exposures: self.live.metrics.variant(name, variant).exposures(),
                })
                .collect(),
        }
    }
}
