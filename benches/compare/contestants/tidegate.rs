//! Tidegate: the binary as it is released, with a configuration of few lines and no policies.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;

use super::Setup;
use crate::{certificate::HOST, options::Series, process::Process};

/// Built together with this bench.
pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

pub(super) fn start(setup: &Setup<'_>) -> Result<Process> {
    let file = setup.folder.join("tidegate.toml");
    fs::write(&file, configuration(setup))?;
    let file = file.display().to_string();
    let args = ["run", "--config", &file];
    Process::start("tidegate", setup.core, setup.folder, Path::new(PROGRAM), &args)
}

fn configuration(setup: &Setup<'_>) -> String {
    let mut certificate = String::new();
    if let Some(files) = setup.certificate {
        // Writing to a String never fails.
        let _ = writeln!(
            certificate,
            "certificate = {{ chain = {:?}, key = {:?} }}",
            files.chain, files.key
        );
    }
    let endpoints: Vec<String> = setup.endpoints.iter().map(ToString::to_string).collect();
    format!(
        r#"[server]
state_dir = "tidegate-state"
threads = 1
drain = "1s"
lame_duck = "0s"

[admin]
address = "127.0.0.1:0"

[access_log]
enabled = {access_log}
output = "tidegate-access.log"

[listeners.edge]
address = "{listen}"
tls = {tls}
max_requests_per_connection = 4000000000

[sites.bench]
hosts = ["{HOST}"]
listeners = ["edge"]
upstream = "origin"
{certificate}
[upstreams.origin]
endpoints = {endpoints:?}
balance = "{balance}"
{resilience}
"#,
        balance = setup.balance,
        resilience = resilience(setup.series),
        access_log = setup.series == Series::Logged,
        listen = setup.listen,
        tls = setup.certificate.is_some(),
    )
}

/// What a user would set for endpoints that fail, or for one that is overloaded.
fn resilience(series: Series) -> &'static str {
    match series {
        Series::Failures => {
            r#"health_check = { path = "/healthz", interval = "1s", timeout = "500ms", unhealthy_after = 2 }
retries = { tries = 3, on = ["connect-failure", "reset", "timeout"], per_try_timeout = "500ms" }
timeouts = { connect = "500ms" }"#
        }
        Series::Overload => {
            r#"limits = { max_requests = 8, max_waiting = 32, queue_timeout = "100ms" }"#
        }
        _ => "",
    }
}
