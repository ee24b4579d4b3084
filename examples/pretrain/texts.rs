//! What is learned from: documents, whose sentences follow one another.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;
use sha2::{Digest, Sha256};

use super::corpus::{Grammar, Sentence};

/// Sentences of a grammar, or of files.
pub enum Texts {
    Grammar(Grammar),
    /// The sentences of each document.
    Documents(Vec<Vec<String>>),
}

/// A text, perhaps with a second one, and whether that one follows it.
pub struct Example {
    pub first: String,
    /// The second text, and whether it follows or is from elsewhere.
    pub second: Option<(String, bool)>,
}

impl Example {
    /// About how long it is.
    pub fn len(&self) -> usize {
        self.first.len() + self.second.as_ref().map_or(0, |(text, _)| text.len())
    }
}

/// The share of examples that are a single sentence. In a story a model can copy a masked word from another
/// sentence; here it must know the word.
const SINGLE: f64 = 0.5;
/// How many paraphrases at a time come from one line of a story.
const ALIKE: usize = 4;
/// The most sentences of a text.
const MOST: usize = 3;

impl Texts {
    /// Reads files in UTF-8: a sentence in each line, an empty line between two documents.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut documents = Vec::new();
        for path in paths {
            let name = || path.display().to_string();
            let bytes = std::fs::read(path).with_context(name)?;
            let text = String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                anyhow!("{} is not UTF-8: see byte {at}", path.display())
            })?;
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            // A line of invisible characters has no tokens.
            let is_empty = |line: &&str| !line.contains(|it: char| it.is_alphanumeric());
            for document in lines.split(is_empty).filter(|it| !it.is_empty()) {
                documents.push(document.iter().map(|line| (*line).to_owned()).collect());
            }
        }
        ensure!(
            documents.len() > 1,
            "the files have {} documents: at least 2 are needed, with an empty line between them",
            documents.len()
        );
        let has_pairs = documents.iter().any(|document: &Vec<_>| document.len() > 1);
        ensure!(has_pairs, "no document has two lines: write each sentence into a line of its own");
        let differ = documents.iter().any(|document| *document != documents[0]);
        ensure!(differ, "all documents are the same");
        Ok(Self::Documents(documents))
    }

    /// The sentences of a document. Of a grammar, none is held back.
    pub fn document(&self, random: &mut impl Rng) -> Result<Vec<String>> {
        let grammar = match self {
            Self::Grammar(grammar) => grammar,
            Self::Documents(all) => return Ok(all.choose(random).context("no documents")?.clone()),
        };
        loop {
            let document = grammar.document(random)?;
            if !document.iter().any(Sentence::is_held_back) {
                return Ok(document.into_iter().map(|sentence| sentence.text).collect());
            }
        }
    }

    /// Some pairs of texts that mean the same, and what each means. Those of a grammar are alike, so that
    /// a model must look closely. Those of files are a sentence twice: dropout makes two of it, as in
    /// Gao et al. 2021.
    pub fn paraphrases(&self, random: &mut impl Rng) -> Result<Vec<([String; 2], String)>> {
        let Self::Grammar(grammar) = self else {
            let document = self.document(random)?;
            let sentence = document.choose(random).context("no sentences")?;
            return Ok(vec![([sentence.clone(), sentence.clone()], sentence.clone())]);
        };
        let mut pairs = grammar.paraphrases(ALIKE, random)?;
        pairs.retain(|pair| !pair.texts.iter().any(Sentence::is_held_back));
        Ok(pairs.into_iter().map(|it| (it.texts.map(|it| it.text), it.meaning)).collect())
    }

    /// An example for both tasks of the paper, or a single sentence.
    pub fn example(&self, random: &mut impl Rng) -> Result<Example> {
        let document = self.document(random)?;
        if document.len() < 2 || random.random_bool(SINGLE) {
            let first = document.choose(random).context("no sentences")?.clone();
            return Ok(Example { first, second: None });
        }
        let middle = random.random_range(1..document.len());
        let first =
            document[..middle].split_at(middle - random.random_range(1..=middle.min(MOST))).1;
        let follows = random.random();
        let second = match follows {
            true => beginning(&document[middle..], random),
            false => {
                let mut other = self.document(random)?;
                while other == document {
                    other = self.document(random)?;
                }
                beginning(&other[random.random_range(0..other.len())..], random)
            }
        };
        Ok(Example { first: first.join(" "), second: Some((second, follows)) })
    }

    /// Every sentence once, or those of many stories.
    pub fn sentences(&self, random: &mut impl Rng) -> Result<Vec<String>> {
        const STORIES: usize = 20_000;
        match self {
            Self::Grammar(_) => {
                let stories = (0..STORIES).map(|_| self.document(random));
                Ok(stories.collect::<Result<Vec<_>>>()?.concat())
            }
            Self::Documents(all) => Ok(all.concat()),
        }
    }

    /// A digest, equal for equal texts.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        match self {
            Self::Grammar(_) => hasher.update(include_str!("grammar.txt")),
            Self::Documents(all) => hasher.update(format!("{all:?}")),
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Some of the first sentences.
fn beginning(sentences: &[String], random: &mut impl Rng) -> String {
    sentences[..random.random_range(1..=sentences.len().min(MOST))].join(" ")
}
