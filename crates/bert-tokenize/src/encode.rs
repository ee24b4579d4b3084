//! From texts to encodings: tokens of each text, then truncation, special tokens and padding.

use rayon::prelude::*;
use tokenizers::tokenizer::PostProcessor;
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{InputSequence, PostProcessorWrapper, Tokenizer};

use crate::beginning::encode_beginnings;
use crate::checks::guarded;
use crate::encoding::{BatchEncoding, Encoding};
use crate::error::{Error, Result};
use crate::options::{EncodeOptions, OffsetUnit, Padding, Side, Truncation, TruncationStrategy};
use crate::template;
use crate::text::{Sequence, Text};
use crate::tokenizer::BertTokenizer;

/// The most tokens that a text can be padded to: far more than the positions of any BERT.
const MOST_PADDED: usize = 1 << 20;

impl BertTokenizer {
    /// Encodes one text or pair.
    ///
    /// # Errors
    /// As [`BertTokenizer::encode_batch`].
    pub fn encode<'a>(
        &self,
        text: impl Into<Text<'a>>,
        options: &EncodeOptions,
    ) -> Result<BatchEncoding> {
        self.encode_batch([text], options)
    }

    /// Encodes texts or pairs in parallel. Without texts the batch is empty.
    ///
    /// `texts` may be `&[&str]`, `&Vec<String>`, arrays, or iterators of texts, pairs, [`Text`]s or, for
    /// texts that are split into words, [`Words`](crate::Words).
    ///
    /// # Errors
    /// [`Error::MaxLength`], [`Error::Truncation`] and [`Error::Stride`] when a text cannot be cut as
    /// asked, [`Error::NoPadToken`] when padding is asked for and there is no padding token,
    /// [`Error::PaddingLength`] for an absurd length.
    pub fn encode_batch<'a, T: Into<Text<'a>>>(
        &self,
        texts: impl IntoIterator<Item = T>,
        options: &EncodeOptions,
    ) -> Result<BatchEncoding> {
        let texts: Vec<Text> = texts.into_iter().map(Into::into).collect();
        let encode = |(row, text): (usize, &Text)| self.encode_row(row, *text, options);
        // A thread of the pool may be busy for a while.
        let rows: Vec<Result<Vec<Encoding>>> = match texts.len() {
            0..=2 => texts.iter().enumerate().map(encode).collect(),
            _ => texts.par_iter().enumerate().map(encode).collect(),
        };
        let mut batch = BatchEncoding { pad_token_id: self.pad_token_id(), ..Default::default() };
        for (row, pieces) in rows.into_iter().enumerate() {
            let pieces = pieces?;
            batch.overflow_to_sample_mapping.resize(batch.encodings.len() + pieces.len(), row);
            batch.encodings.extend(pieces);
        }
        self.pad(&mut batch.encodings, options)?;
        Ok(batch)
    }

    /// The pieces of one text or pair, with special tokens: one, unless the options ask for more.
    fn encode_row(&self, row: usize, text: Text, options: &EncodeOptions) -> Result<Vec<Encoding>> {
        let splits = options.split_special_tokens;
        let tokens =
            match splits.filter(|splits| *splits != self.tokens.get_encode_special_tokens()) {
                Some(splits) => self.with_other_splits.get_or_init(|| {
                    let mut other = self.tokens.clone();
                    other.set_encode_special_tokens(splits);
                    other
                }),
                None => &self.tokens,
            };
        let encode = |sequence| tokens_of(tokens, sequence, options.offsets);
        let side = |truncation: Truncation| truncation.side.unwrap_or(self.truncation_side());
        let only_beginning = |it: &Truncation| it.overflow.is_none() && side(*it) == Side::Right;
        let (mut first, mut second) = match options.truncation.filter(only_beginning) {
            Some(truncation) => encode_beginnings(text, self.cuts.as_ref(), truncation, encode)?,
            None => {
                let (first, second) = text.sequences();
                (encode(first)?, second.map(encode).transpose()?)
            }
        };
        if let Some(second) = &mut second {
            second.set_type_ids(vec![1; second.len()]);
        }
        if let Some(truncation) = options.truncation {
            let special = match options.add_special_tokens {
                true => self.num_special_tokens_to_add(second.is_some()),
                false => 0,
            };
            let direction = match side(truncation) {
                Side::Left => TruncationDirection::Left,
                Side::Right => TruncationDirection::Right,
            };
            truncate(row, &mut first, second.as_mut(), special, truncation, direction)?;
        }
        self.with_special_tokens(first, second, options.add_special_tokens)
    }

    /// The encodings of a text or pair: first the pieces that there are, then the others.
    fn with_special_tokens(
        &self,
        first: tokenizers::Encoding,
        second: Option<tokenizers::Encoding>,
        add_special_tokens: bool,
    ) -> Result<Vec<Encoding>> {
        let mut sequences: Vec<_> = std::iter::once(first).chain(second).collect();
        let in_pieces = sequences.iter().any(|it| !it.get_overflowing().is_empty());
        if let Some(template) = self.template.as_ref().filter(|_| !in_pieces) {
            return Ok(vec![self.finished(template.apply(&sequences, add_special_tokens))]);
        }
        let none = PostProcessorWrapper::Template(template::without_special_tokens());
        let processor = self.special_tokens.as_ref().unwrap_or(&none);
        let second = if sequences.len() > 1 { sequences.pop() } else { None };
        let first = sequences.pop().unwrap_or_default();
        let whole = guarded(|| processor.process(first, second, add_special_tokens))
            .map_err(Error::Tokenizer)?;
        let pieces = std::iter::once(&whole).chain(whole.get_overflowing());
        Ok(pieces.map(|piece| self.finished(piece.into())).collect())
    }

    /// The number of special tokens that a text or a pair gets. Hugging Face:
    /// `num_special_tokens_to_add`.
    pub fn num_special_tokens_to_add(&self, pair: bool) -> usize {
        self.special_tokens.as_ref().map_or(0, |processor| processor.added_tokens(pair))
    }

    /// The encoding with the lowest id in place of each one that means the same.
    fn finished(&self, mut encoding: Encoding) -> Encoding {
        encoding.has_types = self.has_types;
        if !self.twins.is_empty() {
            for (id, token) in encoding.ids.iter_mut().zip(&mut encoding.tokens) {
                if let Some(first) = self.twins.get(id) {
                    *id = *first;
                    *token = self.id_to_token(*first).unwrap_or_default();
                }
            }
        }
        encoding
    }

    fn pad(&self, encodings: &mut [Encoding], options: &EncodeOptions) -> Result<()> {
        let length = match options.padding {
            Padding::None => return Ok(()),
            Padding::Longest => encodings.iter().map(Encoding::len).max().unwrap_or(0),
            Padding::Length(tokens) => tokens,
        };
        let multiple = options.pad_to_multiple_of.max(1);
        for got in [multiple, if options.padding == Padding::Longest { 0 } else { length }] {
            if got > MOST_PADDED {
                return Err(Error::PaddingLength { got, most: MOST_PADDED });
            }
        }
        let length = length.next_multiple_of(multiple);
        let (Some(token), Some(id)) = (self.pad_token(), self.pad_token_id()) else {
            return Err(Error::NoPadToken);
        };
        let side = options.padding_side.unwrap_or(self.padding_side());
        let pad = |encoding: &mut Encoding| encoding.pad(length, side, id, token);
        match encodings.len() {
            0..=64 => encodings.iter_mut().for_each(pad),
            _ => encodings.par_iter_mut().for_each(pad),
        }
        Ok(())
    }
}

/// The tokens of a text, without special tokens.
fn tokens_of(
    tokens: &Tokenizer,
    sequence: Sequence,
    unit: OffsetUnit,
) -> Result<tokenizers::Encoding> {
    let sequence = InputSequence::from(sequence);
    guarded(|| match unit {
        OffsetUnit::Characters => tokens.encode_char_offsets(sequence, false),
        OffsetUnit::Bytes => tokens.encode(sequence, false),
    })
    .map_err(Error::Tokenizer)
}

/// Shortens a text, or the texts of a pair, to `max_length` tokens with those that are special.
fn truncate(
    row: usize,
    first: &mut tokenizers::Encoding,
    second: Option<&mut tokenizers::Encoding>,
    special: usize,
    truncation: Truncation,
    direction: TruncationDirection,
) -> Result<()> {
    let Truncation { max_length, strategy, overflow, .. } = truncation;
    let room =
        max_length.checked_sub(special).ok_or(Error::MaxLength { got: max_length, special })?;
    let lengths = (first.len(), second.as_ref().map(|second| second.len()));
    let shorter = shorter(lengths, room, strategy);
    let (first_length, second_length) =
        shorter.map_err(|(which, reason)| Error::Truncation { row, max_length, which, reason })?;
    for (encoding, length) in [(Some(first), first_length), (second, second_length)] {
        let Some(encoding) = encoding.filter(|encoding| encoding.len() > length) else { continue };
        match overflow {
            Some(got) if got >= length => return Err(Error::Stride { row, got, room: length }),
            Some(stride) => encoding.truncate(length, stride, direction),
            None => {
                encoding.truncate(length, 0, direction);
                drop(encoding.take_overflowing());
            }
        }
    }
    Ok(())
}

/// The lengths of both texts once they fit into `room`, or which text cannot be that short and why.
fn shorter(
    (first, second): (usize, Option<usize>),
    room: usize,
    strategy: TruncationStrategy,
) -> std::result::Result<(usize, usize), (&'static str, &'static str)> {
    let other = second.unwrap_or(0);
    if first + other <= room {
        return Ok((first, other));
    }
    // What remains for a text that alone is shortened.
    let remains = |which, length: Option<usize>, other| match (length, room.checked_sub(other)) {
        (None, _) => Err((which, "there is none")),
        (Some(_), Some(rest)) if rest > 0 => Ok(rest),
        _ => Err((which, "it is too short")),
    };
    match strategy {
        TruncationStrategy::OnlyFirst => Ok((remains("first", Some(first), other)?, other)),
        TruncationStrategy::OnlySecond => Ok((first, remains("second", second, first)?)),
        TruncationStrategy::LongestFirst if second.is_none() => Ok((room, 0)),
        TruncationStrategy::LongestFirst => {
            let half = room / 2;
            let short = first.min(other);
            // The longer one, or the second, gets what the other leaves.
            let (short, long) = match short <= half {
                true => (short, room - short),
                false => (half, room - half),
            };
            Ok(if first > other { (long, short) } else { (short, long) })
        }
    }
}
