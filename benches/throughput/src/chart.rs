//! Lines over two logarithmic axes.

use crate::svg::{FAINT, GRAY, INK, MARGIN, TOP, WIDTH, line, text};

pub struct Line {
    pub name: String,
    pub color: &'static str,
    pub dashed: bool,
    pub points: Vec<[f64; 2]>,
}

pub struct Axes {
    pub x: &'static str,
    pub y: &'static str,
    /// What stands at a number.
    pub x_tick: fn(f64) -> String,
    pub y_tick: fn(f64) -> String,
    /// Ticks are powers of this.
    pub x_base: f64,
    pub y_base: f64,
}

pub const HEIGHT: f64 = 470.0;
const LEFT: f64 = MARGIN + 62.0;
const RIGHT: f64 = WIDTH - MARGIN;
const PLOT_TOP: f64 = TOP + 44.0;
const PLOT_BOTTOM: f64 = TOP + HEIGHT - 52.0;

/// The body of a page.
pub fn draw(axes: &Axes, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = Scale::new(points().map(|p| p[0]), axes.x_base, LEFT, RIGHT, false);
    let y = Scale::new(points().map(|p| p[1]), axes.y_base, PLOT_BOTTOM, PLOT_TOP, true);
    let mut svg = String::new();
    for tick in x.ticks() {
        svg += &line([x.at(tick), PLOT_TOP], [x.at(tick), PLOT_BOTTOM], &format!("stroke=\"{FAINT}\""));
        let middle = format!("text-anchor=\"middle\" fill=\"{GRAY}\"");
        svg += &text(x.at(tick), PLOT_BOTTOM + 20.0, &middle, &(axes.x_tick)(tick));
    }
    for tick in y.ticks() {
        svg += &line([LEFT, y.at(tick)], [RIGHT, y.at(tick)], &format!("stroke=\"{FAINT}\""));
        let end = format!("text-anchor=\"end\" fill=\"{GRAY}\"");
        svg += &text(LEFT - 10.0, y.at(tick) + 4.5, &end, &(axes.y_tick)(tick));
    }
    svg += &line([LEFT, PLOT_BOTTOM], [RIGHT, PLOT_BOTTOM], &format!("stroke=\"{INK}\""));
    svg += &text((LEFT + RIGHT) / 2.0, PLOT_BOTTOM + 44.0, "text-anchor=\"middle\"", axes.x);
    svg += &text(MARGIN, PLOT_TOP - 16.0, "", axes.y);
    // The legend, from the right: names are at most this wide.
    let mut at = RIGHT;
    for drawn in lines.iter().rev() {
        at -= 7.4 * drawn.name.chars().count() as f64 + 10.0;
        svg += &text(at, PLOT_TOP - 16.0, &format!("fill=\"{}\" font-weight=\"600\"", drawn.color), &drawn.name);
        svg += &line([at - 30.0, PLOT_TOP - 20.5], [at - 8.0, PLOT_TOP - 20.5], &stroke(drawn));
        at -= 44.0;
    }
    for drawn in lines {
        let path = drawn.points.iter().map(|p| format!("{:.1},{:.1}", x.at(p[0]), y.at(p[1]))).collect::<Vec<_>>();
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke-linejoin=\"round\" {}/>\n",
            path.join(" "),
            stroke(drawn)
        );
        if !drawn.dashed {
            // A line of length zero with round ends is a dot.
            let dots: String = drawn.points.iter().map(|p| format!("M{:.1} {:.1}h0", x.at(p[0]), y.at(p[1]))).collect();
            svg += &format!(
                "<path d=\"{dots}\" stroke=\"{}\" stroke-width=\"7\" stroke-linecap=\"round\"/>\n",
                drawn.color
            );
        }
    }
    svg
}

fn stroke(line: &Line) -> String {
    let dashes = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
    format!("stroke=\"{}\" stroke-width=\"2.5\"{dashes}", line.color)
}

/// From numbers to a place on the page.
struct Scale {
    low: f64,
    high: f64,
    base: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// `whole`: it begins and ends with a tick.
    fn new(numbers: impl Iterator<Item = f64>, base: f64, from: f64, to: f64, whole: bool) -> Self {
        let (mut low, mut high) = numbers.fold((f64::MAX, f64::MIN), |(low, high), n| (low.min(n), high.max(n)));
        if whole || low >= high {
            low = base.powf((low.ln() / base.ln() + 1e-9).floor());
            high = base.powf((high.ln() / base.ln() - 1e-9).ceil()).max(low * base);
        }
        Scale { low, high, base, from, to }
    }

    fn at(&self, number: f64) -> f64 {
        self.from + (self.to - self.from) * (number / self.low).ln() / (self.high / self.low).ln()
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let power = |n: f64| n.ln() / self.base.ln();
        let (first, last) = ((power(self.low) - 1e-9).ceil() as i32, (power(self.high) + 1e-9).floor() as i32);
        // Not more than there is room for.
        let step = ((last - first) / 14 + 1) as usize;
        (first..=last).step_by(step).map(|power| self.base.powi(power))
    }
}
