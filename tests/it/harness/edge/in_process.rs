//! The edge in the test process, by its library's own entry. The rest of the harness sees only [`InProcess`].

use std::{collections::BTreeMap, path::Path};

use super::Reloaded;
use server::{EdgeHandle, Options};

/// A running edge in the test process. Dropped, it is stopped.
pub(super) struct InProcess {
    handle: Option<EdgeHandle>,
}

impl InProcess {
    pub(super) fn start(file: &Path) -> Result<Self, String> {
        let handle = server::Edge::start(Options::new(file)).map_err(|error| chain(&error))?;
        Ok(Self { handle: Some(handle) })
    }

    pub(super) fn listeners(&self) -> BTreeMap<String, String> {
        self.handle().listeners().into_iter().collect()
    }

    pub(super) fn admin_address(&self) -> Option<String> {
        self.handle().admin_address()
    }

    pub(super) fn reload(&self) -> Reloaded {
        self.handle().reload()
    }

    pub(super) fn shut_down(&mut self, drain: bool) {
        if let Some(handle) = self.handle.take() {
            handle.shutdown(drain);
        }
    }

    fn handle(&self) -> &EdgeHandle {
        self.handle.as_ref().expect("an edge that was not shut down")
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// The shape of `tidegate::server`, until it exists; then `use tidegate::server` takes its place.
mod server {
    use std::path::{Path, PathBuf};

    #[derive(Debug, thiserror::Error)]
    #[error("this build has no server to run {0}")]
    pub(super) struct StartError(PathBuf);

    pub(super) struct Options {
        config: PathBuf,
    }

    impl Options {
        pub(super) fn new(config: impl AsRef<Path>) -> Self {
            Self { config: config.as_ref().to_owned() }
        }
    }

    pub(super) struct Edge;

    impl Edge {
        pub(super) fn start(options: Options) -> Result<EdgeHandle, StartError> {
            Err(StartError(options.config))
        }
    }

    pub(super) enum EdgeHandle {}

    impl EdgeHandle {
        pub(super) fn listeners(&self) -> Vec<(String, String)> {
            match *self {}
        }

        pub(super) fn admin_address(&self) -> Option<String> {
            match *self {}
        }

        pub(super) fn reload(&self) -> Result<u64, String> {
            match *self {}
        }

        pub(super) fn shutdown(self, _drain: bool) {
            match self {}
        }
    }
}
