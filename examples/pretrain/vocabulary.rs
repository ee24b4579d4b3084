//! A WordPiece vocabulary, learned from texts. The same texts give the same vocabulary.

use anyhow::{Context, Result, anyhow, ensure};
use bert::{BertTokenizer, TokenizerFiles};
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::wordpiece::WordPieceTrainer;
use tokenizers::{AddedToken, Tokenizer};

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// The size in the paper, and the most that is learned unless another one is asked for.
const DEFAULT_SIZE: usize = 30_522;

/// Learns a vocabulary of `size` tokens, or of as many as the texts give. Every printable ASCII character
/// is in it.
pub fn train(sentences: &[String], size: Option<usize>) -> Result<BertTokenizer> {
    let printable = ('!'..='~').filter(|it| !it.is_uppercase());
    // Each character twice: at the beginning of a word and inside of it.
    let ascii: Vec<String> = printable.map(|it| format!("{it}{it}")).collect();
    let learn = |size: usize, first: &[String]| -> Result<Tokenizer> {
        let first = first.iter().map(|token| AddedToken::from(token.as_str(), true));
        let trainer = WordPieceTrainer::builder()
            .show_progress(false)
            .min_frequency(2)
            .vocab_size(size)
            .special_tokens(first.collect())
            .build();
        let error = |error: tokenizers::Error| anyhow!(error);
        let mut tokenizer = Tokenizer::from_bytes(file(&json!({})).to_string()).map_err(error)?;
        let texts = sentences.iter().chain(&ascii);
        let mut trainer = TrainerWrapper::WordPieceTrainer(trainer);
        tokenizer.train(&mut trainer, texts).map_err(error)?;
        Ok(tokenizer)
    };
    // The trainer numbers characters in another order each time, and ties are decided by numbers. So the
    // characters are found first, and then are the first tokens.
    let mut alphabet: Vec<String> = learn(0, &[])?.get_vocab(true).into_keys().collect();
    alphabet.sort_by_key(|token| (token.starts_with("##"), token.clone()));
    let first = [&SPECIAL.map(str::to_owned), &alphabet[..]].concat();
    // The trainer takes memory for the size that it is asked for. Each further token merges a pair that occurs,
    // so there are fewer than bytes: normalizing makes at most three letters of a syllable of three bytes.
    let bytes: usize = sentences.iter().map(String::len).sum();
    let most = first.len() + 2 * ascii.len() + bytes;
    let tokenizer = learn(size.unwrap_or(DEFAULT_SIZE).min(most), &first)?;
    let got = tokenizer.get_vocab_size(true);
    if let Some(size) = size {
        ensure!(got >= size, "--vocab-size is {size}: these texts give at most {got} tokens");
        ensure!(got == size, "--vocab-size is {size}: the alphabet alone takes {got} tokens");
    }
    let mut tokens: Vec<(String, u32)> = tokenizer.get_vocab(true).into_iter().collect();
    tokens.sort_by_key(|(_, id)| *id);
    let vocab: Map<String, Value> = tokens.into_iter().map(|(it, id)| (it, id.into())).collect();
    // transformers' BertTokenizer does not cut long words.
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    });
    for token in SPECIAL {
        settings[format!("{}_token", token.trim_matches(['[', ']']).to_lowercase())] = token.into();
    }
    BertTokenizer::from_files(&TokenizerFiles {
        tokenizer: Some(file(&vocab.into()).to_string().as_bytes()),
        tokenizer_config: Some(settings.to_string().as_bytes()),
        ..TokenizerFiles::default()
    })
    .context("the new vocabulary")
}

/// A `tokenizer.json` with these words, or with none.
fn file(vocab: &Value) -> Value {
    let token = |id: &str, type_id: u8| json!({"SpecialToken": {"id": id, "type_id": type_id}});
    let text = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
    let single = vec![token("[CLS]", 0), text("A", 0), token("[SEP]", 0)];
    let pair = [&single[..], &[text("B", 1), token("[SEP]", 1)]].concat();
    let special = |id: usize| json!({"id": SPECIAL[id], "ids": [id], "tokens": [SPECIAL[id]]});
    let added = SPECIAL.iter().enumerate().filter(|(_, token)| vocab.get(token).is_some());
    let added = added.map(|(id, token)| {
        json!({
            "id": id, "content": token, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        // Words longer than WordPiece reads are cut, so that they do not become [UNK].
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "BertPreTokenizer"}, {"type": "FixedLength", "length": 64},
        ]},
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": {"[CLS]": special(2), "[SEP]": special(3)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 64, "vocab": vocab,
        },
    })
}

/// The content of a `vocab.txt`.
pub fn vocab_txt(tokenizer: &BertTokenizer) -> String {
    let tokens = (0..tokenizer.vocab_size()).map_while(|id| tokenizer.id_to_token(id as u32));
    tokens.map(|token| token + "\n").collect()
}
