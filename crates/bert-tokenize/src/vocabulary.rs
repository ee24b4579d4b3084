//! The words of a WordPiece tokenizer and their ids.

use std::collections::{BTreeSet, HashSet};

use ahash::AHashMap;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{AddedToken, Model};

use crate::error::{Error, Result};

/// The lines of a `vocab.txt`, as transformers 4.57's `load_vocab` reads them: white space is a part of
/// a token, and of equal lines the last counts.
pub(crate) fn read(bytes: &[u8]) -> Result<AHashMap<String, u32>> {
    let broken = |reason: String| Error::File { file: "vocab.txt", reason };
    let text = std::str::from_utf8(bytes).map_err(|error| broken(error.to_string()))?;
    // Python's text files end a line at any of \r\n, \r and \n, and at nothing else.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
    Ok(lines.enumerate().map(|(id, line)| (line.to_owned(), id as u32)).collect())
}

/// The model with `unk`, and with a token for every id below its largest one: the library gives a new
/// token the id that is the number of tokens.
pub(crate) fn complete(
    model: &WordPiece,
    unk: &str,
    added: &[(Option<u32>, AddedToken)],
) -> Result<WordPiece> {
    let mut vocab: AHashMap<String, u32> = model.get_vocab().into_iter().collect();
    if !vocab.contains_key(unk) {
        let id = added.iter().find(|(_, token)| token.content == unk).and_then(|(id, _)| *id);
        let reason = || format!("the special token {unk} is not in it");
        let id = id.ok_or_else(|| Error::File { file: "the vocabulary", reason: reason() })?;
        vocab.insert(unk.to_owned(), id);
    }
    let used: HashSet<u32> = vocab.values().copied().collect();
    let end = used.iter().max().map_or(0, |id| *id as usize + 1);
    // A file that names an absurd id gets no tokens for it.
    if end <= 2 * vocab.len() {
        let mut gaps: BTreeSet<u32> = (0..end as u32).filter(|id| !used.contains(id)).collect();
        for (id, token) in added {
            if let Some(id) =
                id.filter(|id| gaps.contains(id) && !vocab.contains_key(&token.content))
            {
                gaps.remove(&id);
                vocab.insert(token.content.clone(), id);
            }
        }
        // No word has a space in it, so these are never found in a text.
        vocab.extend(gaps.into_iter().map(|id| (format!("[no token {id}]"), id)));
    }
    WordPiece::builder()
        .vocab(vocab)
        .unk_token(unk.to_owned())
        .continuing_subword_prefix(model.continuing_subword_prefix.clone())
        .max_input_chars_per_word(model.max_input_chars_per_word)
        .build()
        .map_err(Error::Syntax)
}
