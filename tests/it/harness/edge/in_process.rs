//! The edge in the test process, by its library's own entry. The rest of the harness sees only [`InProcess`].

use std::{collections::BTreeMap, path::Path};

use tidegate::server::{self, EdgeHandle, Options};

use super::Reloaded;

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
