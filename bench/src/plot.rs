//! A record as a picture.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use plotters::prelude::*;

/// One line of a record that counts here.
struct Row {
    shape: String,
    engine: String,
    /// Tokens per second.
    speed: f64,
}

const COLORS: [RGBColor; 6] = [
    RGBColor(200, 60, 40),
    RGBColor(120, 120, 120),
    RGBColor(70, 110, 170),
    RGBColor(90, 150, 200),
    RGBColor(110, 160, 110),
    RGBColor(190, 160, 80),
];

/// Draws the engines' speeds on each shape, as parts of the fastest one's; those that never come near
/// are left to the record.
pub fn plot(record: &Path, model: &str, threads: usize, picture: &Path) -> Result<()> {
    let rows = read(record, model, threads)?;
    let mut shapes: Vec<&str> = rows.iter().map(|row| row.shape.as_str()).collect();
    shapes.dedup();
    let engines =
        ["ours", "pytorch", "onnxruntime", "onnxruntime-fused", "openvino", "ctranslate2"];
    ensure!(
        !shapes.is_empty(),
        "{} has nothing for {model} on {threads} threads",
        record.display()
    );

    let root = SVGBackend::new(picture, (900, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    let bars = engines.len() as f64 + 1.;
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(45)
        // On the right there is room for the legend.
        .build_cartesian_2d(0f64..shapes.len() as f64 + 1., 0f64..1.05)?;
    let middle = |x: &f64| match shapes.get(*x as usize) {
        Some(shape) if x.fract() == 0.5 => (*shape).to_owned(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(2 * shapes.len() + 3)
        .x_label_formatter(&middle)
        .y_desc("tokens/s, as a part of the fastest")
        .draw()?;
    for (e, (engine, color)) in engines.iter().zip(COLORS).enumerate() {
        let bars = shapes.iter().enumerate().filter_map(|(s, shape)| {
            let of_shape = rows.iter().filter(|row| row.shape == *shape);
            let best = of_shape.clone().map(|row| row.speed).fold(0., f64::max);
            // Of lengths sorted and not, what suits the engine better.
            let own = of_shape.filter(|row| row.engine.trim_end_matches("+sorted") == *engine);
            let speed = own.map(|row| row.speed).reduce(f64::max)?;
            let left = s as f64 + (e as f64 + 0.5) / bars;
            let corners = [(left, 0.), (left + 0.9 / bars, speed / best)];
            Some(Rectangle::new(corners, color.filled()))
        });
        chart
            .draw_series(bars)?
            .label(*engine)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    root.present()?;
    Ok(())
}

fn read(record: &Path, model: &str, threads: usize) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_path(record)?;
    let columns = reader.headers()?.clone();
    let column = |name: &str| {
        columns.iter().position(|it| it == name).with_context(|| format!("no column {name}"))
    };
    let [of_model, of_threads, shape, engine, speed] = [
        column("model")?,
        column("threads")?,
        column("shape")?,
        column("engine")?,
        column("tokens_per_s")?,
    ];
    let mut rows = Vec::new();
    for line in reader.records() {
        let line = line?;
        // Loading has no speed.
        if &line[of_model] == model
            && line[of_threads].parse() == Ok(threads)
            && !line[speed].is_empty()
        {
            let (shape, engine) = (line[shape].to_owned(), line[engine].to_owned());
            rows.push(Row { shape, engine, speed: line[speed].parse()? });
        }
    }
    Ok(rows)
}
