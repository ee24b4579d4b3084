//! Attention heads as an SVG: a panel for each, queries on the left, keys on the right.

use std::fmt::{Result, Write};

const ROW: usize = 17;
const COLUMN: usize = 95;
const GAP: usize = 90;
const PANEL: usize = 2 * COLUMN + GAP;
const TOP: usize = 70;
const COLORS: [&str; 6] = ["#1b6ca8", "#c4501b", "#2e7d32", "#8e24aa", "#b8860b", "#00838f"];
/// Weights below this are not drawn.
const FAINT: f32 = 0.1;

/// `heads`: `[N][S][S]` weights of S tokens.
pub fn draw(
    title: &str,
    tokens: &[String],
    heads: &[Vec<Vec<f32>>],
) -> std::result::Result<String, std::fmt::Error> {
    let across = heads.len().min(4);
    let height = tokens.len() * ROW + 45;
    let (width, total) = (across * PANEL + 20, TOP + heads.len().div_ceil(4) * height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{total}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"26\" font-size=\"17\">{}</text>\n\
         <text x=\"20\" y=\"46\" fill=\"#555\">The thicker the line from a token on the left, the more it \
         attends to the token on the right; weights below 0.1 are left out.</text>\n",
        escaped(title)
    );
    for (i, weights) in heads.iter().enumerate() {
        let (x, y) = (10 + i % 4 * PANEL, TOP + i / 4 * height);
        panel(&mut svg, (x, y), i, tokens, weights)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn panel(
    svg: &mut String,
    (x, y): (usize, usize),
    head: usize,
    tokens: &[String],
    weights: &[Vec<f32>],
) -> Result {
    let (left, right, color) = (x + COLUMN, x + COLUMN + GAP, COLORS[head % COLORS.len()]);
    let middle = (left + right) / 2;
    writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"{color}\">Head {}</text>",
        y + 12,
        head + 1
    )?;
    let line = |i: usize| y + 30 + i * ROW;
    for (query, row) in weights.iter().enumerate() {
        for (key, weight) in row.iter().enumerate().filter(|(_, weight)| **weight >= FAINT) {
            writeln!(
                svg,
                "<line x1=\"{left}\" y1=\"{}\" x2=\"{right}\" y2=\"{}\" stroke=\"{color}\" stroke-width=\"{:.1}\" stroke-opacity=\"{:.2}\"/>",
                line(query),
                line(key),
                0.5 + 3.5 * weight,
                0.15 + 0.85 * weight
            )?;
        }
    }
    for (i, token) in tokens.iter().enumerate() {
        let (token, y) = (escaped(token), line(i) + 4);
        writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{token}</text>", left - 4)?;
        writeln!(svg, "<text x=\"{}\" y=\"{y}\">{token}</text>", right + 4)?;
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
