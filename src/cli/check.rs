//! `tidegate check`: everything that a start does, but open sockets and change state.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, ValueEnum};

use crate::{
    config::{self, Config, Report},
    snapshot::{self, Leniency},
    tls::ClientAuthMode,
    types::Problems,
};

const EXAMPLES: &str = "\
Examples:
  tidegate check                                   the default file
  tidegate check conf/tidegate.toml
  tidegate check --format json conf/tidegate.toml | jq '.problems[].message'

Exit codes: 0 taken (warnings too), 1 refused.";

/// Check a configuration: read it, resolve it, load its certificates and files, and say all that is wrong
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "FILE", default_value = super::run::DEFAULT_CONFIG, env = "TIDEGATE_CONFIG")]
    pub file: PathBuf,
    /// Text for people, JSON for tools
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Checks the file and prints what was found.
pub fn run(args: &CheckArgs) -> ExitCode {
    let (report, config) = check(&args.file);
    match args.format {
        Format::Json => print_json(&report, config.as_deref()),
        Format::Text => print_text(&args.file, &report, config.as_deref()),
    }
    if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn check(file: &Path) -> (Report, Option<Arc<Config>>) {
    match config::load(file) {
        Err(report) => (report, None),
        Ok(loaded) => {
            let mut problems = Problems::new();
            let config = loaded.config.clone();
            // A blueprint changes nothing; it is built for its problems.
            drop(snapshot::compile(&config, Leniency::Strict, &mut problems));
            let mut report = loaded.report.clone();
            report.merge(loaded.report_of(problems));
            (report, Some(config))
        }
    }
}

/// Open routes that are named in the text; a large edge has thousands.
const SHOWN_ROUTES: usize = 20;

/// Routes that nobody has to identify for: site, route.
fn open_routes(config: &Config) -> Vec<String> {
    // This version has no identity policy: only a required certificate tells who a client is.
    config
        .sites
        .iter()
        .filter(|site| {
            let auth = site.tls.client_auth.as_ref();
            auth.is_none_or(|auth| auth.mode != ClientAuthMode::Require)
        })
        .flat_map(|site| {
            site.routes.iter().map(move |route| format!("{}.{}", site.name, route.name))
        })
        .collect()
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn print_json(report: &Report, config: Option<&Config>) {
    let result = serde_json::json!({
        "taken": !report.has_errors(),
        "errors": report.errors(),
        "warnings": report.warnings(),
        "problems": report.to_json(),
        "routes_without_identity": config.map(open_routes).unwrap_or_default(),
    });
    println!("{result:#}");
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn print_text(file: &Path, report: &Report, config: Option<&Config>) {
    let color = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = report.render(color);
    if !text.is_empty() {
        println!("{text}");
    }
    let count = |number: usize, word: &str| {
        format!("{number} {word}{}", if number == 1 { "" } else { "s" })
    };
    let (errors, warnings) = (count(report.errors(), "error"), count(report.warnings(), "warning"));
    let Some(config) = config.filter(|_| !report.has_errors()) else {
        println!("{}: refused: {errors}, {warnings}", file.display());
        return;
    };
    let routes = open_routes(config);
    println!(
        "{}: taken: {}, {}, {}, {}; {warnings}",
        file.display(),
        count(config.listeners.len(), "listener"),
        count(config.sites.len(), "site"),
        count(config.sites.iter().map(|site| site.routes.len()).sum(), "route"),
        count(config.upstreams.len(), "upstream"),
    );
    if !routes.is_empty() {
        let shown = routes.get(..SHOWN_ROUTES).unwrap_or(&routes).join(", ");
        let more = match routes.len().saturating_sub(SHOWN_ROUTES) {
            0 => String::new(),
            more => format!(" and {more} more (all with --format json)"),
        };
        println!("routes without an identity policy: {shown}{more}");
    }
}
