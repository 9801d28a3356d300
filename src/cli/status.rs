//! `tidegate status`: how a running edge does.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, SystemTime},
};

use anstyle::{AnsiColor, Style};
use anyhow::{Context, bail};
use http::{Method, StatusCode};
use jiff::Timestamp;

use super::{
    admin_client::{AdminArgs, AdminClient},
    experiment,
    table::{Table, printable},
};
use crate::{
    admin::{HealthStatus, Readiness, Status},
    telemetry::metrics::ReloadResult,
};

const DEADLINE: Duration = Duration::from_secs(5);
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// A certificate with less than this to go is shown in yellow.
const CERTIFICATE_SOON: i64 = 14 * DAY;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const TITLE: Style = Style::new().bold();

const EXAMPLES: &str = "\
Examples:
  tidegate status
  tidegate status --watch
  tidegate status --admin http://10.0.0.5:9180 --token-file /run/secrets/tidegate_admin
  tidegate status --admin unix:/run/tidegate/admin.sock --json | jq .configuration.in_sync";

/// Show how a running edge does: listeners, upstreams and their health, certificates, the configuration in force
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// Where the edge is.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Print the edge's answer as JSON
    #[arg(long)]
    pub json: bool,
    /// Ask again every two seconds, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Prints the status.
///
/// # Errors
/// The edge can't be reached, or refuses; becomes exit code 1. With `--watch` that is shown, and asked again.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let client = AdminClient::new(&args.admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime can be started")?;
    if !args.watch {
        let text = runtime.block_on(text(&client, args.json))?;
        return print(&text);
    }
    loop {
        let text = runtime.block_on(text(&client, args.json));
        let text = text.unwrap_or_else(|error| format!("{BAD}{error:#}{BAD:#}\n"));
        // Home, and clear to the end: the screen does not flicker. Not for a program that reads JSON or a file.
        let is_screen = !args.json && std::io::IsTerminal::is_terminal(&std::io::stdout());
        print(&if is_screen { format!("\x1b[H\x1b[2J{text}") } else { text })?;
        std::thread::sleep(WATCH_EVERY);
    }
}

/// Prints; that the reader has gone (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("standard output can't be written"),
    }
}

/// Asks, and makes what is printed.
async fn text(client: &AdminClient, is_json: bool) -> anyhow::Result<String> {
    let body = ask(client, Method::GET, "/v1/status").await?;
    if is_json {
        return Ok(format!("{}\n", body.trim_end()));
    }
    Ok(render(&parse(client, &body)?, SystemTime::now()))
}

/// What an edge answers to a request that goes well.
///
/// # Errors
/// No edge answers, or it refuses: in its words.
pub(super) async fn ask(
    client: &AdminClient,
    method: Method,
    path: &str,
) -> anyhow::Result<String> {
    let address = client.address();
    let answer = client.request(method, path, DEADLINE).await?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    match answer.status {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(body),
        StatusCode::UNAUTHORIZED => {
            bail!("the edge at {address} asks for the admin token; give it with --token-file")
        }
        status => {
            let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let reason = answer.get("error").and_then(serde_json::Value::as_str);
            let reason = reason.unwrap_or("is an edge listening there?");
            bail!("{address} answers {status}: {}", printable(reason))
        }
    }
}

/// Reads a status.
pub(super) fn parse(client: &AdminClient, body: &str) -> anyhow::Result<Status> {
    let address = client.address();
    serde_json::from_str(body)
        .with_context(|| format!("what {address} answers is no status of an edge"))
}

/// The status for people, with colours.
fn render(status: &Status, now: SystemTime) -> String {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = overview(&mut text, status, now);
    section(&mut text, "Listeners", status.listeners.is_empty(), || listeners(status));
    section(&mut text, "Sites", status.sites.is_empty(), || sites(status));
    section(&mut text, "Upstreams", status.upstreams.is_empty(), || upstreams(status, now));
    let experiments = &status.experiments;
    section(&mut text, "Experiments", experiments.experiments.is_empty(), || {
        experiment::list(&experiments.experiments, now)
    });
    section(&mut text, "Certificates", status.certificates.is_empty(), || {
        certificates(status, now)
    });
    section(&mut text, "Requests", status.routes.is_empty(), || routes(status));
    text
}

fn overview(text: &mut String, status: &Status, now: Timestamp) -> std::fmt::Result {
    let state = match status.state {
        Readiness::Ready => GOOD,
        Readiness::Starting | Readiness::Draining => WARN,
    };
    let uptime = span(i64::try_from(status.uptime_seconds).unwrap_or(i64::MAX));
    writeln!(
        text,
        "{TITLE}tidegate {}{TITLE:#}  {state}{}{state:#}  up {uptime}",
        printable(&status.version),
        status.state.word(),
    )?;
    let configuration = &status.configuration;
    let hash: String = configuration.hash.chars().take(12).collect();
    writeln!(
        text,
        "configuration {} from {}, generation {}, in force since {}",
        printable(&hash),
        printable(&configuration.file),
        status.generation,
        ago(&configuration.loaded_at, now),
    )?;
    if !configuration.in_sync {
        writeln!(
            text,
            "{WARN}The file on disk is not the configuration in force: `tidegate check` tells whether it is right.{WARN:#}"
        )?;
    }
    if let Some(log) = status.log.as_ref().filter(|log| log.changed) {
        let until = log.until.as_deref().map_or("further notice", |time| time);
        writeln!(
            text,
            "{WARN}log level changed to {} until {}; without that it is {}{WARN:#}",
            printable(&log.level),
            printable(until),
            printable(&log.configured),
        )?;
    }
    if let Some(problem) = &status.experiments.problem {
        writeln!(
            text,
            "{WARN}What was switched of experiments is not what the state directory has: {}{WARN:#}",
            printable(problem),
        )?;
    }
    let Some(reload) = &configuration.last_reload else { return Ok(()) };
    let at = ago(&reload.at, now);
    match reload.result {
        ReloadResult::Taken => writeln!(text, "last reload {at}: taken")?,
        ReloadResult::Unchanged => writeln!(text, "last reload {at}: nothing had changed")?,
        ReloadResult::Refused => {
            writeln!(text, "{BAD}last reload {at}: refused{BAD:#}")?;
            for problem in &reload.problems {
                for line in problem.lines() {
                    writeln!(text, "  {}", printable(line))?;
                }
            }
        }
    }
    Ok(())
}

fn section(text: &mut String, title: &str, is_empty: bool, table: impl FnOnce() -> String) {
    if !is_empty {
        let _ = write!(text, "\n{TITLE}{title}{TITLE:#}\n{}", table());
    }
}

fn listeners(status: &Status) -> String {
    let mut table = Table::new(&["NAME", "ADDRESS", "TLS", "CONNECTIONS"]);
    for listener in &status.listeners {
        table.row([
            listener.name.clone(),
            listener.address.clone(),
            if listener.tls { "yes" } else { "no" }.to_owned(),
            listener.connections.to_string(),
        ]);
    }
    table.render(None)
}

fn sites(status: &Status) -> String {
    let mut table = Table::new(&["NAME", "HOSTS", "ROUTES"]);
    for site in &status.sites {
        table.row([site.name.clone(), site.hosts.join(" "), site.routes.join(" ")]);
    }
    table.render(None)
}

fn upstreams(status: &Status, now: Timestamp) -> String {
    let mut table = Table::new(&[
        "NAME",
        "BALANCE",
        "ENDPOINT",
        "WEIGHT",
        "HEALTH",
        "SINCE",
        "IN FLIGHT",
        "REQUESTS",
        "LAST ERROR",
    ]);
    for upstream in &status.upstreams {
        if upstream.endpoints.is_empty() {
            let none = || "-".to_owned();
            table.row([
                upstream.name.clone(),
                upstream.balance.clone(),
                none(),
                none(),
                none(),
                none(),
                none(),
                none(),
                "no endpoints".to_owned(),
            ]);
        }
        for endpoint in &upstream.endpoints {
            // Where the probes say that it is unhealthy, that is the reason it gets nothing.
            let ejected =
                endpoint.ejected.as_ref().filter(|_| endpoint.health != HealthStatus::Unhealthy);
            let (word, since) = match ejected {
                Some(ejected) => ("ejected", Some(&ejected.since)),
                None => (endpoint.health.word(), endpoint.since.as_ref()),
            };
            table.row([
                upstream.name.clone(),
                upstream.balance.clone(),
                endpoint.address.clone(),
                endpoint.weight.to_string(),
                word.to_owned(),
                since.map_or_else(|| "-".to_owned(), |at| ago(at, now)),
                endpoint.in_flight.to_string(),
                endpoint.requests.to_string(),
                endpoint.last_error.clone().unwrap_or_default(),
            ]);
        }
    }
    table.render(Some(("HEALTH", |word| {
        if word == HealthStatus::Healthy.word() {
            GOOD
        } else if word == HealthStatus::Unhealthy.word() {
            BAD
        } else {
            WARN
        }
    })))
}

fn certificates(status: &Status, now: Timestamp) -> String {
    let mut table = Table::new(&["SITE", "STATE", "ENDS", "ISSUER", "NAMES"]);
    for certificate in &status.certificates {
        let left = seconds_since(&certificate.not_after, now).map(|since| -since);
        let (state, ends) = match left {
            Some(left) if certificate.standing_in => ("stand-in", format!("in {}", span(left))),
            None => ("unknown", certificate.not_after.clone()),
            Some(left) if left <= 0 => ("expired", format!("{} ago", span(-left))),
            Some(left) if left < CERTIFICATE_SOON => ("ending", format!("in {}", span(left))),
            Some(left) => ("valid", format!("in {}", span(left))),
        };
        table.row([
            certificate.site.clone(),
            state.to_owned(),
            ends,
            certificate.issuer.clone(),
            certificate.names.join(" "),
        ]);
    }
    table.render(Some(("STATE", |word| match word {
        "valid" => GOOD,
        "expired" => BAD,
        _ => WARN,
    })))
}

fn routes(status: &Status) -> String {
    let mut table = Table::new(&["SITE", "ROUTE", "UPSTREAM", "REQUESTS", "5XX", "IN FLIGHT"]);
    for route in &status.routes {
        table.row([
            route.site.clone(),
            route.route.clone(),
            route.upstream.clone().unwrap_or_else(|| "-".to_owned()),
            route.requests.to_string(),
            route.server_errors.to_string(),
            route.in_flight.to_string(),
        ]);
    }
    table.render(None)
}

fn seconds_since(rfc3339: &str, now: Timestamp) -> Option<i64> {
    let at: Timestamp = rfc3339.parse().ok()?;
    Some(now.as_second().saturating_sub(at.as_second()))
}

/// `in 5m 3s`, `5m 3s ago`, or the text itself where it is no time.
pub(super) fn when(rfc3339: &str, now: Timestamp) -> String {
    match seconds_since(rfc3339, now) {
        None => printable(rfc3339),
        Some(since) if since < 0 => format!("in {}", span(-since)),
        Some(since) => format!("{} ago", span(since)),
    }
}

/// `5m 3s ago`, or the text itself where it is no time.
pub(super) fn ago(rfc3339: &str, now: Timestamp) -> String {
    // Clocks of two machines differ a little.
    seconds_since(rfc3339, now)
        .map_or_else(|| printable(rfc3339), |seconds| format!("{} ago", span(seconds.max(0))))
}

/// The two largest units of a time span.
fn span(seconds: i64) -> String {
    match seconds {
        DAY.. => format!("{}d {}h", seconds / DAY, seconds % DAY / HOUR),
        HOUR.. => format!("{}h {}m", seconds / HOUR, seconds % HOUR / MINUTE),
        MINUTE.. => format!("{}m {}s", seconds / MINUTE, seconds % MINUTE),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests;
