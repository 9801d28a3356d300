//! Which state directory a command is about: `--state-dir`, or what the configuration says.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use super::run::DEFAULT_CONFIG;
use crate::{config, types::defaults};

/// Where the state is. Shared by the commands that read or write it without an edge.
#[derive(Args, Clone, Debug)]
pub struct StateArgs {
    /// The configuration file, whose `server.state_dir` is meant
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG", help_heading = "State")]
    pub config: Option<PathBuf>,
    /// The state directory, whatever the configuration says
    #[arg(long, value_name = "DIR", help_heading = "State")]
    pub state_dir: Option<PathBuf>,
}

impl StateArgs {
    /// The state directory.
    ///
    /// A broken configuration names it as well as it can, as at a start; that is told. Where nothing is named and the
    /// default file is missing, as on a new machine, it is the default directory.
    ///
    /// # Errors
    /// The named file is missing.
    pub fn find(&self) -> anyhow::Result<PathBuf> {
        if let Some(state_dir) = &self.state_dir {
            return Ok(state_dir.clone());
        }
        let file = self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
        if let Ok(loaded) = config::load(file) {
            return Ok(loaded.config.server.state_dir.clone());
        }
        match file.try_exists() {
            Ok(true) => {
                let state_dir = config::state_dir_of(file);
                super::note(&format!(
                    "{} is refused (see `tidegate check`); taking {} for the state directory",
                    file.display(),
                    state_dir.display()
                ));
                Ok(state_dir)
            }
            Ok(false) if self.config.is_none() => Ok(defaults::STATE_DIR.into()),
            _ => bail!(
                "{} can't be read; name the state directory with --state-dir, or another file with --config",
                file.display()
            ),
        }
    }
}
