//! Secrets of the edge: the one that its keys are derived from, read when a configuration is compiled or kept in the state
//! directory; and those of webhooks, which are read for each request.

use std::{error::Error, sync::PoisonError};

use tracing::warn;

use super::Live;
use crate::{
    config::Config,
    policy::PlaceOf,
    rollout::Sticky,
    state::{EdgeSecret, EdgeSecretError, MIN_SHARED_SECRET, read_secret},
    telemetry::webhooks::WebhookUrl,
    types::{KeyPath, Problems, Secret, SecretSource},
    upstream::StickyKey,
};

/// `server.shared_secret` as it is now.
pub(super) fn read_shared(config: &Config, problems: &mut Problems) -> Option<EdgeSecret> {
    let source = config.server.shared_secret.as_ref()?;
    let path = KeyPath::of(&["server", "shared_secret"]);
    match read_secret(source) {
        Ok(secret) if secret.expose().len() >= MIN_SHARED_SECRET => {
            return Some(EdgeSecret::shared(secret));
        }
        Ok(_) => {
            problems
                .error(&path, format!("the {source} has less than {MIN_SHARED_SECRET} bytes"))
                .help("make one with `openssl rand -base64 32`");
        }
        Err(error) => {
            problems.error(&path, error.to_string());
        }
    }
    None
}

/// Reads what webhooks need, or says why not.
pub(super) fn read_for_webhooks(source: &SecretSource) -> Result<Secret, String> {
    read_secret(source).map_err(|error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// A webhook whose secrets are not there is told nothing until they are. That is no reason to refuse a configuration.
pub(super) fn warn_of_unread(config: &Config, problems: &mut Problems) {
    for webhook in &config.webhooks {
        let path = KeyPath::of(&["webhooks", &webhook.name]);
        let url = match &webhook.url {
            WebhookUrl::Secret(source) => Some(source),
            WebhookUrl::Plain(_) => None,
        };
        for (key, source) in [("url", url), ("secret", webhook.secret.as_ref())] {
            if let Some(Err(error)) = source.map(read_for_webhooks) {
                problems
                    .warning(&path.key(key), error)
                    .help("events wait for up to an hour; it is read anew for each try");
            }
        }
    }
}

impl Live {
    /// Gives upstreams with sticky sessions the key of their cookies.
    pub(super) fn key_upstreams(&self, config: &Config, shared: Option<EdgeSecret>) {
        if config.upstreams.iter().all(|upstream| upstream.sticky.is_none()) {
            return;
        }
        match shared.map_or_else(|| self.own_secret(), Ok) {
            Ok(secret) => self.upstreams.set_sticky_key(StickyKey::of(&secret)),
            Err(error) => warn!(%error, "no sticky sessions: there is no key for their cookies"),
        }
    }

    /// Gives rollouts and experiments with cookies the keys of these. Those of the generation in force keep theirs.
    pub(super) fn key_routes(&self, config: &Config, shared: Option<&EdgeSecret>) {
        let mut experiments = config.policies.iter().flat_map(|policy| &policy.experiment);
        let mut rollouts = config.rollouts.iter();
        if !experiments.any(|experiment| matches!(experiment.place, PlaceOf::Cookie(_)))
            && !rollouts.any(|rollout| matches!(rollout.sticky, Some(Sticky::Cookie(_))))
        {
            return;
        }
        match shared.cloned().map_or_else(|| self.own_secret(), Ok) {
            Ok(secret) => {
                self.policies.experiments.set_secret(&secret);
                self.rollouts.set_secret(&secret);
            }
            Err(error) => warn!(
                %error,
                "experiments with cookies deal nobody, and rollouts keep nobody: there is no key"
            ),
        }
    }

    /// The secret of this edge alone. Routing goes on where it can't be kept: then it lasts as long as the process.
    fn own_secret(&self) -> Result<EdgeSecret, EdgeSecretError> {
        let mut present = self.own_secret.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(secret) = present.as_ref() {
            return Ok(secret.clone());
        }
        let secret = match EdgeSecret::kept_in(&self.state_dir) {
            Ok(secret) => secret,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(
                    error,
                    "sticky cookies will not outlive this process: their secret can't be kept"
                );
                EdgeSecret::of_this_process()?
            }
        };
        Ok(present.insert(secret).clone())
    }
}
