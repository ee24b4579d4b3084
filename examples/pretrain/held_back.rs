//! What a checkpoint knows, measured with sentences that nothing was learned from.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;
use bert::*;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::corpus::{Grammar, Sentence};

/// How many words are masked, pairs judged, triples ranked.
const COUNTS: [usize; 3] = [300, 400, 50];
const SEED: u64 = 7;

/// Shares from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Of the words that can be told from the rest of their sentence, those that are the first guess.
    pub masked_words: f64,
    /// Of pairs, half of which follow each other, those that are judged right.
    pub next_sentence: f64,
    /// Of triples, those whose paraphrase is more similar than the other text.
    pub similarity: f64,
}

/// A text, one that means the same, and one that does not.
pub type Triple = [String; 3];

/// Texts, held-back sentences of stories, and whether they belong together.
pub struct Pair {
    pub texts: [String; 2],
    pub follows: bool,
}

impl Figures {
    /// Measures a checkpoint.
    pub fn of(checkpoint: &Checkpoint, grammar: &Grammar) -> Result<Self> {
        let load = LoadOptions::new();
        let words = masked_words(grammar)?;
        let fill_mask = FillMaskPipeline::from_pretrained(checkpoint, &load)?;
        let options = FillMaskOptions::new().with_top_k(1);
        let texts = words.iter().map(|(text, _)| text);
        let filled = fill_mask.run_all(texts, &options).collect::<bert::Result<Vec<_>>>()?;
        let is_right = |(masks, (_, word)): &(&Vec<Vec<FilledMask>>, &(String, String))| {
            masks.first().and_then(|it| it.first()).is_some_and(|it| it.token_str == *word)
        };
        let right = filled.iter().zip(&words).filter(is_right).count();
        let masked_words = right as f64 / words.len() as f64;

        let pairs = pairs(grammar)?;
        let next = NextSentencePipeline::from_pretrained(checkpoint, &load)?;
        let mut right = 0;
        for pair in &pairs {
            let [one, two] = &pair.texts;
            let judged = next.run((&**one, &**two), &NextSentenceOptions::new())?;
            right += usize::from((judged.is_next > 0.5) == pair.follows);
        }
        let next_sentence = right as f64 / pairs.len() as f64;

        let triples = triples(grammar)?;
        let encoder = SentenceTransformer::from_pretrained(checkpoint, &load)?;
        let encode = |i: usize| -> bert::Result<Vec<Vec<f32>>> {
            encoder.encode_all(triples.iter().map(|it| &it[i]), &SentenceOptions::new()).collect()
        };
        let [anchors, same, other] = [encode(0)?, encode(1)?, encode(2)?];
        let similar = encoder.similarity(&anchors, &same)?;
        let different = encoder.similarity(&anchors, &other)?;
        let right = (0..triples.len()).filter(|&i| similar[i][i] > different[i][i]).count();
        let similarity = right as f64 / triples.len() as f64;
        Ok(Self { masked_words, next_sentence, similarity })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let percent = |share: f64| 100. * share;
        writeln!(f, "| of sentences that nothing was learned from | right |")?;
        writeln!(f, "|---|---|")?;
        writeln!(f, "| masked words | {:.1} % of {} |", percent(self.masked_words), COUNTS[0])?;
        writeln!(f, "| next sentences | {:.1} % of {} |", percent(self.next_sentence), COUNTS[1])?;
        write!(f, "| similar sentences | {:.1} % of {} |", percent(self.similarity), COUNTS[2])
    }
}

/// Sentences with a mask, and the word.
pub fn masked_words(grammar: &Grammar) -> Result<Vec<(String, String)>> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut words = BTreeSet::new();
    while words.len() < COUNTS[0] {
        for sentence in grammar.document(&mut random)?.iter().filter(|it| it.is_held_back()) {
            let masked = sentence.masked().map(|(text, word)| (text, word.to_lowercase()));
            words.extend(masked.take(COUNTS[0] - words.len()));
        }
    }
    Ok(words.into_iter().collect())
}

/// Half of the pairs are held-back sentences with those before them, half have sentences of another story.
pub fn pairs(grammar: &Grammar) -> Result<Vec<Pair>> {
    const BEFORE: usize = 3;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut pairs = Vec::new();
    let mut seen = BTreeSet::new();
    while pairs.len() < COUNTS[1] {
        let story = grammar.document(&mut random)?;
        let text = |sentences: &[Sentence]| -> String {
            sentences.iter().map(|it| it.text.as_str()).collect::<Vec<_>>().join(" ")
        };
        let held_back = |i: &usize| story[*i].is_held_back();
        let Some(i) = (1..story.len()).find(held_back) else { continue };
        let before = text(&story[i.saturating_sub(BEFORE)..i]);
        let follows = pairs.len() % 2 == 0;
        let second = match follows {
            true => story[i].text.clone(),
            false => {
                let other = grammar.document(&mut random)?;
                let other = other.into_iter().filter(Sentence::is_held_back).collect::<Vec<_>>();
                let Some(sentence) = other.choose(&mut random) else { continue };
                sentence.text.clone()
            }
        };
        if seen.insert((before.clone(), second.clone())) {
            pairs.push(Pair { texts: [before, second], follows });
        }
    }
    Ok(pairs)
}

/// The first or the second text is held back. Half of the third texts are of the same line of a story.
pub fn triples(grammar: &Grammar) -> Result<Vec<Triple>> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut triples = Vec::new();
    let mut meanings = BTreeSet::new();
    while triples.len() < COUNTS[2] {
        let pairs = grammar.paraphrases(2, &mut random)?;
        let own = &pairs[0];
        if !own.texts.iter().any(Sentence::is_held_back) {
            continue;
        }
        let other = match triples.len() % 2 {
            0 => pairs.get(1).cloned(),
            _ => grammar.paraphrases(1, &mut random)?.into_iter().next(),
        };
        let Some(other) = other.filter(|it| it.is_other_than(own)) else { continue };
        if !meanings.insert(own.meaning.clone()) {
            continue;
        }
        let [one, two] = own.texts.clone().map(|it| it.text);
        let [_, other] = other.texts.map(|it| it.text);
        triples.push(if random.random() { [one, two, other] } else { [two, one, other] });
    }
    Ok(triples)
}
