//! Pictures of what was learnt, as SVG written by hand: axes, lines, dots and pixels are little enough to
//! do without a plotting library.

use std::fmt::Write;

use ndarray::Array2;

use crate::report::Outcome;

const COLORS: [&str; 2] = ["#2f6db5", "#d9772b"];

/// A page with a title, and on it a grid of panels of one size, each an SVG fragment drawn from (0, 0).
fn page(title: &str, columns: usize, (width, height): (usize, usize), panels: &[String]) -> String {
    let (page_width, page_height) = (columns * width + 20, panels.len().div_ceil(columns) * height + 62);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {page_width} {page_height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"32\" font-size=\"19\" font-weight=\"bold\">{title}</text>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        let (x, y) = (10 + i % columns * width, 58 + i / columns * height);
        let _ = writeln!(svg, "<g transform=\"translate({x},{y})\">\n{panel}</g>");
    }
    svg + "</svg>\n"
}

/// The training curves of all losses, a panel for each.
pub fn curves(outcomes: &[Outcome]) -> String {
    let panels: Vec<String> = outcomes.iter().map(curve).collect();
    page("Training loss, mean of each epoch", 5, (270, 220), &panels)
}

fn curve(outcome: &Outcome) -> String {
    let (left, top, width, height) = (48.0, 46.0, 206.0, 130.0);
    let epochs = outcome.curves[0].1.len();
    let highest =
        outcome.curves.iter().flat_map(|(_, curve)| curve).copied().filter(|loss| loss.is_finite()).fold(0.0, f32::max);
    let step = tick_step(highest / 4.0);
    let ticks = (highest / step).ceil().max(1.0);
    let x = |epoch: usize| left + width * epoch as f32 / (epochs.max(2) - 1) as f32;
    let y = |loss: f32| top + height * (1.0 - loss / (ticks * step));

    let mut svg = format!(
        "<text x=\"{left}\" y=\"16\" font-size=\"15\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{left}\" y=\"34\" fill=\"#666\">{}</text>\n",
        outcome.loss, outcome.task
    );
    for tick in 0..=ticks as usize {
        let loss = tick as f32 * step;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {:.1}h{width}\" stroke=\"{}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.decimals$}</text>",
            y(loss),
            if tick == 0 { "#333" } else { "#ddd" },
            left - 6.0,
            y(loss) + 4.0,
        );
    }
    for (at, anchor, text) in [(0, "start", "epoch 1".to_string()), (epochs - 1, "end", epochs.to_string())] {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>",
            x(at),
            top + height + 17.0
        );
    }
    for (i, (name, curve)) in outcome.curves.iter().enumerate() {
        let points: Vec<String> =
            curve.iter().enumerate().map(|(epoch, &loss)| format!("{:.1},{:.1}", x(epoch), y(loss))).collect();
        let color = COLORS[i % COLORS.len()];
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        if outcome.curves.len() > 1 {
            let (x, y) = (left + width, top + 14.0 + 17.0 * i as f32);
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" fill=\"{color}\">{name}</text>");
        }
    }
    svg
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
fn tick_step(step: f32) -> f32 {
    let power = 10f32.powf(step.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|&nice| nice >= step).unwrap_or(step)
}

/// Points of the plane, a panel for each set, from -1.5 to 1.5.
pub fn scatter(title: &str, sets: &[(String, Array2<f32>)]) -> String {
    let (left, top, size) = (30.0, 14.0, 210.0);
    let place = |x: f32| size * (x + 1.5) / 3.0;
    let panel = |(i, (name, points)): (usize, &(String, Array2<f32>))| {
        let mut svg = format!(
            "<text x=\"{left}\" y=\"4\">{name}</text>\n<g transform=\"translate({left},{top})\">\n\
             <rect width=\"{size}\" height=\"{size}\" fill=\"none\" stroke=\"#999\"/>\n"
        );
        for tick in [-1.0, 0.0, 1.0] {
            let (x, y, below) = (place(tick), place(-tick), size + 17.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{x} 0v{size}M0 {y}h{size}\" stroke=\"#e8e8e8\"/>\
                 <text x=\"{x}\" y=\"{below}\" text-anchor=\"middle\">{tick}</text>\
                 <text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
                y + 4.5
            );
        }
        // A line of length zero with round ends is a dot, and nothing shorter is one.
        let inside = points.rows().into_iter().filter(|point| point.iter().all(|x| x.abs() < 1.48));
        let dots: String = inside.map(|point| format!("M{:.1} {:.1}h0", place(point[0]), place(-point[1]))).collect();
        let color = COLORS[usize::from(i > 0)];
        svg + &format!("<path d=\"{dots}\" stroke=\"{color}\" stroke-width=\"2.4\" stroke-linecap=\"round\"/></g>\n")
    };
    let panels: Vec<String> = sets.iter().enumerate().map(panel).collect();
    page(title, sets.len(), (255, 255), &panels)
}

/// Images of 8 x 8 pixels from 0.0 (paper) to 1.0 (ink), a line with a name for each set.
pub fn images(title: &str, sets: &[(&str, Vec<f32>)]) -> String {
    let line = |(name, images): &(&str, Vec<f32>)| {
        let mut svg = format!("<text x=\"10\" y=\"33\">{name}</text>\n<g shape-rendering=\"crispEdges\">\n");
        for (i, image) in images.chunks_exact(64).enumerate() {
            for (pixel, &ink) in image.iter().enumerate() {
                let (x, y) = (160 + 64 * i + 7 * (pixel % 8), 7 * (pixel / 8));
                let gray = (238.0 - 205.0 * ink).clamp(0.0, 255.0) as u8;
                let _ = write!(svg, "<path d=\"M{x} {y}h7v7h-7z\" fill=\"#{gray:02x}{gray:02x}{gray:02x}\"/>");
            }
            svg += "\n";
        }
        svg + "</g>\n"
    };
    let lines: Vec<String> = sets.iter().map(line).collect();
    page(title, 1, (810, 66), &lines)
}
