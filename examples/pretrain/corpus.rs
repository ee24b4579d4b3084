//! Sentences of everyday English from a grammar.
//!
//! `grammar.txt` has tables and stories. A table's first line is its name and its columns; `table pet =
//! animal: dog; cat` has some rows of another. A story's first line is its name and its roles: the
//! tables from which it draws a row each. Each further line is a thing to say:
//!
//! * ` | ` divides ways to say the same, `(a/b)` is a choice of words that does not change what is meant;
//! * `question => answer` is two sentences;
//! * `{role.column}` is a cell of the role's row, `{role}` is its first one;
//! * `[word]` can be told from the rest of its sentence;
//! * a line that begins with `~` is sometimes left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;
use sha2::{Digest, Sha256};

/// One sentence in this many is never learned from.
const HELD_BACK: u8 = 32;

/// A sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    pub text: String,
    /// Where its words are that can be told from the rest.
    pub determined: Vec<Range<usize>>,
}

impl Sentence {
    /// Whether it is kept for measuring. Only the sentence itself decides.
    pub fn is_held_back(&self) -> bool {
        Sha256::digest(self.text.to_lowercase())[0] % HELD_BACK == 0
    }

    /// With a mask for each word that can be told, and that word.
    pub fn masked(&self) -> impl Iterator<Item = (String, &str)> {
        self.determined.iter().map(|range| {
            let (before, after) = (&self.text[..range.start], &self.text[range.end..]);
            (format!("{before}[MASK]{after}"), &self.text[range.clone()])
        })
    }
}

/// Two ways to say the same, or a question and its answer.
#[derive(Clone, Debug)]
pub struct Paraphrases {
    pub texts: [Sentence; 2],
    /// Equal for everything that means the same.
    pub meaning: String,
}

impl Paraphrases {
    /// Whether it means something else, in other words.
    pub fn is_other_than(&self, other: &Self) -> bool {
        let is_new = |text: &Sentence| other.texts.iter().all(|it| it.text != text.text);
        self.meaning != other.meaning && self.texts.iter().all(is_new)
    }
}

/// Tables and stories.
#[derive(Debug, Default)]
pub struct Grammar {
    tables: BTreeMap<String, Table>,
    stories: Vec<Story>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Story {
    name: String,
    /// Names, and the tables of their rows.
    roles: Vec<(String, String)>,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    is_optional: bool,
    /// Ways to ask, if it is a question and its answer.
    question: Vec<String>,
    /// Ways to say it.
    statement: Vec<String>,
}

/// The row of each role.
type Cast<'a> = BTreeMap<&'a str, Row<'a>>;

#[derive(Clone, Copy)]
struct Row<'a> {
    columns: &'a [String],
    cells: &'a [String],
}

impl<'a> Row<'a> {
    /// A cell; without a column, the first.
    fn cell(&self, column: Option<&str>) -> Option<&'a str> {
        let index = match column {
            Some(column) => self.columns.iter().position(|it| it == column)?,
            None => 0,
        };
        self.cells.get(index).map(String::as_str)
    }
}

impl Grammar {
    /// The grammar of this example.
    pub fn english() -> Result<Self> {
        Self::parse(include_str!("grammar.txt"))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut grammar = Self::default();
        let is_header = |line: &str| line.starts_with("table ") || line.starts_with("story ");
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let lines: Vec<&str> = lines.collect();
        for item in lines.chunk_by(|_, next| !is_header(next)) {
            grammar.add(item[0], &item[1..]).with_context(|| item[0].to_owned())?;
        }
        Ok(grammar)
    }

    /// A table or a story.
    fn add(&mut self, header: &str, lines: &[&str]) -> Result<()> {
        let (title, rest) = header.split_once(':').context("no colon")?;
        let cells = |line: &str| line.split(';').map(|it| it.trim().to_owned()).collect::<Vec<_>>();
        if let Some(name) = title.strip_prefix("story ") {
            let roles = rest.split(',').map(|role| {
                let (name, table) = role.split_once('=').unwrap_or((role, role));
                let table = table.trim();
                ensure!(self.tables.contains_key(table), "no table {table}");
                Ok((name.trim().to_owned(), table.to_owned()))
            });
            let roles = roles.collect::<Result<_>>()?;
            let lines = lines.iter().map(|line| Line::parse(line)).collect();
            self.stories.push(Story { name: name.to_owned(), roles, lines });
        } else if let Some(name) = title.strip_prefix("table ") {
            let rest = cells(rest);
            let (name, table) = match name.split_once(" = ") {
                Some((name, other)) => {
                    let mut table = self.tables.get(other).context("no such table")?.clone();
                    table.rows.retain(|row| rest.contains(&row[0]));
                    ensure!(table.rows.len() == rest.len(), "a name that {other} does not have");
                    (name, table)
                }
                None => {
                    let rows = lines.iter().map(|line| cells(line)).collect();
                    (name, Table { columns: rest, rows })
                }
            };
            let is_whole = |row: &Vec<String>| row.len() == table.columns.len();
            ensure!(table.rows.iter().all(is_whole), "a row with other columns");
            self.tables.insert(name.to_owned(), table);
        } else {
            bail!("neither a table nor a story");
        }
        Ok(())
    }

    /// The sentences of a story.
    pub fn document(&self, random: &mut impl Rng) -> Result<Vec<Sentence>> {
        let story = self.stories.choose(random).context("no stories")?;
        let cast = self.cast(story, random)?;
        let mut sentences: Vec<Sentence> = Vec::new();
        for line in &story.lines {
            if line.is_optional && random.random() {
                continue;
            }
            for ways in [&line.question, &line.statement] {
                if let Some(way) = ways.choose(random) {
                    let sentence = say(way, &cast, random)?;
                    // Nobody says a thing twice.
                    if sentences.last().is_none_or(|last| last.text != sentence.text) {
                        sentences.push(sentence);
                    }
                }
            }
        }
        Ok(sentences)
    }

    /// Things that are said with one line of a story, each in two ways that differ, or as a question and
    /// its answer. Up to `count` different ones.
    pub fn paraphrases(&self, count: usize, random: &mut impl Rng) -> Result<Vec<Paraphrases>> {
        let mut found: Vec<Paraphrases> = Vec::new();
        while found.is_empty() {
            let story = self.stories.choose(random).context("no stories")?;
            let line = story.lines.choose(random).context("no lines")?;
            // The first answer says it in full.
            let answer = line.statement.first().context("no statement")?;
            let is_answered = !line.question.is_empty() && random.random();
            let asks_again = !line.question.is_empty() && random.random();
            for _ in 0..4 * count {
                let cast = self.cast(story, random)?;
                let [one, two] = match (is_answered, asks_again) {
                    (true, _) => [line.question.choose(random).context("no question")?, answer],
                    (_, true) => two_of(&line.question, random)?,
                    _ => two_of(&line.statement, random)?,
                };
                let texts = [say(one, &cast, random)?, say(two, &cast, random)?];
                let new = Paraphrases { texts, meaning: line.meaning(story, &cast)? };
                let is_other = found.iter().all(|it| new.is_other_than(it));
                if new.texts[0].text != new.texts[1].text && is_other && found.len() < count {
                    found.push(new);
                }
                if !one.contains('{') {
                    // It has the same answer whoever is asked.
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Draws a row for each role, all different.
    fn cast<'a>(&'a self, story: &'a Story, random: &mut impl Rng) -> Result<Cast<'a>> {
        let mut cast = Cast::new();
        let mut taken = BTreeSet::new();
        for (role, table) in &story.roles {
            let Table { columns, rows } = &self.tables[table];
            let rows: Vec<_> = rows.iter().filter(|row| !taken.contains(&row[0])).collect();
            let row = rows.choose(random).with_context(|| format!("no row for {role}"))?;
            taken.insert(&row[0]);
            cast.insert(role, Row { columns, cells: row });
        }
        Ok(cast)
    }
}

impl Line {
    fn parse(line: &str) -> Self {
        let ways = |text: &str| text.split('|').map(|way| way.trim().to_owned()).collect();
        let rest = line.strip_prefix('~').unwrap_or(line);
        let (question, statement) = match rest.split_once("=>") {
            Some((question, answer)) => (ways(question), ways(answer)),
            None => (Vec::new(), ways(rest)),
        };
        Self { is_optional: line.starts_with('~'), question, statement }
    }

    /// The line, and all cells that it speaks of.
    fn meaning(&self, story: &Story, cast: &Cast) -> Result<String> {
        let first = self.statement.first().context("an empty line")?;
        let mut meaning = format!("{}: {first}", story.name);
        let slots = self.question.iter().chain(&self.statement).flat_map(|way| way.split('{'));
        let slots = slots.filter_map(|it| Some(it.split_once('}')?.0)).collect::<BTreeSet<_>>();
        for slot in slots {
            meaning.push_str(&format!("; {slot} {}", cell(slot, cast)?));
        }
        Ok(meaning)
    }
}

/// The cell of a slot, `role` or `role.column`.
fn cell<'a>(slot: &str, cast: &Cast<'a>) -> Result<&'a str> {
    let (role, column) = slot.split_once('.').map_or((slot, None), |(r, c)| (r, Some(c)));
    let row = cast.get(role).with_context(|| format!("no role {role}"))?;
    row.cell(column).with_context(|| format!("no column {slot}"))
}

/// Two different ways, or twice the only one.
fn two_of<'a>(ways: &'a [String], random: &mut impl Rng) -> Result<[&'a String; 2]> {
    let mut two = ways.choose_multiple(random, 2);
    let first = two.next().context("no way to say it")?;
    Ok([first, two.next().unwrap_or(first)])
}

/// One way to say a thing.
fn say(way: &str, cast: &Cast, random: &mut impl Rng) -> Result<Sentence> {
    let mut text = way.to_owned();
    while let Some((before, rest)) = text.split_once('(') {
        let (choice, after) = rest.split_once(')').context("( without )")?;
        let words = choice.split('/').collect::<Vec<_>>();
        let word = words.choose(random).copied().unwrap_or_default();
        text = format!("{before}{word}{after}");
    }
    // Cells may have slots.
    while let Some((before, rest)) = text.split_once('{') {
        let (slot, after) = rest.split_once('}').context("{ without }")?;
        text = format!("{before}{}{after}", cell(slot, cast)?);
    }
    // A choice of nothing leaves a space.
    finish(&text.replace(" .", "."))
}

/// Writes `an` before vowels and a capital at the beginning, and takes the marks out.
fn finish(text: &str) -> Result<Sentence> {
    let mut sentence = Sentence { text: String::new(), determined: Vec::new() };
    let words: Vec<&str> = text.split_whitespace().collect();
    for (i, word) in words.iter().enumerate() {
        let next = words.get(i + 1).map_or("", |next| next.trim_start_matches('['));
        let is_vowel = next.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
        let plain = word.replace(['[', ']'], "");
        let plain = match &*plain {
            "a" if is_vowel => "an".to_owned(),
            "A" if is_vowel => "An".to_owned(),
            _ => plain,
        };
        if i > 0 {
            sentence.text.push(' ');
        }
        let start = sentence.text.len();
        if let Some(rest) = word.strip_prefix('[') {
            let length = rest.find(']').context("a mark around several words")?;
            sentence.determined.push(start..start + length);
        }
        sentence.text.push_str(&plain);
    }
    let first = sentence.text.chars().next().context("an empty sentence")?;
    sentence.text.replace_range(..first.len_utf8(), &first.to_uppercase().to_string());
    // After a full stop there is a capital too.
    for end in [". ", "? ", "! "] {
        let starts: Vec<usize> = sentence.text.match_indices(end).map(|(at, _)| at + 2).collect();
        for start in starts {
            if let Some(letter) = sentence.text.get(start..start + 1).map(str::to_uppercase) {
                sentence.text.replace_range(start..start + 1, &letter);
            }
        }
    }
    Ok(sentence)
}
