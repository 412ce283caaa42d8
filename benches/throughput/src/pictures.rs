//! The pictures: shares of the copy as bars, and cost against size, classes and threads.

use std::path::Path;

use crate::chart::{self, Axes, Line};
use crate::measure::{Row, time};
use crate::record::Record;
use crate::svg::{self, FAINT, GRAY, INK, MARGIN, TOP, WIDTH, line, text};
use crate::timing::Dtype;

/// Of storage types: one hue, as they are one loss.
fn shade(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "#1d4f91",
        Dtype::F16 => "#4c8fd6",
        Dtype::Bf16 => "#a3cbf2",
    }
}

const COPY: &str = "#d9601f";
const COLORS: [&str; 3] = ["#1d4f91", "#c0392b", "#2a8c5a"];

/// Writes each picture that there are rows for as SVG and PNG, and returns their names.
pub fn draw(record: &Record, out: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut pictures = Vec::new();
    if !record.rows.is_empty() {
        pictures.push(("shares", shares(record)));
    }
    for (name, rows) in record.scaling.iter().filter(|(_, rows)| !rows.is_empty()) {
        match *name {
            "n" => pictures.push(("cost", cost(record, rows))),
            "classes" => pictures.push(("classes", classes(record, rows))),
            "threads" if rows.iter().any(|row| row.threads > 2) => pictures.push(("threads", threads(record, rows))),
            _ => {}
        }
    }
    let mut names = Vec::new();
    for (name, picture) in pictures {
        for (name, bytes) in
            [(format!("{name}.png"), svg::png(&picture)?), (format!("{name}.svg"), picture.into_bytes())]
        {
            let path = out.join(&name);
            std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
            names.push(name);
        }
    }
    Ok(names)
}

/// `2^24`, as people read it.
fn power_of_two(n: f64) -> String {
    let digit = |c: char| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(c as usize - '0' as usize).unwrap_or(c);
    format!("2{}", (n.log2().round() as i64).to_string().chars().map(digit).collect::<String>())
}

fn size(row: &Row) -> String {
    let number = |&n: &usize| if n >= 1 << 20 && n.is_power_of_two() { power_of_two(n as f64) } else { n.to_string() };
    row.shape.iter().map(number).collect::<Vec<_>>().join(" × ")
}

/// A loss a group, a storage type a bar, the copy a line across all.
fn shares(record: &Record) -> String {
    // Rows of one loss and shape follow each other.
    let groups: Vec<&[Row]> = record.rows.chunk_by(|a, b| a.loss == b.loss && a.shape == b.shape).collect();
    let dtypes: Vec<Dtype> = Dtype::ALL.into_iter().filter(|&d| record.rows.iter().any(|row| row.dtype == d)).collect();
    let (left, right) = (MARGIN + 262.0, WIDTH - MARGIN - 104.0);
    let most = record.rows.iter().map(Row::share).fold(1.0, f64::max) * 1.02;
    let x = |share: f64| left + (right - left) * share / most;
    let (bar, gap, top) = (12.0, 14.0, TOP + 34.0);
    let bottom = top + groups.iter().map(|rows| rows.len() as f64 * bar + gap).sum::<f64>();
    let (mut body, mut labels) = (String::new(), String::new());
    let step = if most > 3.0 {
        1.0
    } else if most > 1.6 {
        0.5
    } else {
        0.25
    };
    for tick in (0..).map(|i| f64::from(i) * step).take_while(|&share| share <= most) {
        body +=
            &line([x(tick), top], [x(tick), bottom], &format!("stroke=\"{}\"", if tick == 0.0 { INK } else { FAINT }));
        let attributes = format!("text-anchor=\"middle\" fill=\"{GRAY}\" font-size=\"12\"");
        body += &text(x(tick), bottom + 18.0, &attributes, &format!("{tick:.*}", if step < 0.5 { 2 } else { 1 }));
    }
    let mut y = top + gap / 2.0;
    for rows in groups {
        let middle = y + rows.len() as f64 * bar / 2.0;
        let tall = rows.len() > 1;
        let (name, attributes) = (&rows[0].loss, "text-anchor=\"end\" font-weight=\"600\"");
        body += &text(left - 12.0, middle + if tall { -1.5 } else { 4.5 }, attributes, name);
        if tall {
            let attributes = format!("text-anchor=\"end\" font-size=\"11\" fill=\"{GRAY}\"");
            body += &text(left - 12.0, middle + 13.0, &attributes, &size(&rows[0]));
        }
        for row in rows {
            let (width, color) = (x(row.share()) - left, shade(row.dtype));
            body += &format!(
                "<rect x=\"{left}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{color}\"/>\n",
                bar - 1.0
            );
            let label = format!("{:.2} · {:.1} GB/s", row.share(), row.gbs());
            // With a white edge, as it may cross the copy's line.
            let attributes =
                format!("font-size=\"10\" fill=\"{GRAY}\" stroke=\"white\" stroke-width=\"4\" paint-order=\"stroke\"");
            labels += &text(x(row.share()) + 6.0, y + 9.3, &attributes, &label);
            y += bar;
        }
        y += gap;
    }
    body += &line([x(1.0), top - 6.0], [x(1.0), bottom], &format!("stroke=\"{COPY}\" stroke-width=\"2\""));
    let attributes = format!("text-anchor=\"middle\" font-weight=\"600\" fill=\"{COPY}\"");
    body += &text(x(1.0), top - 12.0, &attributes, "copy");
    body += &labels;
    for (i, &dtype) in dtypes.iter().enumerate() {
        let (x, y) = (left + 62.0 * i as f64, top - 22.0);
        body += &format!("<rect x=\"{x}\" y=\"{y}\" width=\"11\" height=\"11\" fill=\"{}\"/>\n", shade(dtype));
        body += &text(x + 16.0, y + 10.0, "", dtype.name());
    }
    let subtitle = "GB/s of the fewest bytes a loss can move, as a share of a copy's GB/s, timed in turn with it";
    svg::page("Forward + backward in one pass, against a copy", subtitle, record, bottom - TOP + 24.0, &body)
}

/// A line for each loss.
fn lines(rows: &[Row], point: impl Fn(&Row) -> [f64; 2]) -> Vec<Line> {
    let losses = rows.chunk_by(|a, b| a.loss == b.loss).zip(COLORS.into_iter().cycle());
    let line = |(rows, color): (&[Row], _)| Line {
        name: rows[0].loss.clone(),
        color,
        dashed: false,
        points: rows.iter().map(&point).collect(),
    };
    losses.map(line).collect()
}

/// The copy that took turns with these rows, to be drawn below the others.
fn with_copy<'a>(rows: impl Iterator<Item = &'a Row>, point: impl Fn(&Row) -> [f64; 2], lines: Vec<Line>) -> Vec<Line> {
    let copy = Line { name: "copy".into(), color: "#8b95a1", dashed: true, points: rows.map(point).collect() };
    std::iter::once(copy).chain(lines).collect()
}

fn cost(record: &Record, rows: &[Row]) -> String {
    let first = &rows[0].loss;
    let lines = lines(rows, |row| [row.elements() as f64, row.ns]);
    let of_first = rows.iter().filter(|row| row.loss == *first);
    let lines = with_copy(of_first, |row| [row.elements() as f64, row.copy_ns], lines);
    let axes = Axes {
        x: "elements, f32 (cross_entropy: rows of 1024 classes)",
        y: "time of a call",
        x_tick: power_of_two,
        y_tick: |ns| time(ns).replace(".00", "").replace(".0", "").replace("us", "µs"),
        x_base: 4.0,
        y_base: 10.0,
    };
    let subtitle =
        "Forward + backward against a copy of the input: above it the call or its arithmetic costs, along it memory";
    svg::page("Time of a call against its size", subtitle, record, chart::HEIGHT, &chart::draw(&axes, &lines))
}

fn classes(record: &Record, rows: &[Row]) -> String {
    let point = |row: &Row| [row.shape[1] as f64, row.ns / row.elements() as f64];
    let lines = with_copy(rows.iter(), |row| [point(row)[0], row.copy_ns / row.elements() as f64], lines(rows, point));
    let axes = Axes {
        x: "classes; as many rows as make 2²⁴ elements, f32",
        y: "time of an element",
        x_tick: power_of_two,
        y_tick: nanoseconds,
        x_base: 2.0,
        y_base: 2.0,
    };
    let subtitle = "Forward + backward of as many elements in rows of any length";
    svg::page("Time of an element against the classes", subtitle, record, chart::HEIGHT, &chart::draw(&axes, &lines))
}

fn nanoseconds(ns: f64) -> String {
    if ns < 0.1 { format!("{:.0} ps", ns * 1e3) } else { format!("{} ns", (ns * 1e3).round() / 1e3) }
}

fn threads(record: &Record, rows: &[Row]) -> String {
    let point = |row: &Row| [row.threads as f64, row.gbs()];
    let first = &rows[0].loss;
    let of_first = rows.iter().filter(|row| row.loss == *first);
    let lines = with_copy(of_first, |row| [row.threads as f64, row.copy_gbs()], lines(rows, point));
    let axes = Axes {
        x: "threads, 2²⁴ elements, f32",
        y: "GB/s",
        x_tick: |n| format!("{n}"),
        y_tick: |n| format!("{n}"),
        x_base: 2.0,
        y_base: 2.0,
    };
    let subtitle = "GB/s of the fewest bytes that forward + backward can move";
    svg::page("Bandwidth against threads", subtitle, record, chart::HEIGHT, &chart::draw(&axes, &lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    #[test]
    fn pictures_are_drawn_of_any_record() {
        let mut record = record();
        let [mut small, _] = [record.rows[0].clone(), record.rows[1].clone()];
        small.shape = vec![4, 8];
        for name in ["n", "classes", "threads"] {
            record
                .scaling
                .push((name, vec![small.clone(), Row { threads: 4, ns: 7e6, shape: vec![4, 64], ..small.clone() }]));
        }
        let out = std::env::temp_dir().join(format!("fused-loss-pictures-{}", std::process::id()));
        std::fs::create_dir_all(&out).unwrap();
        let names = draw(&record, &out).unwrap();
        assert_eq!(names.len(), 8);
        for name in names {
            let bytes = std::fs::read(out.join(&name)).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains("NaN"), "{name}");
        }
        std::fs::remove_dir_all(out).unwrap();
    }
}
