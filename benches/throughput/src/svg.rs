//! SVG written by hand, as there is little of it; and PNG from it, in a font that the program brings, so that every machine draws the
//! same picture.

use resvg::{tiny_skia, usvg};

use crate::record::Record;

/// Subsets of Inter; its licence is beside them.
const FONTS: [&[u8]; 2] = [include_bytes!("../font/Inter-Regular.otf"), include_bytes!("../font/Inter-SemiBold.otf")];

pub const WIDTH: f64 = 960.0;
pub const MARGIN: f64 = 28.0;
/// Where what is below the titles begins.
pub const TOP: f64 = 92.0;
/// Room for the small print.
const BOTTOM: f64 = 44.0;

pub const INK: &str = "#222b38";
pub const GRAY: &str = "#6b7583";
pub const FAINT: &str = "#e4e8ed";

/// A page with titles above and the small print below a body of this height.
pub fn page(title: &str, subtitle: &str, record: &Record, height: f64, body: &str) -> String {
    let (height, below) = (TOP + height + BOTTOM, TOP + height + 26.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"Inter, Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"{INK}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}{}{body}{}</svg>\n",
        text(MARGIN, 40.0, "font-size=\"22\" font-weight=\"600\"", title),
        text(MARGIN, 64.0, &format!("font-size=\"14\" fill=\"{GRAY}\""), subtitle),
        text(MARGIN, below, &format!("font-size=\"11\" fill=\"{GRAY}\""), &record.small_print()),
    )
}

pub fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>\n", escape(text))
}

pub fn line([x1, y1]: [f64; 2], [x2, y2]: [f64; 2], attributes: &str) -> String {
    format!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" fill=\"none\" {attributes}/>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The picture at twice its size.
pub fn png(svg: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut options = usvg::Options::default();
    for font in FONTS {
        options.fontdb_mut().load_font_data(font.into());
    }
    let tree = usvg::Tree::from_str(svg, &options)?;
    let size = tree.size().to_int_size().scale_by(2.0).ok_or("a picture without a size")?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("a picture that is too large")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(2.0, 2.0), &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}
