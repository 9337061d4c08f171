//! Charts of ratios: a bar from 1.0 to the median, a line from the smallest to the largest, and a
//! mark at the aim. The scale is logarithmic, so that twice and half are equally far from 1.0.

use std::path::Path;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    BLACK, Cartesian2d, Color as _, DrawingArea, IntoDrawingArea as _, IntoFont as _, PathElement, RGBColor,
    Rectangle, SVGBackend, Text, TextStyle, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::aims::Bound;
use super::figure::Better;
use super::report::{BenchReport, figure, times};
use super::samples::{Comparison, Spread};
use crate::step::{Failure, Outcome};

/// Bar of a chart.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) ratio: Spread,
    pub(crate) better: Better,
    pub(crate) aim: Option<Bound>,
    /// Absolute figures, to the right of the bar.
    pub(crate) note: String,
}

/// Chart of bars, one below another.
pub(crate) struct Chart {
    pub(crate) title: String,
    /// Explanation of the bars.
    pub(crate) legend: &'static str,
    pub(crate) bars: Vec<Bar>,
}

/// Drawing with coordinates in pixels.
type Area<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Width of a chart in pixels.
const WIDTH: u32 = 1280;
/// Position of the smallest ratio, in pixels from the left.
const LEFT: f64 = 390.0;
/// Position of the largest ratio, in pixels from the left.
const RIGHT: f64 = 930.0;
/// Height above the bars, in pixels.
const TOP: f64 = 74.0;
/// Height below the bars, in pixels.
const BOTTOM: f64 = 34.0;
/// Distance of neighboring bars, in pixels.
const STEP: f64 = 21.0;
/// Half of the height of a bar, in pixels.
const HALF: f64 = 6.0;
/// Half of the height of the ends of a line, in pixels.
const WHISKER: f64 = 4.0;

/// Explanation of the bars of a benchmark.
const LEGEND: &str = "bar: median, line: smallest to largest, blue: aim";

/// Color of a bar that meets its aim, or is better than the other contestant and has no aim.
const GOOD: RGBColor = RGBColor(46, 125, 80);
/// Color of a bar that is better than the other contestant but misses the aim.
const SHORT: RGBColor = RGBColor(214, 160, 50);
/// Color of a bar that is worse than the other contestant and does not meet an aim.
const BAD: RGBColor = RGBColor(190, 70, 50);
/// Color of the mark at the aim.
const AIM: RGBColor = RGBColor(20, 60, 160);
/// Color of the lines of the scale.
const GRID: RGBColor = RGBColor(221, 221, 221);

/// Draws `aims.svg`, `wire.svg` and `others.svg` into `folder`. Charts without rows are left out.
///
/// # Errors
/// Fails if a file cannot be written.
pub(crate) fn draw(report: &BenchReport, folder: &Path) -> Outcome {
    let when = format!("{}; {}; {}", report.conditions.date, report.conditions.host, report.turns);
    let charts = [
        (
            "aims.svg",
            Chart {
                title: "Aims: pinhole / other, median of ratios".to_owned(),
                legend: LEGEND,
                bars: aims(report),
            },
        ),
        (
            "wire.svg",
            Chart {
                title: "Wire, op/s: pinhole / virtiofsd with its best setting".to_owned(),
                legend: LEGEND,
                bars: wire(report),
            },
        ),
        (
            "others.svg",
            Chart {
                title: "Guest and cost: pinhole / virtiofsd with its best setting".to_owned(),
                legend: LEGEND,
                bars: others(report),
            },
        ),
    ];
    for (name, chart) in charts.into_iter().filter(|(_, chart)| !chart.bars.is_empty()) {
        let path = folder.join(name);
        let mut text = String::new();
        paint(&chart, &when, &mut text)
            .map_err(|error| Failure::new(format!("cannot draw {name}: {error}")))?;
        std::fs::write(&path, text).map_err(Failure::io(format!("cannot write {}", path.display())))?;
    }
    Ok(())
}

/// Returns a bar for each aim that limits a ratio.
fn aims(report: &BenchReport) -> Vec<Bar> {
    let ratios = report.aimed().into_iter().filter(|(aim, _, _)| aim.is_ratio());
    ratios
        .map(|(aim, comparison, ratio)| {
            let verdict = if aim.bound.is_met(ratio.median) { "met" } else { "missed" };
            let note = format!("{}x  aim {}: {verdict}", times(ratio.median), aim.words(comparison.unit));
            let (label, better) = (comparison.row.clone(), comparison.better);
            Bar { label, ratio, better, aim: Some(aim.bound), note }
        })
        .collect()
}

/// Returns a bar for the operations per second of each row of the part `wire`.
fn wire(report: &BenchReport) -> Vec<Bar> {
    let rates = report.comparisons.iter().filter(|found| found.row.ends_with(": op/s"));
    rates.filter_map(|found| bar(found, found.row.trim_end_matches(": op/s"))).collect()
}

/// Returns a bar for each row of the other parts.
fn others(report: &BenchReport) -> Vec<Bar> {
    let others = report.comparisons.iter().filter(|found| !BenchReport::is_wire(&found.row));
    others.filter_map(|found| bar(found, &found.row)).collect()
}

/// Returns the bar of a comparison with virtiofsd.
fn bar(found: &Comparison, label: &str) -> Option<Bar> {
    let (setting, beside) = found.peer?;
    let (own, other) = (figure(found.pinhole.median), figure(beside.value.median));
    let note =
        format!("{}x  {own} / {other} {} ({})", times(beside.ratio.median), found.unit, setting.short());
    Some(Bar { label: label.to_owned(), ratio: beside.ratio, better: found.better, aim: None, note })
}

/// Returns the smallest and largest ratio of the scale, so that it contains all bars and aims.
fn bounds(bars: &[Bar]) -> (f64, f64) {
    let limits = bars.iter().filter_map(|bar| bar.aim.map(Bound::limit));
    let all = bars.iter().flat_map(|bar| [bar.ratio.min, bar.ratio.max]).chain(limits);
    let (low, high) = all
        .filter(|value| *value > 0.0)
        .fold((0.5, 2.0), |(low, high), value| (value.min(low), value.max(high)));
    // Values outside 0.02 to 50 are cut off. The number beside the bar shows them.
    (f64::max(low, 0.02) * 0.9, f64::min(high, 50.0) * 1.1)
}

/// Result of drawing, with the message of the drawing library.
type Painted = Result<(), String>;

/// Draws a chart as SVG. `when` is the line below its title.
///
/// # Errors
/// Returns the message of the drawing library.
pub(crate) fn paint(chart: &Chart, when: &str, into: &mut String) -> Painted {
    let rows = chart.bars.iter().fold(0.0, |rows, _| rows + 1.0);
    let height = TOP + rows * STEP + BOTTOM;
    // Rounds up to a whole number of pixels without a lossy cast.
    let pixels = (0..u32::MAX).find(|pixel| f64::from(*pixel) >= height).unwrap_or(u32::MAX);
    let (wide, tall) = (i32::try_from(WIDTH).unwrap_or(0), i32::try_from(pixels).unwrap_or(0));
    let (low, high) = bounds(&chart.bars);
    let x = |ratio: f64| {
        let share = (ratio.clamp(low, high) / low).ln() / (high / low).ln();
        LEFT + share * (RIGHT - LEFT)
    };
    let root = SVGBackend::with_string(into, (WIDTH, pixels)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| error.to_string())?;
    let coordinates = Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(
        0.0..f64::from(WIDTH),
        0.0..f64::from(pixels),
        (0..wide, 0..tall),
    );
    let area = root.apply_coord_spec(coordinates);
    write(&area, &chart.title, (LEFT, 18.0), (16, HPos::Left))?;
    write(&area, when, (LEFT, 38.0), (11, HPos::Left))?;
    write(&area, chart.legend, (RIGHT + 10.0, 18.0), (11, HPos::Left))?;
    grid(&area, (low, high), height - BOTTOM, &x)?;
    let mut y = TOP + STEP / 2.0;
    for bar in &chart.bars {
        paint_bar(&area, bar, y, &x)?;
        y += STEP;
    }
    area.present().map_err(|error| error.to_string())
}

/// Draws the lines of the scale with their ratios.
fn grid(area: &Area<'_>, (low, high): (f64, f64), bottom: f64, x: &dyn Fn(f64) -> f64) -> Painted {
    let steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
    for at in steps.into_iter().filter(|at| (low..=high).contains(at)) {
        let whole = at > 0.99 && at < 1.01;
        let color = if whole { BLACK } else { GRID };
        line(area, [(x(at), TOP - 4.0), (x(at), bottom + 4.0)], color, if whole { 2 } else { 1 })?;
        write(area, &format!("{at}x"), (x(at), TOP - 12.0), (11, HPos::Center))?;
        write(area, &format!("{at}x"), (x(at), bottom + 14.0), (11, HPos::Center))?;
    }
    Ok(())
}

/// Draws a bar with its line, its aim, its label and its note. `y` is its middle.
fn paint_bar(area: &Area<'_>, bar: &Bar, y: f64, x: &dyn Fn(f64) -> f64) -> Painted {
    let median = bar.ratio.median;
    let worse = bar.better.is_better(1.0, median);
    let color = match bar.aim {
        Some(aim) if aim.is_met(median) => GOOD,
        Some(_) | None if worse => BAD,
        Some(_) => SHORT,
        None => GOOD,
    };
    let ends = [(x(1.0), y - HALF), (x(median), y + HALF)];
    area.draw(&Rectangle::new(ends, color.mix(0.75).filled())).map_err(|error| error.to_string())?;
    line(area, [(x(bar.ratio.min), y), (x(bar.ratio.max), y)], BLACK, 1)?;
    for end in [bar.ratio.min, bar.ratio.max] {
        line(area, [(x(end), y - WHISKER), (x(end), y + WHISKER)], BLACK, 1)?;
    }
    if let Some(aim) = bar.aim {
        line(area, [(x(aim.limit()), y - HALF - 3.0), (x(aim.limit()), y + HALF + 3.0)], AIM, 3)?;
    }
    write(area, &bar.label, (LEFT - 10.0, y), (12, HPos::Right))?;
    write(area, &bar.note, (RIGHT + 10.0, y), (11, HPos::Left))
}

/// Draws a line.
fn line(area: &Area<'_>, ends: [(f64, f64); 2], color: RGBColor, width: u32) -> Painted {
    area.draw(&PathElement::new(ends.to_vec(), color.stroke_width(width))).map_err(|error| error.to_string())
}

/// Writes a text. `at` is its middle in height, and the point of `side` in width.
fn write(area: &Area<'_>, text: &str, at: (f64, f64), (height, side): (u32, HPos)) -> Painted {
    let style = TextStyle::from(("sans-serif", height).into_font()).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(|error| error.to_string())
}
