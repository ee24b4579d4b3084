//! Labels of words, as for named entities.

use bert_core::{BertForTokenClassification, Head};
use bert_tokenize::{Encoding, OffsetUnit, Text, Truncation, Words};

use super::pipeline;
use super::words::{AggregationStrategy, Entity, Token, aggregate, without_overlaps};
use crate::batches::{Characters, encode, in_batches, max_length};
use crate::error::Result;
use crate::scores::{rows, softmax};
use crate::task_error::TaskError;

pipeline! {
    /// The labels of a text's tokens or words, as for named entities. Hugging Face:
    /// `TokenClassificationPipeline`.
    ///
    /// ```
    /// use bert::*;
    ///
    /// # fn main() -> bert::Result<()> {
    /// // The built-in checkpoint has no classifier: a new one knows nothing.
    /// let options = LoadOptions::new().with_labels(["O", "B-PER", "I-PER"]).with_missing_initialized(0);
    /// let tagger = TokenClassificationPipeline::from_pretrained(Checkpoint::built_in(), &options)?;
    /// let options =
    ///     TokenClassificationOptions::new().with_aggregation_strategy(AggregationStrategy::Simple);
    /// for entity in tagger.run("my dog Wolfgang is cute", &options)? {
    ///     println!("{} {:.2} {}", entity.label(), entity.score, entity.word);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskError::TextTooLong`] for a text that the model cannot read whole, unless
    /// [`TokenClassificationOptions::with_stride`] has it read in pieces or
    /// [`TokenClassificationOptions::with_truncation`] allows to cut it; [`TaskError::NoRoom`](crate::errors::TaskError::NoRoom) for a stride that
    /// leaves no room; [`TaskError::IsAPair`] for pairs.
    TokenClassificationPipeline(
        BertForTokenClassification, BertForTokenClassification, TokenClassificationOptions
    ) -> Vec<Entity>
}

/// The options of [`TokenClassificationPipeline`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenClassificationOptions {
    /// How tokens are grouped. Default: not at all.
    pub aggregation_strategy: AggregationStrategy,
    /// The labels that are left out. Default: `O`.
    pub ignore_labels: Vec<String>,
    /// The tokens that pieces of a long text have in common. Default: long texts are not read in pieces.
    pub stride: Option<usize>,
    /// What stands between the words of a text that is given as words, for `start` and `end`. Default: a
    /// space.
    pub delimiter: String,
    /// The unit of `start` and `end`. Default: characters.
    pub offsets: OffsetUnit,
    /// Whether texts that are too long are cut. Default: they are an error.
    pub truncation: bool,
}

impl Default for TokenClassificationOptions {
    fn default() -> Self {
        Self {
            aggregation_strategy: AggregationStrategy::None,
            ignore_labels: vec!["O".to_owned()],
            stride: None,
            delimiter: " ".to_owned(),
            offsets: OffsetUnit::Characters,
            truncation: false,
        }
    }
}

impl TokenClassificationOptions {
    /// Each token by itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`TokenClassificationOptions::aggregation_strategy`].
    pub fn with_aggregation_strategy(self, strategy: AggregationStrategy) -> Self {
        Self { aggregation_strategy: strategy, ..self }
    }

    /// Sets [`TokenClassificationOptions::ignore_labels`].
    pub fn with_ignore_labels<L: Into<String>>(self, labels: impl IntoIterator<Item = L>) -> Self {
        Self { ignore_labels: labels.into_iter().map(Into::into).collect(), ..self }
    }

    /// Reads long texts in pieces that have `tokens` in common. Of entities that overlap, the longer one
    /// counts, or else the more certain one. An [`Entity::index`] is that in its piece.
    pub fn with_stride(self, tokens: usize) -> Self {
        Self { stride: Some(tokens), ..self }
    }

    /// Sets [`TokenClassificationOptions::delimiter`].
    pub fn with_delimiter(self, delimiter: impl Into<String>) -> Self {
        Self { delimiter: delimiter.into(), ..self }
    }

    /// Sets [`TokenClassificationOptions::offsets`].
    pub fn with_offsets(self, unit: OffsetUnit) -> Self {
        Self { offsets: unit, ..self }
    }

    /// Cuts the end of texts that are longer than the model reads.
    pub fn with_truncation(self) -> Self {
        Self { truncation: true, ..self }
    }
}

/// A text, and where each of its words begins if it was given as words, in characters.
struct Sentence {
    text: String,
    words: Option<Vec<usize>>,
    characters: Characters,
}

impl Sentence {
    fn new(text: Text, delimiter: &str) -> Option<Self> {
        let (text, words) = match text {
            Text::Single(text) => (text.to_owned(), None),
            Text::Words(Words::Borrowed(words)) => joined(words, delimiter),
            Text::Words(Words::Owned(words)) => joined(words, delimiter),
            Text::Pair(..) | Text::WordPair(..) => return None,
        };
        let characters = Characters::of(&text);
        Some(Self { text, words, characters })
    }

    fn slice(&self, start: usize, end: usize) -> &str {
        &self.text[self.characters.bytes(start, end)]
    }
}

fn joined<W: AsRef<str>>(words: &[W], delimiter: &str) -> (String, Option<Vec<usize>>) {
    let (mut text, mut starts, mut at) = (String::new(), Vec::new(), 0);
    let between = delimiter.chars().count();
    for (i, word) in words.iter().enumerate() {
        text.push_str(if i > 0 { delimiter } else { "" });
        text.push_str(word.as_ref());
        starts.push(at);
        at += word.as_ref().chars().count() + between;
    }
    (text, Some(starts))
}

impl TokenClassificationPipeline {
    fn window<T>(
        &self,
        texts: &[T],
        first_row: usize,
        options: &TokenClassificationOptions,
    ) -> Result<Vec<Vec<Entity>>>
    where
        for<'t> &'t T: Into<Text<'t>>,
    {
        let (model, tokenizer) = (&self.model, &self.tokenizer);
        let config = model.bert.config();
        let strategy = options.aggregation_strategy;
        let sentences = texts.iter().enumerate().map(|(row, text)| {
            let sentence = Sentence::new(text.into(), &options.delimiter);
            sentence.ok_or_else(|| TaskError::IsAPair { row: first_row + row }.into())
        });
        let sentences = sentences.collect::<Result<Vec<_>>>()?;
        let truncation = (options.stride.is_some() || options.truncation).then(|| {
            let whole = Truncation::to(max_length(tokenizer, config));
            options.stride.map_or(whole, |stride| whole.with_overflow(stride))
        });
        let way_out = "ask for TokenClassificationOptions::with_stride, with a smaller stride, or with_truncation";
        let batch = encode(tokenizer, config, texts, |row| first_row + row, truncation, way_out)?;
        let scores = in_batches(
            &batch.encodings,
            model.bert.device(),
            |it| it.len(),
            |input, encodings| {
                let mut scores = rows(&model.forward_packed(input)?.logits)?.into_iter();
                let pieces = encodings.iter().map(|it| {
                    scores.by_ref().take(it.len()).map(|scores| softmax(&scores)).collect()
                });
                Ok(pieces.collect::<Vec<Vec<Vec<f32>>>>())
            },
        )?;
        let mut entities: Vec<(usize, Vec<Entity>)> =
            sentences.iter().map(|_| (0, vec![])).collect();
        let pieces = batch.encodings.iter().zip(&batch.overflow_to_sample_mapping).zip(scores);
        for ((encoding, row), scores) in pieces {
            let tokens = self.tokens(&sentences[*row], encoding, scores);
            let mut grouped = aggregate(tokens, strategy, config, tokenizer)?;
            grouped.retain(|it| !options.ignore_labels.iter().any(|label| label == it.label()));
            entities[*row].0 += 1;
            entities[*row].1.extend(grouped);
        }
        let entities =
            entities.into_iter().zip(&sentences).map(|((pieces, entities), sentence)| {
                let mut entities = if pieces > 1 { without_overlaps(entities) } else { entities };
                if options.offsets == OffsetUnit::Bytes {
                    for entity in &mut entities {
                        let bytes = sentence.characters.bytes(entity.start, entity.end);
                        (entity.start, entity.end) = (bytes.start, bytes.end);
                    }
                }
                entities
            });
        Ok(entities.collect())
    }

    /// The tokens of a piece of a text with what is needed to group them.
    fn tokens(
        &self,
        sentence: &Sentence,
        encoding: &Encoding,
        scores: Vec<Vec<f32>>,
    ) -> Vec<Token> {
        let knows_words =
            self.tokenizer.continuing_subword_prefix().is_some_and(|it| !it.is_empty());
        let unknown = self.tokenizer.unk_token_id();
        let of_text = scores.into_iter().enumerate();
        let of_text = of_text.filter(|(index, _)| encoding.special_tokens_mask[*index] == 0);
        of_text
            .map(|(index, scores)| {
                let (mut start, mut end) = encoding.offsets[index];
                if let (Some(words), Some(word)) = (&sentence.words, encoding.word_ids[index]) {
                    start += words[word as usize];
                    end += words[word as usize];
                }
                let in_text = sentence.slice(start, end);
                let is_unknown = Some(encoding.ids[index]) == unknown;
                // What was matched of a text may be longer than the token.
                let token = self.tokenizer.id_to_token(encoding.ids[index]);
                let token = token.unwrap_or_else(|| encoding.tokens[index].clone());
                let continues_word = match knows_words {
                    true => token.chars().count() != in_text.chars().count(),
                    false => start > 0 && !sentence.slice(start - 1, start + 1).contains(' '),
                };
                Token {
                    word: if is_unknown { in_text.to_owned() } else { token },
                    scores,
                    start,
                    end,
                    index,
                    continues_word: continues_word && !is_unknown,
                }
            })
            .collect()
    }
}
