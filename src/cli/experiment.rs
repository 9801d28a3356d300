//! `tidegate experiment`: feature flags and A/B tests of a running edge, shown and switched.

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    admin_client::{AdminArgs, AdminClient},
    note,
    status::{ago, ask, print},
    table::{Table, printable},
};
use crate::admin::{ExperimentStatus, ExperimentsStatus};

const EXAMPLES: &str = "\
Examples:
  tidegate experiment list
  tidegate experiment off new-checkout
  tidegate experiment reset new-checkout

What is switched holds for the next request, without a reload, and is kept over restarts; it goes before `enabled` in
the configuration until it is reset.";

/// Feature flags and A/B tests: list, on, off, reset
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ExperimentArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// All experiments: whether they are on, their variants, and how many requests saw each
    List {
        #[command(flatten)]
        admin: AdminArgs,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Switch an experiment on
    On(One),
    /// Switch an experiment off: all clients are in no variant
    Off(One),
    /// Take back what was switched: the configuration says whether it is on
    Reset(One),
}

#[derive(Args, Clone, Debug)]
struct One {
    /// The experiment: the name of its policy
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What the edge answers to a switch.
#[derive(Deserialize)]
struct Answer {
    experiment: ExperimentStatus,
    kept: bool,
    #[serde(default)]
    problem: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The edge can't be reached or refuses; becomes exit code 1.
pub fn run(args: ExperimentArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime can be started")?;
    runtime.block_on(async move {
        match args.action {
            Action::List { admin, json } => {
                let client = AdminClient::new(&admin)?;
                let body = ask(&client, Method::GET, "/v1/experiments").await?;
                let status: ExperimentsStatus = read(&client, &body)?;
                if json {
                    return print(&format!("{}\n", serde_json::to_string_pretty(&status)?));
                }
                if let Some(problem) = &status.problem {
                    note(&unkept(problem));
                }
                print(&list(&status.experiments, Timestamp::now()))
            }
            Action::On(one) => switch(&one, "on").await,
            Action::Off(one) => switch(&one, "off").await,
            Action::Reset(one) => switch(&one, "reset").await,
        }
    })
}

async fn switch(one: &One, word: &str) -> anyhow::Result<()> {
    let client = AdminClient::new(&one.admin)?;
    let name: String = form_urlencoded::byte_serialize(one.name.as_bytes()).collect();
    let body = ask(&client, Method::POST, &format!("/v1/experiments/{name}/{word}")).await?;
    let answer: Answer = read(&client, &body)?;
    if !answer.kept {
        note(&unkept(answer.problem.as_deref().unwrap_or("the log says why")));
    }
    print(&switched(&answer.experiment))
}

fn read<T: for<'de> Deserialize<'de>>(client: &AdminClient, body: &str) -> anyhow::Result<T> {
    let address = client.address();
    serde_json::from_str(body)
        .with_context(|| format!("what {address} answers is nothing about experiments"))
}

fn unkept(problem: &str) -> String {
    format!("what was switched is not what the state directory has: {problem}")
}

fn switched(experiment: &ExperimentStatus) -> String {
    let name = printable(&experiment.name);
    let state = word(experiment.on);
    if experiment.file_differs {
        let file = word(experiment.enabled_in_file);
        format!(
            "{name} is {state}; the configuration says {file}, until `tidegate experiment reset {name}`\n"
        )
    } else {
        format!("{name} is {state}, as the configuration says\n")
    }
}

fn word(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// All of them as a table; also for `tidegate status`.
pub(super) fn list(experiments: &[ExperimentStatus], now: Timestamp) -> String {
    if experiments.is_empty() {
        return "there are no experiments\n".to_owned();
    }
    let mut table = Table::new(&["NAME", "STATE", "BY", "HEADER", "VARIANT", "SHARE", "EXPOSURES"]);
    for experiment in experiments {
        let by = match &experiment.switched_at {
            Some(at) if experiment.file_differs => {
                format!("API {}, file says {}", ago(at, now), word(experiment.enabled_in_file))
            }
            Some(at) => format!("API {}, file agrees", ago(at, now)),
            None => "file".to_owned(),
        };
        for variant in &experiment.variants {
            table.row([
                experiment.name.clone(),
                word(experiment.on).to_owned(),
                by.clone(),
                experiment.header.clone(),
                variant.name.clone(),
                variant.share.clone(),
                variant.exposures.to_string(),
            ]);
        }
    }
    table.render(Some(("STATE", |word| {
        if word == "on" { AnsiColor::Green.on_default() } else { Style::new() }
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::VariantStatus;

    fn experiment(on: bool, switched_at: Option<&str>) -> ExperimentStatus {
        ExperimentStatus {
            name: "new".to_owned(),
            on,
            enabled_in_file: true,
            file_differs: !on,
            switched_at: switched_at.map(str::to_owned),
            header: "x-new".to_owned(),
            cookie: None,
            variants: vec![VariantStatus {
                name: "a".to_owned(),
                share: "5%".to_owned(),
                exposures: 7,
            }],
        }
    }

    #[test]
    fn who_says_so_is_told() {
        let now: Timestamp = "2026-11-01T10:05:00Z".parse().unwrap();
        let at = Some("2026-11-01T10:00:00Z");
        let told = |on, at| {
            let text = list(&[experiment(on, at)], now);
            anstream::adapter::strip_str(&text).to_string()
        };
        assert_eq!(
            told(true, None),
            "NAME  STATE  BY    HEADER  VARIANT  SHARE  EXPOSURES\n\
             new   on     file  x-new   a        5%     7\n"
        );
        assert!(
            told(false, at).contains("new   off    API 5m 0s ago, file says on "),
            "{}",
            told(false, at)
        );
        assert!(told(true, at).contains("API 5m 0s ago, file agrees"), "{}", told(true, at));
        assert_eq!(list(&[], now), "there are no experiments\n");
        assert_eq!(switched(&experiment(true, at)), "new is on, as the configuration says\n");
        assert_eq!(
            switched(&experiment(false, at)),
            "new is off; the configuration says on, until `tidegate experiment reset new`\n"
        );
    }
}
