//! Texts to vectors, as a worker of `embed.py`: commands on standard input, answers on standard output.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use bert::{LoadOptions, SentenceOptions, SentenceTransformer};

use crate::peak_bytes;

/// Commands: `texts PATH` (a JSON list), `run FROM TO` (encodes these texts; answers seconds), `write PATH`
/// (the vectors of the last run, as raw F32), `memory` (bytes above those after loading).
pub fn serve(folder: &Path) -> Result<()> {
    let model = SentenceTransformer::from_pretrained(folder, &LoadOptions::new())?;
    let loaded = peak_bytes("self")?;
    let options = SentenceOptions::new();
    let (mut texts, mut vectors): (Vec<String>, Vec<Vec<f32>>) = (Vec::new(), Vec::new());
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["texts", path] => {
                texts = serde_json::from_slice(&std::fs::read(path)?)?;
                writeln!(out, "ok")?;
            }
            ["run", from, to] => {
                let range = from.parse()?..to.parse()?;
                let start = Instant::now();
                vectors = model.encode_all(&texts[range], &options).collect::<bert::Result<_>>()?;
                writeln!(out, "{}", start.elapsed().as_secs_f64())?;
            }
            ["write", path] => {
                let bytes: Vec<u8> =
                    vectors.concat().iter().flat_map(|x| x.to_le_bytes()).collect();
                std::fs::write(path, bytes)?;
                writeln!(out, "ok")?;
            }
            ["memory"] => writeln!(out, "{}", peak_bytes("self")? - loaded)?,
            _ => bail!("unknown command {line:?}"),
        }
        out.flush()?;
    }
    Ok(())
}
