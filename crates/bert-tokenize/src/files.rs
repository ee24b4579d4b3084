//! The files of a tokenizer, and which of them counts for what.

/// The contents of a tokenizer's files; absent ones are `None`. One of the first two is needed.
///
/// What counts is what counts in transformers 5.23. The class is that of `tokenizer_config.json`, else
/// that of `config.json`. BERT's classes are `BertTokenizer` and those that are the same under another
/// name (`DistilBertTokenizer`, `ElectraTokenizer`, …), with and without `Fast`, and no class. A
/// `tokenizer.json` alone, without even a `config.json`, counts as for other classes.
///
/// | file | field | BERT's classes | other classes |
/// |---|---|---|---|
/// | `tokenizer.json` | model | counts; if it is no WordPiece, the whole file does, as for other classes | counts |
/// | | normalizer | counts, but for the flags below | counts |
/// | | pre-tokenizer, decoder | those of BERT instead | count |
/// | | post-processor | `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]` instead | counts |
/// | | added tokens | count without `added_tokens_decoder` | count |
/// | | truncation, padding | their sides count where `tokenizer_config.json` names none, and the padding token's name; the rest is ignored | the same |
/// | `vocab.txt` | | counts without `tokenizer.json` | an error without `tokenizer.json` |
/// | `tokenizer_config.json` | `do_lower_case`, `strip_accents`, `tokenize_chinese_chars` | count more than `tokenizer.json`'s normalizer; without both, lower case | ignored |
/// | | `added_tokens_decoder` | counts; the next two files are then ignored | the same |
/// | | `cls_token` and every other `…_token`, `extra_special_tokens`, `additional_special_tokens` | special tokens; `[CLS]`, `[SEP]`, `[PAD]`, `[MASK]`, `[UNK]` where it names none | special tokens |
/// | | `clean_up_tokenization_spaces`, `split_special_tokens`, `model_max_length` (or, without it, `max_len`), `truncation_side`, `padding_side` | count | count |
/// | `special_tokens_map.json` | the same names | count more than `tokenizer_config.json`'s | the same |
/// | `added_tokens.json` | | counts where `tokenizer.json` does not have the token | the same |
/// | `config.json` | `tokenizer_class` | counts without the other | the same |
///
/// These differ from transformers:
///
/// * Flags that `tokenizer_config.json` lacks are those of `tokenizer.json`; transformers lowers case.
/// * A vocabulary's lines keep their ids, also lines of white space (as in version 4) and repeated
///   lines, of which the last counts. Their places are never given to a new token.
/// * Added tokens that become one in lower case are all read as that with the lowest id; in
///   transformers the id differs from run to run.
/// * Unknown words become `[UNK]` also where only `added_tokens.json` has it.
/// * `null` for the `cls_token` or `sep_token` of BERT's classes means `[CLS]` and `[SEP]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// `vocab.txt`: a token per line.
    pub vocab: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a [u8]>,
    /// `config.json`, the model's.
    pub config: Option<&'a [u8]>,
}
