//! Special tokens around texts, as a template says.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::PostProcessorWrapper;
use tokenizers::processors::template::TemplateProcessing;

use crate::checks::json;
use crate::encoding::Encoding;

/// The templates of a tokenizer. The tokenizers library does the same with more copies.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    single: Vec<Piece>,
    pair: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Special { ids: Vec<u32>, tokens: Vec<String>, type_id: u32 },
    Sequence { index: usize, type_id: u32 },
}

impl Template {
    /// The template that a post-processor is, if it is one.
    pub(crate) fn of(processor: Option<&PostProcessorWrapper>) -> Option<Self> {
        let template = match processor {
            Some(PostProcessorWrapper::Template(template)) => json(Some(template)).ok()?,
            Some(_) => return None,
            None => json(Some(&without_special_tokens())).ok()?,
        };
        let pieces = |key: &str| -> Option<Vec<Piece>> {
            template[key].as_array()?.iter().map(|it| Piece::read(it, &template)).collect()
        };
        Some(Self { single: pieces("single")?, pair: pieces("pair")? })
    }

    /// The encoding of a text or pair.
    pub(crate) fn apply(
        &self,
        sequences: &[tokenizers::Encoding],
        add_special_tokens: bool,
    ) -> Encoding {
        let pieces = if sequences.len() == 1 { &self.single } else { &self.pair };
        let mut encoding = Encoding::with_capacity(sequences.iter().map(|it| it.len() + 2).sum());
        for piece in pieces {
            match piece {
                Piece::Special { ids, tokens, type_id } if add_special_tokens => {
                    for (id, token) in ids.iter().zip(tokens) {
                        encoding.push_special(*id, token, *type_id, 1);
                    }
                }
                Piece::Special { .. } => {}
                Piece::Sequence { index, type_id } => {
                    encoding.extend(&sequences[*index], *index, *type_id);
                }
            }
        }
        encoding
    }
}

/// What a tokenizer without a post-processor does.
pub(crate) fn without_special_tokens() -> TemplateProcessing {
    TemplateProcessing::builder().build().unwrap_or_default()
}

impl Piece {
    fn read(piece: &Value, template: &Value) -> Option<Self> {
        let type_id = |it: &Value| u32::try_from(it["type_id"].as_u64()?).ok();
        if let Some(sequence) = piece.get("Sequence") {
            let index = usize::from(sequence["id"] != "A");
            return Some(Self::Sequence { index, type_id: type_id(sequence)? });
        }
        let special = piece.get("SpecialToken")?;
        let token = &template["special_tokens"][special["id"].as_str()?];
        Some(Self::Special {
            ids: Vec::deserialize(&token["ids"]).ok()?,
            tokens: Vec::deserialize(&token["tokens"]).ok()?,
            type_id: type_id(special)?,
        })
    }
}
