//! Attention heads as an SVG: a panel for each, queries on the left, keys on the right.

use std::fmt::{Result, Write};

const ROW: usize = 17;
const COLUMN: usize = 95;
const GAP: usize = 90;
const PANEL: usize = 2 * COLUMN + GAP;
const TOP: usize = 70;
const COLORS: [&str; 6] = ["#1b6ca8", "#c4501b", "#2e7d32", "#8e24aa", "#b8860b", "#00838f"];
const NOTE: &str = "The thicker the line from a token on the left, the more it attends to the token on \
                    the right; weights below 0.1 are left out.";

/// Writes `heads`: `[N][S][S]` weights of S tokens.
pub fn draw(svg: &mut String, title: &str, tokens: &[String], heads: &[Vec<Vec<f32>>]) -> Result {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (title, tokens): (_, Vec<_>) =
        (escape(title), tokens.iter().map(|it| escape(it)).collect());
    let height = tokens.len() * ROW + 45;
    let (width, total) = (heads.len().min(4) * PANEL + 20, TOP + heads.len().div_ceil(4) * height);
    writeln!(svg, r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}""#)?;
    writeln!(svg, r#"font-family="sans-serif" font-size="12">"#)?;
    writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
    writeln!(svg, r#"<text x="20" y="26" font-size="17">{title}</text>"#)?;
    writeln!(svg, r##"<text x="20" y="46" fill="#555">{NOTE}</text>"##)?;
    for (head, weights) in heads.iter().enumerate() {
        let (x, y) = (10 + head % 4 * PANEL, TOP + head / 4 * height);
        let (left, right, color) = (x + COLUMN, x + COLUMN + GAP, COLORS[head % COLORS.len()]);
        let (middle, top) = ((left + right) / 2, y + 12);
        write!(svg, r#"<text x="{middle}" y="{top}" text-anchor="middle" fill="{color}">"#)?;
        writeln!(svg, "Head {}</text>", head + 1)?;
        let line = |token: usize| y + 30 + token * ROW;
        for (query, row) in weights.iter().enumerate() {
            for (key, weight) in row.iter().enumerate().filter(|(_, weight)| **weight >= 0.1) {
                let (from, to, thick) = (line(query), line(key), 0.5 + 3.5 * weight);
                write!(svg, r#"<line x1="{left}" y1="{from}" x2="{right}" y2="{to}" "#)?;
                write!(svg, r#"stroke="{color}" stroke-width="{thick:.1}" "#)?;
                writeln!(svg, r#"stroke-opacity="{:.2}"/>"#, 0.15 + 0.85 * weight)?;
            }
        }
        for (i, token) in tokens.iter().enumerate() {
            let (left, right, y) = (left - 4, right + 4, line(i) + 4);
            writeln!(svg, r#"<text x="{left}" y="{y}" text-anchor="end">{token}</text>"#)?;
            writeln!(svg, r#"<text x="{right}" y="{y}">{token}</text>"#)?;
        }
    }
    writeln!(svg, "</svg>")
}
