//! A Rust engine in a process of its own, with the commands of peers.py.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bert::{AutoModel, BertInput, BertModel, DType, Device, LoadOptions, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert as candle_bert;

/// What both engines do.
enum Engine {
    Ours(Box<BertModel>),
    Candle(Box<candle_bert::BertModel>),
}

impl Engine {
    fn load(name: &str, folder: &Path) -> Result<Self> {
        Ok(match name {
            "ours" => {
                Self::Ours(Box::new(AutoModel::from_pretrained(folder, &LoadOptions::new())?))
            }
            "candle-transformers" => Self::Candle(Box::new(candle_model(folder)?)),
            other => bail!("no engine is called {other}"),
        })
    }

    fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        Ok(match self {
            Self::Ours(model) => {
                let mut input = BertInput::from_ids(ids.clone());
                input.attention_mask = mask.cloned();
                model.forward(&input)?.last_hidden_state
            }
            Self::Candle(model) => model.forward(ids, &ids.zeros_like()?, mask)?,
        })
    }
}

pub fn candle_model(folder: &Path) -> Result<candle_bert::BertModel> {
    let text = std::fs::read_to_string(folder.join("config.json"))?;
    let mut config: serde_json::Value = serde_json::from_str(&text)?;
    let config_keys = config.as_object_mut().context("config.json is no object")?;
    config_keys.retain(|_, value| !value.is_null());
    let config: candle_bert::Config = serde_json::from_value(config)?;
    let file = folder.join("model.safetensors");
    // SAFETY: nothing writes to the file while this process runs.
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu)? };
    Ok(candle_bert::BertModel::load(vb, &config)?)
}

pub fn serve(engine: &str, folder: &Path) -> Result<()> {
    let engine = Engine::load(engine, folder)?;
    let (mut rows, mut states): (Vec<Vec<u32>>, Option<Tensor>) = (Vec::new(), None);
    answer("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", _) => {
                // The last pass's are no part of this one's memory.
                drop(states.take());
                let start = Instant::now();
                let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
                let padded = |value: &dyn Fn(&[u32], usize) -> u32| -> Result<Tensor> {
                    let values: Vec<u32> =
                        rows.iter().flat_map(|row| (0..longest).map(|i| value(row, i))).collect();
                    Ok(Tensor::from_vec(values, (rows.len(), longest), &Device::Cpu)?)
                };
                let ids = padded(&|row, i| row.get(i).copied().unwrap_or(0))?;
                let ragged = rows.iter().any(|row| row.len() < longest);
                let mask = padded(&|row, i| u32::from(i < row.len()))?;
                states = Some(engine.forward(&ids, Some(&mask).filter(|_| ragged))?);
                answer(&start.elapsed().as_secs_f64().to_string())?;
            }
            ("write", path) => {
                let states = states.as_ref().context("nothing was run")?;
                let mut bytes = Vec::new();
                for (i, row) in rows.iter().enumerate() {
                    let row = states.get(i)?.narrow(0, 0, row.len())?.flatten_all()?;
                    bytes.extend(row.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()));
                }
                std::fs::write(path, bytes)?;
                answer("ok")?;
            }
            _ => {
                rows = serde_json::from_str(&line)?;
                answer("ok")?;
            }
        }
    }
    Ok(())
}

fn answer(text: &str) -> Result<()> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}
