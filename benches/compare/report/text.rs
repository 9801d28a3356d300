//! The report as text: tables that fit a terminal and a Markdown page.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use super::Report;
use crate::{
    contestants::Contestant,
    scenario::Phase,
    series::{ContestantResult, SeriesResult, Spread},
};

/// Part of the time that something else may have the proxy's core in a run that counts.
const MOST_DISTURBED: f64 = 0.05;

/// What was measured, and on what.
pub(crate) fn heading(report: &Report<'_>) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "Tidegate compared, {}\n{}, {} cores{}, {:.0} GiB, {}, Linux {}; load average at the start {:.2}\n\
         The proxy on core {}, the client on {}, the origin on {}. {} rounds of {} s, {} requests at once, \
         answers of {} bytes.\n",
        report.date,
        machine.processor,
        machine.cores,
        if machine.is_virtual { " of a virtual machine" } else { "" },
        machine.memory_gib,
        machine.system,
        machine.kernel,
        machine.load_average,
        report.cores.proxy,
        report.cores.load,
        report.cores.origin,
        report.rounds,
        report.window_seconds,
        report.options.concurrency,
        report.options.body_bytes,
    );
    for (contestant, version) in &report.versions {
        // Writing to a String never fails.
        let _ = writeln!(text, "{contestant}: {version}");
    }
    text
}

/// One series as a table for each way of measuring.
pub(crate) fn series(result: &SeriesResult) -> String {
    let mut text = format!("## {}\n\n", result.series.title());
    let each = |with: &dyn Fn(&ContestantResult) -> Option<Vec<String>>| -> Vec<Vec<String>> {
        result
            .contestants
            .iter()
            .filter_map(|one| {
                let mut row = vec![one.contestant.to_string()];
                row.extend(with(one)?);
                Some(row)
            })
            .collect()
    };
    let unit = result.unit;
    let per_second = format!("{unit}/s");
    let cpu = format!("CPU s per 10,000 {unit}");
    table(
        &mut text,
        "As many as it can:",
        &["", &per_second, &cpu, "proxy's cores", "client's core busy", "disturbed", "memory, MiB"],
        &each(&|one| {
            let full = one.full.as_ref()?;
            Some(vec![
                spread(full.per_second, 0),
                of_proxy(one, spread(full.cpu_seconds_per_10k, 3)),
                of_proxy(one, format!("{:.2}", full.proxy_cores.median)),
                percent(full.load_core_busy.median),
                percent(full.disturbed.median),
                of_proxy(one, format!("{:.1}", full.memory_mib.median)),
            ])
        }),
    );
    let rate = result.contestants.iter().find_map(|one| one.fixed.as_ref()).map(|fixed| fixed.rate);
    table(
        &mut text,
        &format!(
            "At {} {unit} a second for all (open loop):",
            thousands(rate.unwrap_or_default(), 0)
        ),
        &["", "p50, ms", "p95, ms", "p99, ms", &cpu, "disturbed", "memory, MiB"],
        &each(&|one| {
            let fixed = one.fixed.as_ref()?;
            Some(vec![
                spread(fixed.p50_ms, 3),
                spread(fixed.p95_ms, 3),
                spread(fixed.p99_ms, 3),
                of_proxy(one, spread(fixed.cpu_seconds_per_10k, 3)),
                percent(fixed.disturbed.median),
                of_proxy(one, format!("{:.1}", fixed.memory_mib.median)),
            ])
        }),
    );
    table(
        &mut text,
        "At 30 % of what each can do (open loop):",
        &["", &per_second, "p95, ms", "direct p95, ms", "added p95, ms", "disturbed"],
        &each(&|one| {
            let quiet = one.quiet.as_ref()?;
            Some(vec![
                thousands(quiet.rate, 0),
                spread(quiet.p95_ms, 3),
                spread(quiet.direct_p95_ms, 3),
                spread(quiet.added_p95_ms, 3),
                percent(quiet.disturbed.median),
            ])
        }),
    );
    let phases: Vec<_> = result.phases.iter().map(phase).collect();
    table(
        &mut text,
        "What came of it:",
        &[
            "",
            "",
            "offered/s",
            "answered/s",
            "failed in the first 2 s",
            "failed later",
            "p95, ms",
            "tries a request",
            "memory, MiB",
        ],
        &phases,
    );
    for one in result.contestants.iter().filter(|one| one.failed > 0 || !one.failures.is_empty()) {
        let _ = writeln!(
            text,
            "{} {unit} of {} failed: {}\n",
            one.failed,
            one.contestant,
            one.failures.join("; ")
        );
    }
    text
}

fn phase(phase: &Phase) -> Vec<String> {
    vec![
        phase.title.clone(),
        phase.contestant.to_string(),
        thousands(phase.offered_per_second, 0),
        thousands(phase.answered_per_second, 0),
        phase.failed_early.to_string(),
        phase.failed_later.to_string(),
        thousands(phase.p95_ms, 1),
        format!("{:.2}", phase.amplification),
        format!("{:.1}", phase.memory_mib),
    ]
}

/// A figure of a proxy; the direct way has none.
fn of_proxy(one: &ContestantResult, figure: String) -> String {
    if one.contestant == Contestant::Direct { "–".to_owned() } else { figure }
}

/// The goals.
pub(crate) fn verdicts(report: &Report<'_>) -> String {
    let rows: Vec<Vec<String>> = report
        .verdicts
        .iter()
        .map(|verdict| {
            vec![
                verdict.what.clone(),
                format!("{:.2}", verdict.measured),
                format!("{:.2}", verdict.at_most),
                if verdict.is_met { "met" } else { "missed" }.to_owned(),
            ]
        })
        .collect();
    let mut text = String::new();
    table(&mut text, "## Goals", &["", "measured", "at most", ""], &rows);
    let results = report.series.iter().flat_map(|series| &series.contestants);
    let disturbed = results
        .filter(|one| one.contestant != Contestant::Direct)
        .map(ContestantResult::disturbed)
        .fold(0.0, f64::max);
    if disturbed > MOST_DISTURBED {
        // Writing to a String never fails.
        let _ = writeln!(
            text,
            "Something else had the proxy's core for up to {} of the time: the latencies and the requests a second\n\
             are not to be trusted, the CPU seconds are too high. Run it again on a machine that does nothing else.\n",
            percent(disturbed)
        );
    }
    text
}

pub(crate) fn whole(report: &Report<'_>) -> String {
    let mut text = heading(report);
    for result in &report.series {
        text.push('\n');
        text.push_str(&series(result));
    }
    text.push_str(&verdicts(report));
    text
}

/// Adds a table, where there are rows.
fn table(text: &mut String, title: &str, head: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // Writing to a String never fails.
    let _ = writeln!(text, "{title}\n\n{table}\n");
}

/// The median with the least and the most of the rounds.
fn spread(spread: Spread, digits: usize) -> String {
    format!(
        "{} ({}–{})",
        thousands(spread.median, digits),
        thousands(spread.least, digits),
        thousands(spread.most, digits)
    )
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// A number with commas between thousands.
pub(super) fn thousands(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, part) = text.split_once('.').map_or((text, None), |(a, b)| (a, Some(b)));
    let mut grouped = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(part) = part {
        grouped.push('.');
        grouped.push_str(part);
    }
    grouped
}
