//! Many texts: some are read at a time, encoded, sorted by length and computed in packed batches.

use std::cmp::Reverse;
use std::ops::Range;

use bert_core::{BertConfig, PackedInput};
use bert_tokenize::{
    BatchEncoding, BertTokenizer, EncodeOptions, Encoding, Error as TextError, Side, Text,
    Truncation, Words,
};
use candle_core::Device;

use crate::error::{Error, Result};
use crate::task_error::TaskError;

/// Texts that are read at a time: enough to find others of the same length.
const TEXTS: usize = 512;

/// Bytes of text after which no other text is read: the encodings of some megabytes take a gigabyte.
const BYTES: usize = 1 << 20;

/// What one pass may cost, in tokens.
const TOKENS: usize = 4096;

/// The next texts, of which `size` says how many bytes are encoded.
fn window<T>(texts: &mut impl Iterator<Item = T>, size: impl Fn(&T) -> usize) -> Vec<T> {
    let (mut window, mut bytes) = (Vec::new(), 0);
    while window.len() < TEXTS && bytes < BYTES {
        let Some(text) = texts.next() else { break };
        bytes += size(&text);
        window.push(text);
    }
    window
}

/// The results of texts, of which some are read at a time. `run` gets these and the first one's row. After
/// an error of one text, those before it still have results, and those after it have none.
pub(crate) fn in_windows<T, R>(
    texts: impl IntoIterator<Item = T>,
    size: impl Fn(&T) -> usize,
    run: impl Fn(&[T], usize) -> Result<Vec<R>>,
) -> impl Iterator<Item = Result<R>> {
    let mut texts = texts.into_iter().fuse();
    let (mut ready, mut row, mut error) = (Vec::new().into_iter(), 0, None);
    let mut ended = false;
    std::iter::from_fn(move || {
        if ready.len() == 0 && !ended {
            let window = window(&mut texts, &size);
            let results = run(&window, row).or_else(|mut first| {
                let whole = first.row_mut().map_or(0, |it| it.saturating_sub(row));
                let whole = whole.min(window.len());
                error = Some(first);
                run(&window[..whole], row)
            });
            row += window.len();
            match results {
                Ok(results) => ready = results.into_iter(),
                Err(other) => error = Some(other),
            }
            ended = window.is_empty() || error.is_some();
        }
        ready.next().map(Ok).or_else(|| error.take().map(Err))
    })
}

/// [`in_windows`], where the next texts are encoded by another thread while these are computed. `run` gets
/// encodings, and the number of texts when they are done. Rows of errors count from the first of all texts.
pub(crate) fn in_windows_ahead<T: Send + Sync, R>(
    texts: impl IntoIterator<Item = T>,
    size: impl Fn(&T) -> usize,
    encode: impl Fn(&[T]) -> Result<Vec<Encoding>> + Sync,
    run: impl Fn(&[Encoding], usize) -> Result<Vec<R>>,
) -> impl Iterator<Item = Result<R>> {
    let mut texts = texts.into_iter().fuse();
    let (mut ready, mut ahead) = (Vec::new().into_iter(), Ok(Vec::new()));
    let (mut done, mut ended) = (0, false);
    std::iter::from_fn(move || {
        while ready.len() == 0 && !ended {
            let next = window(&mut texts, &size);
            let results = std::mem::replace(&mut ahead, Ok(Vec::new())).and_then(|encodings| {
                let first = done;
                done += encodings.len();
                let encode_next = || match next.as_slice() {
                    [] => Ok(Vec::new()),
                    next => encode(next).map_err(|error| error.at_row(|row| done + row)),
                };
                if encodings.is_empty() {
                    // The beginning or the end.
                    ahead = encode_next();
                    ended = next.is_empty();
                    return Ok(Vec::new());
                }
                std::thread::scope(|scope| {
                    let encoding = scope.spawn(encode_next);
                    let results = run(&encodings, done);
                    let results = results.map_err(|error| error.at_row(|row| first + row));
                    ahead = encoding.join().unwrap_or_else(|it| std::panic::resume_unwind(it));
                    results
                })
            });
            match results {
                Ok(results) => ready = results.into_iter(),
                Err(error) => {
                    ended = true;
                    return Some(Err(error));
                }
            }
        }
        ready.next().map(Ok)
    })
}

/// Results of encodings in their order, computed in packed batches.
///
/// `cost` says how much of a batch an encoding takes up, in tokens. `run` gets a batch and returns one
/// result for each of its encodings.
pub(crate) fn in_batches<R>(
    encodings: &[Encoding],
    device: &Device,
    cost: impl Fn(&Encoding) -> usize,
    mut run: impl FnMut(&PackedInput, &[&Encoding]) -> Result<Vec<R>>,
) -> Result<Vec<R>> {
    let mut order: Vec<usize> = (0..encodings.len()).collect();
    order.sort_by_key(|i| Reverse(encodings[*i].len()));
    let mut results: Vec<Option<R>> = encodings.iter().map(|_| None).collect();
    let mut rest = &order[..];
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = |i: &&usize| {
            sum += cost(&encodings[**i]);
            sum <= TOKENS
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (batch, others) = rest.split_at(count);
        rest = others;
        let batch_encodings: Vec<&Encoding> = batch.iter().map(|i| &encodings[*i]).collect();
        let input = BatchEncoding::pack(batch_encodings.iter().copied(), device);
        let input = input.map_err(|error| Error::from(error).at_row(|i| batch[i]))?;
        for (i, result) in batch.iter().zip(run(&input, &batch_encodings)?) {
            results[*i] = Some(result);
        }
    }
    Ok(results.into_iter().flatten().collect())
}

/// The most tokens that a model reads of a text.
pub(crate) fn max_length(tokenizer: &BertTokenizer, config: &BertConfig) -> usize {
    let positions = config.max_position_embeddings;
    tokenizer.model_max_length().map_or(positions, |length| length.min(positions))
}

/// The bytes of a text or pair.
pub(crate) fn size(text: Text) -> usize {
    let words = |words: Words| -> usize {
        match words {
            Words::Borrowed(words) => words.iter().map(|word| word.len() + 1).sum(),
            Words::Owned(words) => words.iter().map(|word| word.len() + 1).sum(),
        }
    };
    match text {
        Text::Single(text) => text.len(),
        Text::Pair(first, second) => first.len() + second.len(),
        Text::Words(text) => words(text),
        Text::WordPair(first, second) => words(first) + words(second),
    }
}

/// Encodes texts. `row` says for the caller which one a text is.
///
/// # Errors
/// [`TaskError::TextTooLong`] when one has more tokens than the model reads and [`TaskError::NoRoom`] when
/// what may not be cut leaves no room for what may, `way_out` being what can be done.
pub(crate) fn encode<T>(
    tokenizer: &BertTokenizer,
    config: &BertConfig,
    texts: &[T],
    row: impl Fn(usize) -> usize,
    truncation: Option<Truncation>,
    way_out: &'static str,
) -> Result<BatchEncoding>
where
    for<'t> &'t T: Into<Text<'t>>,
{
    let most = max_length(tokenizer, config);
    // Of a text that is too long, no more is encoded than shows it.
    let shown = || Truncation::to(most.saturating_add(1)).with_side(Side::Right);
    let mut options = EncodeOptions::new();
    options.truncation = Some(truncation.unwrap_or_else(shown));
    let batch = match tokenizer.encode_batch(texts, &options) {
        Err(TextError::Truncation { row: text, .. } | TextError::Stride { row: text, .. }) => {
            return Err(TaskError::NoRoom { row: row(text), way_out }.into());
        }
        batch => batch?,
    };
    let texts = batch.encodings.iter().zip(&batch.overflow_to_sample_mapping);
    for (encoding, text) in texts {
        let row = row(*text);
        if encoding.len() > most {
            return Err(TaskError::TextTooLong { row, most, way_out }.into());
        }
        if encoding.is_empty() {
            return Err(TextError::NoTokens { row }.into());
        }
    }
    Ok(batch)
}

/// Where the characters of a text begin, in bytes.
pub(crate) struct Characters(Vec<usize>);

impl Characters {
    pub(crate) fn of(text: &str) -> Self {
        Self(text.char_indices().map(|(at, _)| at).chain([text.len()]).collect())
    }

    /// The bytes of a range of characters.
    pub(crate) fn bytes(&self, start: usize, end: usize) -> Range<usize> {
        let last = self.0.len() - 1;
        let start = start.min(last);
        self.0[start]..self.0[end.clamp(start, last)]
    }
}
