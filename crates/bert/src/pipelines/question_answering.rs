//! Answers from a text.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bert_core::{BertForQuestionAnswering, Head};
use bert_tokenize::{
    BatchEncoding, Encoding, OffsetUnit, Side, Text, Truncation, TruncationStrategy,
};
use serde::Serialize;

use super::pipeline;
use crate::batches::{Characters, encode, in_batches, max_length};
use crate::error::Result;
use crate::scores::{column, largest, softmax};
use crate::task_error::TaskError;

/// What transformers reads at a time, at most.
const MAX_SEQ_LEN: usize = 384;
/// What pieces of a text have in common, at most.
const DOC_STRIDE: usize = 128;

pipeline! {
    /// The most likely answers to a question, each a part of a text. A pair is the question and the text.
    /// Long texts are read in pieces. Hugging Face: `QuestionAnsweringPipeline`, until version 4.
    ///
    /// ```
    /// use bert::*;
    ///
    /// # fn main() -> bert::Result<()> {
    /// // The built-in checkpoint has no head for answers: a new one knows nothing.
    /// let options = LoadOptions::new().with_missing_initialized(0);
    /// let pipeline = QuestionAnsweringPipeline::from_pretrained(Checkpoint::built_in(), &options)?;
    /// let text = "My dog is called Wolfgang.";
    /// let options = QuestionAnsweringOptions::new().with_offsets(OffsetUnit::Bytes);
    /// let answers = pipeline.run(("what is the dog's name?", text), &options)?;
    /// assert_eq!(&text[answers[0].start..answers[0].end], answers[0].answer);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskError::NotAPair`] for a single text or for words, [`TaskError::Option`] for options that cannot be, and
    /// [`TaskError::NoRoom`] for a question that leaves no room for the text.
    QuestionAnsweringPipeline(
        BertForQuestionAnswering, BertForQuestionAnswering, QuestionAnsweringOptions
    ) -> Vec<Answer>
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// Its probability. Probabilities of the same answer in several places are added up.
    pub score: f32,
    /// Where it begins in the text.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// That part of the text. Empty if there may be no answer and that is likely.
    pub answer: String,
}

/// The options of [`QuestionAnsweringPipeline`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuestionAnsweringOptions {
    /// The number of answers; there may be fewer. Default: 1.
    pub top_k: usize,
    /// The most tokens of an answer. Default: 15.
    pub max_answer_len: usize,
    /// The tokens of question and piece. Default: 384, or fewer if the model reads fewer.
    pub max_seq_len: Option<usize>,
    /// The tokens that pieces of a long text have in common. Default: half of `max_seq_len`, at most 128.
    pub doc_stride: Option<usize>,
    /// Whether there may be no answer. Default: no.
    pub handle_impossible_answer: bool,
    /// Whether answers are whole words. Default: yes.
    pub align_to_words: bool,
    /// The unit of `start` and `end`. Default: characters.
    pub offsets: OffsetUnit,
}

impl Default for QuestionAnsweringOptions {
    fn default() -> Self {
        Self {
            top_k: 1,
            max_answer_len: 15,
            max_seq_len: None,
            doc_stride: None,
            handle_impossible_answer: false,
            align_to_words: true,
            offsets: OffsetUnit::Characters,
        }
    }
}

impl QuestionAnsweringOptions {
    /// The most likely answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`QuestionAnsweringOptions::top_k`].
    pub fn with_top_k(self, answers: usize) -> Self {
        Self { top_k: answers, ..self }
    }

    /// Sets [`QuestionAnsweringOptions::max_answer_len`].
    pub fn with_max_answer_len(self, tokens: usize) -> Self {
        Self { max_answer_len: tokens, ..self }
    }

    /// Sets [`QuestionAnsweringOptions::max_seq_len`].
    pub fn with_max_seq_len(self, tokens: usize) -> Self {
        Self { max_seq_len: Some(tokens), ..self }
    }

    /// Sets [`QuestionAnsweringOptions::doc_stride`].
    pub fn with_doc_stride(self, tokens: usize) -> Self {
        Self { doc_stride: Some(tokens), ..self }
    }

    /// Allows that there is no answer: [`Answer::answer`] is then empty.
    pub fn with_impossible_answer(self) -> Self {
        Self { handle_impossible_answer: true, ..self }
    }

    /// Allows answers that end inside of words.
    pub fn without_alignment(self) -> Self {
        Self { align_to_words: false, ..self }
    }

    /// Sets [`QuestionAnsweringOptions::offsets`].
    pub fn with_offsets(self, unit: OffsetUnit) -> Self {
        Self { offsets: unit, ..self }
    }

    /// The tokens of a piece with its question, and those that pieces have in common.
    fn lengths(&self, longest: usize) -> Result<(usize, usize)> {
        for (option, got) in [("top_k", self.top_k), ("max_answer_len", self.max_answer_len)] {
            if got == 0 {
                return Err(TaskError::option(option, got, "1 or more").into());
            }
        }
        let length = self.max_seq_len.unwrap_or(MAX_SEQ_LEN.min(longest));
        if length > longest {
            let expected = format!("at most {longest}, which is what the model reads");
            return Err(TaskError::option("max_seq_len", length, expected).into());
        }
        Ok((length, self.doc_stride.unwrap_or(DOC_STRIDE.min(length / 2))))
    }
}

/// The tokens of an answer, and its probability.
struct Span {
    first: usize,
    last: usize,
    score: f32,
}

/// The answers of one piece of a text.
struct Found {
    spans: Vec<Span>,
    /// The probability that there is none.
    none: f32,
}

impl QuestionAnsweringPipeline {
    fn window<T>(
        &self,
        texts: &[T],
        first_row: usize,
        options: &QuestionAnsweringOptions,
    ) -> Result<Vec<Vec<Answer>>>
    where
        for<'t> &'t T: Into<Text<'t>>,
    {
        let pairs = texts.iter().enumerate().map(|(row, text)| match text.into() {
            Text::Pair(question, text) => Ok((question, text)),
            _ => Err(TaskError::NotAPair { row: first_row + row }.into()),
        });
        let pairs = pairs.collect::<Result<Vec<(&str, &str)>>>()?;
        let batch = self.pieces(&pairs, first_row, options)?;
        let found = self.found(&batch.encodings, options)?;
        let mut answers: Vec<Answers> = pairs.iter().map(|(_, text)| Answers::of(text)).collect();
        let pieces = batch.encodings.iter().zip(&batch.overflow_to_sample_mapping).zip(found);
        for ((encoding, row), found) in pieces {
            let none = &mut answers[*row].none;
            *none = if found.none < *none || found.none.is_nan() { found.none } else { *none };
            for span in found.spans {
                let whole_words = options.align_to_words;
                let (start, end) = place(encoding, &span, self.sequence(), whole_words);
                answers[*row].add(start, end, span.score);
            }
        }
        Ok(answers.into_iter().map(|answers| answers.best(options)).collect())
    }

    /// Which of a pair is the text: as in transformers, by the side of padding.
    fn sequence(&self) -> usize {
        usize::from(self.tokenizer.padding_side() == Side::Right)
    }

    /// Questions, each with a piece of its text.
    fn pieces(
        &self,
        pairs: &[(&str, &str)],
        first_row: usize,
        options: &QuestionAnsweringOptions,
    ) -> Result<BatchEncoding> {
        let (tokenizer, config) = (&self.tokenizer, self.model.bert.config());
        let (length, stride) = options.lengths(max_length(tokenizer, config))?;
        let (inputs, strategy): (Vec<Text>, _) = match self.sequence() {
            1 => (pairs.iter().map(Text::from).collect(), TruncationStrategy::OnlySecond),
            _ => (
                pairs.iter().map(|(question, text)| Text::Pair(text, question)).collect(),
                TruncationStrategy::OnlyFirst,
            ),
        };
        let truncation = Truncation::to(length).with_strategy(strategy).with_overflow(stride);
        let row = |row| first_row + row;
        let way_out = "shorten the question, or give a larger max_seq_len or a smaller doc_stride";
        encode::<Text>(tokenizer, config, &inputs, row, Some(truncation), way_out)
    }

    /// The answers of each piece.
    fn found(
        &self,
        encodings: &[Encoding],
        options: &QuestionAnsweringOptions,
    ) -> Result<Vec<Found>> {
        let is_text = |it: &Encoding, i: usize| {
            // The first token stands for no answer.
            it.sequence_ids[i] == Some(self.sequence())
                || i == 0 && Some(it.ids[i]) == self.tokenizer.cls_token_id()
        };
        in_batches(encodings, self.model.bert.device(), Encoding::len, |input, encodings| {
            let output = self.model.forward_packed(input)?;
            let (starts, ends) = (column(&output.start_logits)?, column(&output.end_logits)?);
            let pieces = encodings.iter().zip(input.cumulative_lengths.windows(2));
            let found = pieces.map(|(it, rows)| {
                let allowed: Vec<bool> = (0..it.len()).map(|i| is_text(it, i)).collect();
                let rows = rows[0]..rows[1];
                find(&starts[rows.clone()], &ends[rows], &allowed, options)
            });
            Ok(found.collect())
        })
    }
}

/// The most likely answers of a piece.
fn find(
    starts: &[f32],
    ends: &[f32],
    allowed: &[bool],
    options: &QuestionAnsweringOptions,
) -> Found {
    let probabilities = |scores: &[f32]| {
        let masked = scores.iter().zip(allowed);
        softmax(&masked.map(|(x, is)| if *is { *x } else { -10_000. }).collect::<Vec<_>>())
    };
    let (mut starts, mut ends) = (probabilities(starts), probabilities(ends));
    let none = starts.first().zip(ends.first()).map_or(0., |(start, end)| start * end);
    // The first token means that there is no answer.
    for scores in [&mut starts, &mut ends] {
        scores.iter_mut().take(1).for_each(|score| *score = 0.);
    }
    let mut spans = Vec::new();
    // Scores that are no numbers are shown, not taken for no answer.
    for first in (0..starts.len()).filter(|i| allowed[*i] && starts[*i] != 0.) {
        let lasts = first..starts.len().min(first.saturating_add(options.max_answer_len));
        let lasts = lasts.filter(|i| allowed[*i] && ends[*i] != 0.);
        spans.extend(lasts.map(|last| Span { first, last, score: starts[first] * ends[last] }));
    }
    // Some become the same answer once they are whole words.
    let count = match options.align_to_words {
        true => options.top_k.saturating_mul(2).saturating_add(10),
        false => options.top_k,
    };
    let scores: Vec<f32> = spans.iter().map(|span| span.score).collect();
    let mut spans: Vec<Option<Span>> = spans.into_iter().map(Some).collect();
    let order = largest(&scores, count);
    Found { spans: order.into_iter().filter_map(|i| spans[i].take()).collect(), none }
}

/// Where a span begins and ends in the text, in characters; with `whole_words` at the borders of words, as
/// far as they are in this piece.
fn place(encoding: &Encoding, span: &Span, sequence: usize, whole_words: bool) -> (usize, usize) {
    let offsets = |token: usize| match encoding.word_ids[token].filter(|_| whole_words) {
        Some(word) => {
            let is_of_word = |i: &usize| {
                encoding.sequence_ids[*i] == Some(sequence) && encoding.word_ids[*i] == Some(word)
            };
            let mut tokens = (0..encoding.len()).filter(is_of_word).map(|i| encoding.offsets[i]);
            let first = tokens.next().unwrap_or_default();
            (first.0, tokens.next_back().unwrap_or(first).1)
        }
        None => encoding.offsets[token],
    };
    (offsets(span.first).0, offsets(span.last).1)
}

/// The answers from all pieces of a text.
struct Answers<'a> {
    text: &'a str,
    characters: Characters,
    answers: Vec<Answer>,
    /// The answers by their texts in small letters.
    known: HashMap<String, usize>,
    /// The probability that there is no answer: the smallest of all pieces.
    none: f32,
}

impl<'a> Answers<'a> {
    fn of(text: &'a str) -> Self {
        let characters = Characters::of(text);
        Self { text, characters, answers: Vec::new(), known: HashMap::new(), none: f32::INFINITY }
    }

    /// Adds an answer. The same one counts once, with the sum of its probabilities.
    fn add(&mut self, start: usize, end: usize, score: f32) {
        let answer = &self.text[self.characters.bytes(start, end)];
        match self.known.entry(answer.to_lowercase()) {
            Entry::Occupied(known) => self.answers[*known.get()].score += score,
            Entry::Vacant(new) => {
                new.insert(self.answers.len());
                self.answers.push(Answer { score, start, end, answer: answer.to_owned() });
            }
        }
    }

    fn best(self, options: &QuestionAnsweringOptions) -> Vec<Answer> {
        let mut answers = self.answers;
        if options.handle_impossible_answer {
            answers.push(Answer { score: self.none, start: 0, end: 0, answer: String::new() });
        }
        answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        answers.truncate(options.top_k);
        if options.offsets == OffsetUnit::Bytes {
            for answer in &mut answers {
                let bytes = self.characters.bytes(answer.start, answer.end);
                (answer.start, answer.end) = (bytes.start, bytes.end);
            }
        }
        answers
    }
}
