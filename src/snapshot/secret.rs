//! The secret that keys of the edge are derived from: read when a configuration is compiled, or kept in the state directory.

use std::sync::PoisonError;

use tracing::warn;

use super::Live;
use crate::{
    config::Config,
    rollout::CookieKey,
    state::{EdgeSecret, EdgeSecretError, MIN_SHARED_SECRET, read_secret},
    types::{KeyPath, Problems},
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

impl Live {
    /// Gives upstreams with sticky sessions, and rollouts, the keys of their cookies.
    pub(super) fn key_cookies(&self, config: &Config, shared: Option<EdgeSecret>) {
        let has_sticky_rollout = config
            .rollouts
            .iter()
            .any(|rollout| matches!(rollout.sticky, Some(crate::rollout::Sticky::Cookie(_))));
        if !has_sticky_rollout && config.upstreams.iter().all(|upstream| upstream.sticky.is_none())
        {
            return;
        }
        match shared.map_or_else(|| self.own_secret(), Ok) {
            Ok(secret) => {
                self.upstreams.set_sticky_key(StickyKey::of(&secret));
                self.rollouts.set_cookie_key(CookieKey::of(&secret));
            }
            Err(error) => warn!(%error, "no sticky sessions: there is no key for their cookies"),
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
                    "sticky sessions will not outlive this process: their secret can't be kept"
                );
                EdgeSecret::of_this_process()?
            }
        };
        Ok(present.insert(secret).clone())
    }
}
