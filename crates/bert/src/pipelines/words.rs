//! From labeled tokens to labeled words and groups of words.

use bert_core::BertConfig;
use bert_tokenize::BertTokenizer;
use serde::Serialize;

use crate::error::Result;
use crate::scores::argmax;

/// A token with its label, or a group of tokens with one label.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Entity {
    /// The label of a token. Absent for groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// The label of a group, without `B-` or `I-`. Absent for tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_group: Option<String>,
    /// The label's probability; of a group the mean.
    pub score: f32,
    /// The token's index in its text. Absent for groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The token, or the text of the group's tokens.
    pub word: String,
    /// Where it begins in the text.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

impl Entity {
    /// The label of the token or group.
    pub fn label(&self) -> &str {
        self.entity.as_deref().or(self.entity_group.as_deref()).unwrap_or_default()
    }
}

/// How tokens are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AggregationStrategy {
    /// Not at all.
    #[default]
    None,
    /// Neighbors with one label, where `B-` begins a group.
    Simple,
    /// As `Simple`, after each word has got the label of its first token.
    First,
    /// As `Simple`, after each word has got the label with the largest mean probability.
    Average,
    /// As `Simple`, after each word has got the label of its most certain token.
    Max,
}

/// A token of a text and the probabilities of its labels.
pub(super) struct Token {
    pub(super) word: String,
    pub(super) scores: Vec<f32>,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) index: usize,
    /// Whether it belongs to the word of the token before it.
    pub(super) continues_word: bool,
}

/// A token or word with its label.
struct Labeled {
    label: String,
    score: f32,
    word: String,
    start: usize,
    end: usize,
}

/// Tokens or groups of tokens with their labels.
pub(super) fn aggregate(
    tokens: Vec<Token>,
    strategy: AggregationStrategy,
    config: &BertConfig,
    tokenizer: &BertTokenizer,
) -> Result<Vec<Entity>> {
    let labeled = |token: Token| {
        let label = argmax(&token.scores);
        let Token { word, scores, start, end, index, .. } = token;
        (index, Labeled { label: config.label(label), score: scores[label], word, start, end })
    };
    match strategy {
        AggregationStrategy::None => {
            let entities = tokens.into_iter().map(labeled).map(|(index, it)| Entity {
                entity: Some(it.label),
                entity_group: None,
                score: it.score,
                index: Some(index),
                word: it.word,
                start: it.start,
                end: it.end,
            });
            Ok(entities.collect())
        }
        AggregationStrategy::Simple => {
            group(tokens.into_iter().map(|token| labeled(token).1).collect(), tokenizer)
        }
        _ => {
            let mut words: Vec<Vec<Token>> = Vec::new();
            for token in tokens {
                match words.last_mut().filter(|_| token.continues_word) {
                    Some(word) => word.push(token),
                    None => words.push(vec![token]),
                }
            }
            let words = words.into_iter().map(|word| label(word, strategy, config, tokenizer));
            group(words.collect::<Result<_>>()?, tokenizer)
        }
    }
}

/// One label for the tokens of a word.
fn label(
    tokens: Vec<Token>,
    strategy: AggregationStrategy,
    config: &BertConfig,
    tokenizer: &BertTokenizer,
) -> Result<Labeled> {
    let best = |token: &Token| token.scores[argmax(&token.scores)];
    let scores = match strategy {
        AggregationStrategy::Max => {
            let most = tokens.iter().map(best).fold(f32::NEG_INFINITY, f32::max);
            let token = tokens.iter().find(|token| best(token) == most).unwrap_or(&tokens[0]);
            token.scores.clone()
        }
        AggregationStrategy::Average => {
            let sum =
                |label: usize| tokens.iter().map(|it| f64::from(it.scores[label])).sum::<f64>();
            let count = tokens.len() as f64;
            (0..tokens[0].scores.len()).map(|label| (sum(label) / count) as f32).collect()
        }
        _ => tokens[0].scores.clone(),
    };
    let label = argmax(&scores);
    let (start, end) = (tokens[0].start, tokens[tokens.len() - 1].end);
    let word = tokenizer.convert_tokens_to_string(tokens.into_iter().map(|token| token.word))?;
    Ok(Labeled { label: config.label(label), score: scores[label], word, start, end })
}

/// Whether a label begins a group, and its name.
fn tag(label: &str) -> (bool, &str) {
    match label.strip_prefix("B-") {
        Some(name) => (true, name),
        None => (false, label.strip_prefix("I-").unwrap_or(label)),
    }
}

/// Neighbors with one label become one.
fn group(words: Vec<Labeled>, tokenizer: &BertTokenizer) -> Result<Vec<Entity>> {
    let mut groups: Vec<Vec<Labeled>> = Vec::new();
    for word in words {
        let (begins, name) = tag(&word.label);
        let last = groups
            .last_mut()
            .filter(|group| !begins && group.last().is_some_and(|last| tag(&last.label).1 == name));
        match last {
            Some(group) => group.push(word),
            None => groups.push(vec![word]),
        }
    }
    let entities = groups.into_iter().map(|group| {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        let label = first.label.split_once('-').map_or(&*first.label, |(_, name)| name);
        let sum: f64 = group.iter().map(|word| f64::from(word.score)).sum();
        Ok(Entity {
            entity: None,
            entity_group: Some(label.to_owned()),
            score: (sum / group.len() as f64) as f32,
            index: None,
            word: tokenizer.convert_tokens_to_string(group.iter().map(|word| &*word.word))?,
            start: first.start,
            end: last.end,
        })
    });
    entities.collect()
}

/// Of entities that overlap, the longer one, or else the more certain one.
pub(super) fn without_overlaps(mut entities: Vec<Entity>) -> Vec<Entity> {
    entities.sort_by_key(|entity| entity.start);
    let mut kept: Vec<Entity> = Vec::new();
    for entity in entities {
        let length = |it: &Entity| it.end.saturating_sub(it.start);
        match kept.last_mut().filter(|last| entity.start < last.end) {
            None => kept.push(entity),
            Some(last) => {
                let better = length(&entity) > length(last)
                    || length(&entity) == length(last) && entity.score > last.score;
                if better {
                    *last = entity;
                }
            }
        }
    }
    kept
}
