//! The chart: a panel for each series (row) and figure (column), a bar for each proxy.

use anyhow::{Result, anyhow};
use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea as _},
    element::{Rectangle, Text},
    style::{
        Color as _, FontDesc, FontStyle, IntoFont as _, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{Report, text::thousands};
use crate::{
    contestants::Contestant,
    options::Series,
    series::{ContestantResult, SeriesResult, Spread},
};

/// Pixels.
const PANEL: (i32, i32) = (280, 170);
const MARGIN: i32 = 14;
const NAMES: i32 = 66;
const VALUES: i32 = 62;
const TOP: i32 = 46;
const BAR: i32 = 18;
const STEP: i32 = 27;

const INK: RGBColor = RGBColor(40, 44, 52);
const FAINT: RGBColor = RGBColor(110, 116, 128);
const OURS: RGBColor = RGBColor(0, 110, 144);
const THEIRS: RGBColor = RGBColor(172, 181, 194);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A column of panels.
struct Figure {
    title: &'static str,
    better: &'static str,
    digits: usize,
    of: fn(&ContestantResult) -> Option<Spread>,
}

const FIGURES: [Figure; 4] = [
    Figure {
        title: "a second",
        better: "more is better",
        digits: 0,
        of: |one| Some(one.full.as_ref()?.per_second),
    },
    Figure {
        title: "CPU seconds per 10,000",
        better: "less is better",
        digits: 2,
        of: |one| Some(one.full.as_ref()?.cpu_seconds_per_10k),
    },
    Figure {
        title: "p95, ms, at one rate for all",
        better: "less is better",
        digits: 2,
        of: |one| Some(one.fixed.as_ref()?.p95_ms),
    },
    Figure {
        title: "memory, MiB",
        better: "less is better",
        digits: 0,
        of: |one| {
            let full = one.full.as_ref().map(|full| full.memory_mib);
            full.or_else(|| one.fixed.as_ref().map(|fixed| fixed.memory_mib))
        },
    },
];

/// The chart as SVG.
pub(super) fn draw(report: &Report<'_>) -> Result<String> {
    let rows = report.series.len().max(1);
    let size = (PANEL.0.unsigned_abs(), PANEL.1.unsigned_abs());
    let (width, height) = (size.0 * FIGURES.len() as u32, size.1 * rows as u32);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height + 30)).into_drawing_area();
        root.fill(&RGBColor(255, 255, 255)).map_err(failed)?;
        let (panels, foot) = root.split_vertically(height);
        for (at, panel) in panels.split_evenly((rows, FIGURES.len())).iter().enumerate() {
            if let Some(series) = report.series.get(at / FIGURES.len()) {
                draw_panel(panel, &FIGURES[at % FIGURES.len()], series)?;
            }
        }
        let machine = &report.machine;
        let said = format!(
            "{}, {}, one core for the proxy; median of {} rounds, lines from the least to the most",
            report.date, machine.processor, report.rounds
        );
        foot.draw(&Text::new(said, (MARGIN, 8), style(11, FAINT))).map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn draw_panel(panel: &Area<'_>, figure: &Figure, series: &SeriesResult) -> Result<()> {
    let bars: Vec<(Contestant, Spread)> = series
        .contestants
        .iter()
        .filter(|one| one.contestant != Contestant::Direct)
        .filter_map(|one| Some((one.contestant, (figure.of)(one)?)))
        .collect();
    let most = bars.iter().map(|(_, value)| value.most).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(());
    }
    let title = format!("{}: {}", series.series, title(figure, series.series));
    panel.draw(&Text::new(title, (MARGIN, 12), bold(13, INK))).map_err(failed)?;
    panel.draw(&Text::new(figure.better, (MARGIN, 29), style(10, FAINT))).map_err(failed)?;

    let room = f64::from(PANEL.0 - MARGIN - NAMES - VALUES);
    let left = MARGIN + NAMES;
    let x = |value: f64| left + (value / most * room).round() as i32;
    for (top, (contestant, value)) in (TOP..).step_by(STEP as usize).zip(&bars) {
        let middle = top + BAR / 2;
        let is_ours = *contestant == Contestant::Tidegate;
        let color = if is_ours { OURS } else { THEIRS };
        let name_style = if is_ours { bold(12, INK) } else { style(12, INK) };
        let name_style = name_style.pos(Pos::new(HPos::Right, VPos::Center));
        panel
            .draw(&Text::new(name(*contestant), (left - 6, middle), name_style))
            .map_err(failed)?;
        let bar = [(left, top), (x(value.median), top + BAR)];
        panel.draw(&Rectangle::new(bar, color.filled())).map_err(failed)?;
        let spread = [(x(value.least), middle - 1), (x(value.most), middle + 1)];
        panel.draw(&Rectangle::new(spread, INK.filled())).map_err(failed)?;
        let said = thousands(value.median, figure.digits);
        let value_style = style(12, INK).pos(Pos::new(HPos::Left, VPos::Center));
        panel.draw(&Text::new(said, (x(value.most) + 6, middle), value_style)).map_err(failed)?;
    }
    Ok(())
}

fn title(figure: &Figure, series: Series) -> String {
    match figure.title {
        "a second" => format!("{} a second", series.unit()),
        "CPU seconds per 10,000" => format!("CPU s per 10,000 {}", series.unit()),
        other => other.to_owned(),
    }
}

fn name(contestant: Contestant) -> &'static str {
    match contestant {
        Contestant::Direct => "direct",
        Contestant::Nginx => "nginx",
        Contestant::Haproxy => "HAProxy",
        Contestant::Bare => "Pingora",
        Contestant::Tidegate => "Tidegate",
        Contestant::Ewma => "peak-ewma",
    }
}

fn style(size: i32, color: RGBColor) -> TextStyle<'static> {
    text(("sans-serif", size).into_font(), color)
}

fn bold(size: i32, color: RGBColor) -> TextStyle<'static> {
    text(("sans-serif", size).into_font().style(FontStyle::Bold), color)
}

fn text(font: FontDesc<'static>, color: RGBColor) -> TextStyle<'static> {
    TextStyle { font, color: color.to_backend_color(), pos: Pos::default() }
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("can't draw the chart: {error}")
}
