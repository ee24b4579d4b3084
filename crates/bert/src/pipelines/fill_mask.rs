//! Words for masks.

use bert_core::BertForMaskedLM;
use bert_tokenize::{BertTokenizer, DecodeOptions, EncodeOptions, Encoding, Text, Truncation};
use serde::Serialize;

use super::pipeline;
use crate::batches::{encode, in_batches, max_length};
use crate::error::Result;
use crate::scores::{largest, rows, softmax};
use crate::task_error::TaskError;

/// What the scores of a mask take up of a batch, in tokens: they are many numbers.
const MASK_COST: usize = 32;

pipeline! {
    /// The most likely words for each `[MASK]` of a text: a list for each mask, the most likely word first.
    /// Hugging Face: `FillMaskPipeline`.
    ///
    /// ```
    /// use bert::{Checkpoint, FillMaskOptions, FillMaskPipeline, LoadOptions};
    ///
    /// # fn main() -> bert::Result<()> {
    /// let options = LoadOptions::new();
    /// let fill_mask = FillMaskPipeline::from_pretrained(Checkpoint::built_in(), &options)?;
    /// let masks = fill_mask.run("My [MASK] is barking.", &FillMaskOptions::new().with_top_k(3))?;
    /// assert_eq!((masks.len(), masks[0].len()), (1, 3));
    /// assert_eq!(masks[0][0].sequence, "my dog is barking.");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskError::NoMask`] for a text without a mask, [`TaskError::TextTooLong`] for one that the model cannot
    /// read whole unless [`FillMaskOptions::with_truncation`] allows to cut it, [`TaskError::NoTargets`] and
    /// [`TaskError::Option`] for options that cannot be.
    FillMaskPipeline(BertForMaskedLM, BertForMaskedLM, FillMaskOptions) -> Vec<Vec<FilledMask>>
}

/// A word for a mask.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FilledMask {
    /// Its probability.
    pub score: f32,
    /// Its id.
    pub token: u32,
    /// The word.
    pub token_str: String,
    /// The text with the word. Other masks stay.
    pub sequence: String,
}

/// The options of [`FillMaskPipeline`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FillMaskOptions {
    /// The number of words for each mask. Default: 5.
    pub top_k: usize,
    /// The words that count. Default: all.
    pub targets: Option<Vec<String>>,
    /// Whether texts that are too long are cut. Default: they are an error.
    pub truncation: bool,
}

impl Default for FillMaskOptions {
    fn default() -> Self {
        Self { top_k: 5, targets: None, truncation: false }
    }
}

impl FillMaskOptions {
    /// The five most likely words.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`FillMaskOptions::top_k`].
    pub fn with_top_k(self, words: usize) -> Self {
        Self { top_k: words, ..self }
    }

    /// Chooses among these words only. Of one that the vocabulary does not have, the first token
    /// counts, or the last one if the tokenizer cuts texts on the left.
    pub fn with_targets<W: Into<String>>(self, words: impl IntoIterator<Item = W>) -> Self {
        Self { targets: Some(words.into_iter().map(Into::into).collect()), ..self }
    }

    /// Cuts the end of texts that are longer than the model reads.
    pub fn with_truncation(self) -> Self {
        Self { truncation: true, ..self }
    }
}

impl FillMaskPipeline {
    fn window<T>(
        &self,
        texts: &[T],
        first_row: usize,
        options: &FillMaskOptions,
    ) -> Result<Vec<Vec<Vec<FilledMask>>>>
    where
        for<'t> &'t T: Into<Text<'t>>,
    {
        let (model, tokenizer) = (&self.model, &self.tokenizer);
        let config = model.bert.config();
        let mask = tokenizer.mask_token_id().ok_or(TaskError::NoMaskToken)?;
        if options.top_k == 0 {
            return Err(TaskError::option("top_k", 0, "1 or more").into());
        }
        let words = options.targets.as_deref().map(|words| self.ids_of(words)).transpose()?;
        let truncation = options.truncation.then(|| Truncation::to(max_length(tokenizer, config)));
        let way_out = "ask for FillMaskOptions::with_truncation, or shorten it";
        let batch = encode(tokenizer, config, texts, |row| first_row + row, truncation, way_out)?;
        let masks = |it: &Encoding| it.ids.iter().filter(|id| **id == mask).count();
        if let Some(row) = batch.encodings.iter().position(|it| masks(it) == 0) {
            let token = tokenizer.mask_token().unwrap_or_default().to_owned();
            return Err(TaskError::NoMask { row: first_row + row, token }.into());
        }
        let cost = |it: &Encoding| it.len() + MASK_COST * masks(it);
        in_batches(&batch.encodings, model.bert.device(), cost, |input, encodings| {
            let ids = encodings.iter().flat_map(|it| &it.ids).enumerate();
            let positions = ids.filter(|(_, id)| **id == mask).map(|(position, _)| position);
            let scores = model.scores_at_packed(input, &positions.collect::<Vec<_>>())?;
            let mut scores = rows(&scores)?.into_iter();
            let filled = |it: &&Encoding| self.filled(it, mask, &mut scores, &words, options);
            encodings.iter().map(filled).collect()
        })
    }

    /// The words for the masks of one text.
    fn filled(
        &self,
        encoding: &Encoding,
        mask: u32,
        scores: &mut impl Iterator<Item = Vec<f32>>,
        words: &Option<Vec<u32>>,
        options: &FillMaskOptions,
    ) -> Result<Vec<Vec<FilledMask>>> {
        let at: Vec<usize> =
            (0..encoding.len()).filter(|position| encoding.ids[*position] == mask).collect();
        let mut skip = DecodeOptions::new();
        // The other masks are special tokens too.
        skip.skip_special_tokens = at.len() == 1;
        let mut masks = Vec::with_capacity(at.len());
        for (position, scores) in at.into_iter().zip(scores) {
            let all = softmax(&scores);
            let chosen: Vec<f32> = match words {
                Some(words) => words.iter().map(|id| all[*id as usize]).collect(),
                None => all,
            };
            let filled = largest(&chosen, options.top_k).into_iter().map(|i| {
                let token = words.as_ref().map_or(i as u32, |words| words[i]);
                let mut ids = encoding.ids.clone();
                ids[position] = token;
                ids.retain(|id| Some(*id) != self.tokenizer.pad_token_id());
                let token_str = self.tokenizer.decode(&[token])?;
                let sequence = self.tokenizer.decode_with(&ids, &skip)?;
                Ok(FilledMask { score: chosen[i], token, token_str, sequence })
            });
            masks.push(filled.collect::<Result<Vec<_>>>()?);
        }
        Ok(masks)
    }

    /// The ids of words: of one that the vocabulary does not have, that of the one token to which it is cut.
    fn ids_of(&self, words: &[String]) -> Result<Vec<u32>> {
        let (mut ids, vocab_size) = (Vec::new(), self.model.bert.config().vocab_size);
        for word in words {
            let id = match self.tokenizer.token_to_id(word) {
                Some(id) => Some(id),
                None => one_token(&self.tokenizer, word)?,
            };
            if id.is_some_and(|id| id as usize >= vocab_size) {
                let expected = format!(
                    "one of the model's {vocab_size} words; resize_token_embeddings makes room for new ones"
                );
                return Err(TaskError::option("target", format!("{word:?}"), expected).into());
            }
            ids.extend(id.filter(|id| !ids.contains(id)));
        }
        if ids.is_empty() {
            return Err(TaskError::NoTargets { got: words.to_vec() }.into());
        }
        Ok(ids)
    }
}

fn one_token(tokenizer: &BertTokenizer, word: &str) -> Result<Option<u32>> {
    let options = EncodeOptions::new().without_special_tokens();
    let options = options.with_truncation(Truncation::to(1));
    let batch = tokenizer.encode(word, &options)?;
    Ok(batch.encodings.iter().flat_map(|it| &it.ids).next().copied())
}
