//! What `compare` has written.

use std::path::Path;

use anyhow::{Context, Result};

/// The speed of an engine.
pub struct Row {
    pub model: String,
    pub threads: usize,
    pub shape: String,
    pub engine: String,
    /// Tokens per second.
    pub speed: f64,
}

/// The lines of a record that have a speed: loading has none.
pub fn rows(record: &Path) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_path(record)?;
    let columns = reader.headers()?.clone();
    let mut rows = Vec::new();
    for line in reader.records() {
        let line = line?;
        let value = |name: &str| {
            let place = columns.iter().position(|it| it == name);
            place.map(|i| line[i].to_owned()).with_context(|| format!("no column {name}"))
        };
        let speed = value("tokens_per_s")?;
        if !speed.is_empty() {
            rows.push(Row {
                model: value("model")?,
                threads: value("threads")?.parse()?,
                shape: value("shape")?,
                engine: value("engine")?,
                speed: speed.parse()?,
            });
        }
    }
    Ok(rows)
}
