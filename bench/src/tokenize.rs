//! Our tokenizer beside the `tokenizers` crate, called directly with the same settings.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use bert::{AutoTokenizer, EncodeOptions, Padding, Truncation};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use crate::random::Random;
use crate::statistics::spread;

/// The crate's time over ours, in turns: single texts, and batches with truncation and padding.
pub fn compare(folder: &Path, turns: usize) -> Result<()> {
    let ours = AutoTokenizer::from_pretrained(folder)?;
    let file = folder.join("tokenizer.json");
    let mut plain = Tokenizer::from_file(&file).map_err(anyhow::Error::msg)?;
    plain.with_padding(None).with_truncation(None).map_err(anyhow::Error::msg)?;
    let mut batching = plain.clone();
    let truncation = TruncationParams { max_length: 128, ..TruncationParams::default() };
    batching
        .with_padding(Some(PaddingParams::default()))
        .with_truncation(Some(truncation))
        .map_err(anyhow::Error::msg)?;
    let options =
        EncodeOptions::new().with_padding(Padding::Longest).with_truncation(Truncation::to(128));
    let (single, texts) = (EncodeOptions::new(), texts(2000));
    for (name, size) in [("single", 1), ("batches of 32", 32), ("batches of 1000", 1000)] {
        let mut ratios = Vec::new();
        for _ in 0..turns {
            let start = Instant::now();
            let mut tokens = 0;
            for batch in texts.chunks(size) {
                let encodings = match size {
                    1 => ours.encode(&batch[0], &single)?.encodings,
                    _ => ours.encode_batch(batch, &options)?.encodings,
                };
                tokens += encodings.iter().map(|it| it.len()).sum::<usize>();
            }
            let time = start.elapsed();
            let start = Instant::now();
            let mut expected = 0;
            for batch in texts.chunks(size) {
                let encodings = match size {
                    1 => plain.encode_char_offsets(&*batch[0], true).map(|it| vec![it]),
                    _ => batching.encode_batch_char_offsets(batch.to_vec(), true),
                };
                let encodings = encodings.map_err(anyhow::Error::msg)?;
                expected += encodings.iter().map(|it| it.len()).sum::<usize>();
            }
            ratios.push(start.elapsed().as_secs_f64() / time.as_secs_f64());
            ensure!(tokens == expected, "{tokens} tokens and {expected}");
        }
        let (middle, least, most) = spread(&ratios);
        println!("{name}: crate / ours {middle:.3} ({least:.3} to {most:.3})");
    }
    Ok(())
}

/// Texts of 5 to 60 words.
fn texts(count: usize) -> Vec<String> {
    let words = [
        "the",
        "weather",
        "in",
        "Berlin",
        "is",
        "unbelievably",
        "caf\u{e9}",
        "nice,",
        "42",
        "\u{4eac}",
    ];
    let mut random = Random(7);
    let mut text = || {
        let length = 5 + random.below(28) + random.below(28);
        let words: Vec<&str> = (0..length).map(|_| words[random.below(10) as usize]).collect();
        words.join(" ")
    };
    (0..count).map(|_| text()).collect()
}
