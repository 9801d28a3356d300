//! `tidegate rollout`: how rollouts are, and what a person may ask of them.

use std::{fmt::Write as _, io::IsTerminal, time::Duration};

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;

use super::{
    admin_client::{AdminArgs, AdminClient},
    status::{ask, print, when},
    table::{Table, printable},
};
use crate::rollout::{Command, MirrorStatus, Phase, RolloutStatus, SideStatus};

const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Events that are shown.
const SHOWN_EVENTS: usize = 8;

const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const TITLE: Style = Style::new().bold();

const EXAMPLES: &str = "\
Examples:
  tidegate rollout list
  tidegate rollout status shop-api --watch
  tidegate rollout start shop-api
  tidegate rollout promote shop-api
  tidegate rollout abort shop-api
  tidegate rollout switch shop-blue-green";

/// Rollouts: list, status, start, pause, resume, promote, abort, switch
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RolloutArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// All rollouts, one line each
    List {
        #[command(flatten)]
        admin: AdminArgs,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// One rollout: shares, failure rates with their bounds, latencies, what it waits for and what comes next
    Status {
        /// The rollout; may be left out where there is one only
        name: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
        /// Ask again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Begin an attempt of which the edge does not know what was before
    Start(Named),
    /// Take no step until it is resumed; the candidate is judged on
    Pause(Named),
    /// Go on
    Resume(Named),
    /// Give the candidate all requests now
    Promote(Named),
    /// Take the candidate back now; it stays at 0 until the file has a new revision
    Abort(Named),
    /// Blue-green: make the other side live, or go back to the one that was
    Switch(Named),
}

#[derive(Args, Clone, Debug)]
struct Named {
    /// The rollout
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
///
/// # Errors
/// The edge can't be reached or refuses; becomes exit code 1.
pub fn run(args: RolloutArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime can be started")?;
    match args.action {
        Action::List { admin, json } => {
            let client = AdminClient::new(&admin)?;
            let rollouts = runtime.block_on(all(&client))?;
            if json {
                return print(&format!("{}\n", serde_json::to_string_pretty(&rollouts)?));
            }
            print(&list(&rollouts))
        }
        Action::Status { name, admin, json, watch } => {
            let client = AdminClient::new(&admin)?;
            let text = || runtime.block_on(status_text(&client, name.as_deref(), json));
            if !watch {
                return print(&text()?);
            }
            loop {
                let text = text().unwrap_or_else(|error| format!("{BAD}{error:#}{BAD:#}\n"));
                let is_screen = !json && std::io::stdout().is_terminal();
                print(&if is_screen { format!("\x1b[H\x1b[2J{text}") } else { text })?;
                std::thread::sleep(WATCH_EVERY);
            }
        }
        Action::Start(named) => runtime.block_on(command(&named, Command::Start)),
        Action::Pause(named) => runtime.block_on(command(&named, Command::Pause)),
        Action::Resume(named) => runtime.block_on(command(&named, Command::Resume)),
        Action::Promote(named) => runtime.block_on(command(&named, Command::Promote)),
        Action::Abort(named) => runtime.block_on(command(&named, Command::Abort)),
        Action::Switch(named) => runtime.block_on(command(&named, Command::Switch)),
    }
}

async fn all(client: &AdminClient) -> anyhow::Result<Vec<RolloutStatus>> {
    let body = ask(client, Method::GET, "/v1/rollouts").await?;
    serde_json::from_str(&body)
        .with_context(|| format!("what {} answers is no list of rollouts", client.address()))
}

async fn command(named: &Named, command: Command) -> anyhow::Result<()> {
    let client = AdminClient::new(&named.admin)?;
    let name: String = form_urlencoded::byte_serialize(named.name.as_bytes()).collect();
    let path = format!("/v1/rollouts/{name}/{}", command.word());
    let body = ask(&client, Method::POST, &path).await?;
    let status: RolloutStatus =
        serde_json::from_str(&body).context("what the edge answers is no rollout")?;
    print(&render(&status, Timestamp::now()))
}

async fn status_text(
    client: &AdminClient,
    name: Option<&str>,
    is_json: bool,
) -> anyhow::Result<String> {
    let rollouts = all(client).await?;
    let found = match (name, rollouts.as_slice()) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(name), all) => all.iter().find(|rollout| *rollout.name == *name),
    };
    let rollout = found.with_context(|| {
        let names: Vec<&str> = rollouts.iter().map(|rollout| &*rollout.name).collect();
        match (name, names.as_slice()) {
            (_, []) => "the configuration has no rollouts".to_owned(),
            (None, names) => format!("which one? There are {}", names.join(", ")),
            (Some(name), names) => {
                format!("there is no rollout \"{name}\"; there are {}", names.join(", "))
            }
        }
    })?;
    if is_json {
        return Ok(format!("{}\n", serde_json::to_string_pretty(rollout)?));
    }
    Ok(render(rollout, Timestamp::now()))
}

fn percent(millionths: u32) -> String {
    let percent = f64::from(millionths) / 1e4;
    format!("{percent} %")
}

fn list(rollouts: &[RolloutStatus]) -> String {
    if rollouts.is_empty() {
        return "the configuration has no rollouts\n".to_owned();
    }
    let mut table = Table::new(&[
        "ROLLOUT",
        "STRATEGY",
        "STATE",
        "REVISION",
        "CANDIDATE",
        "SHARE",
        "WAITS FOR",
    ]);
    for rollout in rollouts {
        let candidate = rollout.candidate.as_ref();
        table.row([
            rollout.name.to_string(),
            rollout.strategy.clone(),
            state(rollout),
            rollout.revision.as_deref().unwrap_or_default().to_owned(),
            candidate.map(|side| side.upstream.to_string()).unwrap_or_default(),
            candidate.map(|side| percent(side.share)).unwrap_or_default(),
            rollout.waits_for.clone().or_else(|| rollout.reason.clone()).unwrap_or_default(),
        ]);
    }
    table.render(Some(("STATE", style_of)))
}

fn state(rollout: &RolloutStatus) -> String {
    let step = rollout.step.map(|(step, steps)| format!("{step}/{steps}"));
    let words = [Some(rollout.state.replace(' ', "-")), step].into_iter().flatten();
    words.collect::<Vec<_>>().join("-")
}

fn style_of(word: &str) -> Style {
    if word.starts_with("rolled-back") || word.starts_with("aborted") {
        BAD
    } else if word.starts_with("not-started") || word.starts_with("ready") {
        WARN
    } else {
        GOOD
    }
}

/// A rollout for people, with colours.
fn render(rollout: &RolloutStatus, now: Timestamp) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = overview(&mut text, rollout);
    text.push('\n');
    text.push_str(&sides(rollout));
    if !rollout.checks.is_empty() {
        let _ = write!(text, "\n{TITLE}Checks{TITLE:#}\n");
        let mut table = Table::new(&["CHECK", ""]);
        for check in &rollout.checks {
            table.row([check.name.to_string(), check.text.clone()]);
        }
        text.push_str(&table.render(None));
    }
    if let Some(mirror) = &rollout.mirror {
        text.push_str(&copies(mirror));
    }
    if !rollout.events.is_empty() {
        let _ = write!(text, "\n{TITLE}Events{TITLE:#}\n");
        let skipped = rollout.events.len().saturating_sub(SHOWN_EVENTS);
        let mut table = Table::new(&["WHEN", "EVENT", ""]);
        for event in rollout.events.iter().skip(skipped) {
            let at = Timestamp::from_second(event.at).map(|at| at.to_string());
            let at = when(&at.unwrap_or_default(), now);
            table.row([at, event.event.clone(), event.text.clone()]);
        }
        text.push_str(&table.render(None));
    }
    text
}

fn overview(text: &mut String, rollout: &RolloutStatus) -> std::fmt::Result {
    let style = style_of(&state(rollout));
    write!(
        text,
        "{TITLE}{}{TITLE:#} ({})  {style}{}{style:#}",
        rollout.name, rollout.strategy, rollout.state
    )?;
    if let Some((step, steps)) = rollout.step {
        write!(text, ", step {step} of {steps}")?;
    }
    if let Some(revision) = &rollout.revision {
        write!(text, ", revision {revision}")?;
    }
    if rollout.is_paused {
        write!(text, ", {WARN}paused{WARN:#}")?;
    }
    writeln!(text)?;
    if let Some(reason) = &rollout.reason {
        writeln!(text, "because    {}", printable(reason))?;
    }
    if let Some(waits_for) = &rollout.waits_for {
        writeln!(text, "waits for  {}", printable(waits_for))?;
    }
    if let Some(next) = &rollout.next {
        writeln!(text, "next       {}", printable(next))?;
    }
    if rollout.left_out > 0 {
        writeln!(
            text,
            "left out   {} tries of client networks that failed too often in a minute (analysis.max_client_failures)",
            rollout.left_out
        )?;
    }
    if rollout.file_differs {
        writeln!(
            text,
            "{WARN}file       says something else: what is live holds only as long as the state directory does{WARN:#}"
        )?;
    }
    if let (Some(doubt), Phase::Mirror | Phase::Step | Phase::Ready | Phase::Watch) =
        (rollout.doubt, rollout.phase)
    {
        if doubt < 1.0 {
            writeln!(
                text,
                "verdict    open; a healthy candidate would look like this with a probability of at most {:.2} %",
                100.0 * doubt
            )?;
        } else {
            writeln!(text, "verdict    nothing speaks against the candidate")?;
        }
    }
    Ok(())
}

/// What became of the copies of a mirror.
fn copies(mirror: &MirrorStatus) -> String {
    let counts = |counts: &[(String, u64)]| {
        let counts = counts.iter().filter(|(_, count)| *count > 0);
        let texts: Vec<String> = counts.map(|(word, count)| format!("{count} {word}")).collect();
        if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
    };
    let mut text = format!(
        "copies     {} sent, {} in flight; differing: {}; not made: {}\n           their latency is not compared\n",
        mirror.sent,
        mirror.in_flight,
        counts(&mirror.differing),
        counts(&mirror.skipped)
    );
    for difference in &mirror.differences {
        text.push_str("           ");
        text.push_str(&printable(difference));
        text.push('\n');
    }
    text
}

fn sides(rollout: &RolloutStatus) -> String {
    let mut table = Table::new(&[
        "SIDE",
        "UPSTREAM",
        "SHARE",
        "ENDPOINTS",
        "REQUESTS",
        "FAILED",
        "RATE",
        "RATE IS WITHIN",
        "P50",
        "P95",
    ]);
    let mut row = |side: &str, known: &SideStatus| {
        let rate = 100.0 * known.failures as f64 / known.requests.max(1) as f64;
        let has_any = known.requests > 0;
        let time = |seconds: Option<f64>| {
            seconds.map(|seconds| format!("{:.1} ms", seconds * 1e3)).unwrap_or_default()
        };
        table.row([
            side.to_owned(),
            known.upstream.to_string(),
            percent(known.share),
            format!("{}/{}", known.endpoints_in_service, known.endpoints),
            known.requests.to_string(),
            known.failures.to_string(),
            if has_any { format!("{rate:.2} %") } else { String::new() },
            if has_any {
                let (low, high) = known.failure_rate;
                format!("{:.2} to {:.2} %", 100.0 * low, 100.0 * high)
            } else {
                String::new()
            },
            time(known.p50),
            time(known.p95),
        ]);
    };
    row("stable", &rollout.stable);
    if let Some(candidate) = &rollout.candidate {
        row("candidate", candidate);
    }
    table.render(None)
}
